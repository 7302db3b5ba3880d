//! Sentence embeddings: a BERT encoder (arXiv 1908.10084) by candle.

mod encoder;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Status, Thread};
use crate::telemetry::WorkerMetrics;
use crate::types::{Embed, Embedded, Failure, Progress};
use crate::worker::{Health, Worker};
use encoder::Encoder;

/// What an embedding worker is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BertOptions {
    /// Its name.
    pub name: String,
    /// A folder as sentence-transformers writes it.
    pub weights: PathBuf,
    /// Requests that may be on their way at once.
    pub slots: u32,
}

/// A handle on an encoder's thread, which ends when the last handle is gone.
pub struct Bert {
    name: String,
    slots: u32,
    status: Arc<Status<Encoder>>,
    thread: Thread<Job>,
}

struct Job {
    request: Embed,
    progress: Arc<Progress>,
    reply: oneshot::Sender<Result<Embedded, Failure>>,
}

impl Bert {
    /// Starts the encoder's thread, which loads the model and then waits for requests.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(options: BertOptions, metrics: WorkerMetrics) -> std::io::Result<Self> {
        let status = Arc::new(Status::loading(metrics.clone()));
        let (name, slots) = (options.name.clone(), options.slots);
        let bound = 2 * slots as usize;
        let told = Arc::clone(&status);
        let thread = Thread::start(format!("bert-{name}"), bound, told, move |queue, status| {
            let encoder = Arc::new(Encoder::load(&options.weights)?);
            tracing::info!(worker = options.name, "ready");
            status.ready(Arc::clone(&encoder));
            run(&encoder, queue, &metrics);
            Ok(())
        })?;
        Ok(Self {
            name,
            slots,
            status,
            thread,
        })
    }
}

fn run(encoder: &Encoder, queue: &Receiver<Job>, metrics: &WorkerMetrics) {
    while let Ok(job) = queue.recv() {
        if job.reply.is_closed() {
            continue;
        }
        metrics.running.set(1);
        let done = encoder.embed(&texts(&job.request.inputs), &job.progress, || {
            job.reply.is_closed()
        });
        if let Ok(embedded) = &done {
            metrics.prefill_tokens.inc_by(embedded.prompt_tokens.into());
        }
        metrics.steps.inc();
        metrics.running.set(0);
        // Whoever asked may have gone.
        let _gone = job.reply.send(done);
    }
}

#[async_trait]
impl Worker for Bert {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> usize {
        self.slots as usize
    }

    fn health(&self) -> Health {
        self.status.health()
    }

    async fn embed(&self, request: Embed, progress: Arc<Progress>) -> Result<Embedded, Failure> {
        self.status.loaded()?;
        let (reply, answer) = oneshot::channel();
        self.thread.send(Job {
            request,
            progress,
            reply,
        })?;
        let ended = |_| Failure::Broken("its thread has ended".into());
        answer.await.map_err(ended)?
    }
}

fn texts(inputs: &[crate::types::Input]) -> Vec<String> {
    inputs
        .iter()
        .map(|input| match input {
            crate::types::Input::Text(text) => text.clone(),
            crate::types::Input::Tokens(_) => String::new(),
        })
        .collect()
}
