//! llama.cpp's kernels under Forebay's own continuous batching.
//!
//! One thread owns the context and steps it; a [`Llama`] is the handle that sends it sequences. Prompts are
//! rendered and tokenised by the callers, so that the loop does nothing but compute.

mod engine;
mod layout;
mod model;
mod sequence;
mod trial;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Status, Thread, threads};
use crate::telemetry::WorkerMetrics;
use crate::types::{Events, Failure, Layout, Progress};
use crate::worker::{Health, Worker};
use engine::{Engine, Settings};
use model::Model;
use sequence::Job;
pub(in crate::worker) use trial::try_load;

/// Events that may wait for a slow reader; then its sequence pauses.
const EVENTS: usize = 64;

/// What a llama worker is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LlamaOptions {
    /// Its name.
    pub name: String,
    /// A GGUF file.
    pub weights: PathBuf,
    /// Sequences in the batch.
    pub slots: u32,
    /// Tokens that one sequence may have.
    pub context_tokens: u32,
    /// Prompt tokens in a step while others generate.
    pub step_tokens: u32,
    /// How the weights are kept.
    pub layout: Layout,
    /// Where re-laid copies are kept.
    pub layouts: PathBuf,
    /// Where it is kept which files were tried in a process of their own before they are loaded into this one.
    /// None where they need not be: this process may die of them.
    pub trials: Option<PathBuf>,
    /// Threads that compute.
    pub threads: Option<u32>,
}

/// A handle on an engine's thread, which ends when the last handle is gone.
pub struct Llama {
    name: String,
    slots: u32,
    status: Arc<Status<Model>>,
    thread: Thread<Job>,
}

impl Llama {
    /// Starts the engine's thread, which loads the model and then waits for requests.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(options: LlamaOptions, metrics: WorkerMetrics) -> std::io::Result<Self> {
        let status = Arc::new(Status::loading(metrics.clone()));
        let (name, slots) = (options.name.clone(), options.slots);
        // Twice the slots: those that run, and those that come while cancelled ones still leave.
        let bound = 2 * slots as usize;
        let told = Arc::clone(&status);
        let thread = Thread::start(
            format!("llama-{name}"),
            bound,
            told,
            move |queue, status| load_and_run(&options, queue, metrics, status),
        )?;
        Ok(Self {
            name,
            slots,
            status,
            thread,
        })
    }
}

fn load_and_run(
    options: &LlamaOptions,
    queue: &Receiver<Job>,
    metrics: WorkerMetrics,
    status: &Status<Model>,
) -> Result<(), String> {
    let threads = threads(options.threads);
    trial::check_memory(&options.weights)?;
    if let Some(trials) = &options.trials {
        trial::try_once(&options.weights, trials)?;
    }
    let weights = layout::choose(&options.weights, options.layout, &options.layouts, threads)?;
    let model = Arc::new(Model::load(&weights, options.context_tokens)?);
    let settings = Settings {
        slots: options.slots as usize,
        step_tokens: options.step_tokens as usize,
        threads,
    };
    let engine = Engine::new(&model, settings, queue, metrics)?;
    tracing::info!(worker = options.name, "ready");
    status.ready(Arc::clone(&model));
    engine.run();
    Ok(())
}

#[async_trait]
impl Worker for Llama {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> usize {
        self.slots as usize
    }

    fn health(&self) -> Health {
        self.status.health()
    }

    async fn generate(
        &self,
        job: crate::types::Job,
        progress: Arc<Progress>,
    ) -> Result<Events, Failure> {
        let request = job.request;
        let model = self.status.loaded()?;
        // A long prompt takes milliseconds to tokenise, which other requests' tasks shall not wait for.
        let prompt = request.prompts[0].clone();
        let prepared = tokio::task::spawn_blocking(move || model.prepare(&prompt));
        let prompt = prepared
            .await
            .map_err(|_| Failure::Broken("the prompt could not be prepared".into()))??;
        let (sender, events) = mpsc::channel(EVENTS);
        let job = Job::new(prompt, request, sender, progress);
        self.thread.send(job)?;
        Ok(Box::pin(ReceiverStream::new(events)))
    }
}
