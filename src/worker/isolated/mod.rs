//! An engine in a process of its own, a child of this one running the same binary: what llama.cpp answers with an
//! abort, and what the system's memory killer takes, is a worker, and never the gateway and its books.
//!
//! `wire.rs` is what both sides say. The gateway's side is an [`Isolated`] (the handle), `link.rs` (the requests
//! that are open, and their counts) and `supervisor.rs` (the thread that keeps a process running). The other side
//! is `child.rs`. `process.rs` is how a process is started and tied to its parent, and `probe.rs` finds out
//! whether weights can be loaded at all.

mod child;
mod link;
mod probe;
mod process;
mod supervisor;
mod wire;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::Semaphore;

pub use child::run_child;
pub(super) use probe::probe;

use super::{Health, Options, Worker};
use crate::telemetry::WorkerMetrics;
use crate::types::{EmbedJob, Embedded, Events, Failure, Job, Progress, Tokenize, Tokenized};
use link::{Call, Link};
use supervisor::Supervisor;
use wire::{Down, Reply};

/// Why a worker's process ends in disorder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was started by hand.
    #[error("`forebay worker` is started by `forebay serve` alone")]
    NoParent,
    /// The parent said something at the wrong time.
    #[error("the parent breaks the protocol")]
    Order,
    /// The worker can't be started, or had a fault.
    #[error("{0}")]
    Worker(String),
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A message.
    #[error("{0}")]
    Wire(String),
}

impl From<wire::WireError> for Error {
    fn from(error: wire::WireError) -> Self {
        Self::Wire(error.to_string())
    }
}

/// A worker in a process of its own, which is started anew when it dies. Dropped, it waits for the process.
pub struct Isolated {
    name: String,
    capacity: usize,
    link: Arc<Link>,
    /// Prompts that are taken apart or put together at once: they shall not take the places of answers.
    tokenizing: Semaphore,
    _supervisor: Supervisor,
}

const TOKENIZING: usize = 4;

impl Isolated {
    /// Starts the thread that starts the process.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(options: Options, metrics: WorkerMetrics) -> io::Result<Self> {
        let (name, capacity) = (options.name().to_owned(), options.capacity());
        let start = wire::encode(&Down::Start(options)).map_err(io::Error::other)?;
        let restarts = metrics.restarts.clone();
        // Twice the capacity: those that run, and those that come while cancelled ones still leave.
        let link = Arc::new(Link::new(2 * capacity, metrics));
        let linked = Arc::clone(&link);
        let supervisor = Supervisor::start(name.clone(), start, linked, move || restarts.inc())?;
        Ok(Self {
            name,
            capacity,
            link,
            tokenizing: Semaphore::new(TOKENIZING),
            _supervisor: supervisor,
        })
    }
}

#[async_trait]
impl Worker for Isolated {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn health(&self) -> Health {
        self.link.health()
    }

    async fn generate(&self, job: Job, progress: Arc<Progress>) -> Result<Events, Failure> {
        let mut call = self.link.open(progress, |id| Down::Generate { id, job })?;
        match call.next().await {
            Some(Reply::Started) => Ok(Box::pin(stream::unfold(call, next_event))),
            Some(Reply::Failed(failure)) => Err(failure),
            _ => Err(out_of_order()),
        }
    }

    async fn embed(&self, job: EmbedJob, progress: Arc<Progress>) -> Result<Embedded, Failure> {
        let mut call = self.link.open(progress, |id| Down::Embed {
            id,
            request: Arc::unwrap_or_clone(job.request),
        })?;
        match call.next().await {
            Some(Reply::Embedded(embedded)) => Ok(embedded),
            Some(Reply::Failed(failure)) => Err(failure),
            _ => Err(out_of_order()),
        }
    }

    async fn tokenize(&self, _: &str, ask: Tokenize) -> Result<Tokenized, Failure> {
        let _turn = self.tokenizing.acquire().await;
        let mut call = self
            .link
            .open(Arc::default(), |id| Down::Tokenize { id, ask })?;
        match call.next().await {
            Some(Reply::Tokenized(tokenized)) => Ok(tokenized),
            Some(Reply::Failed(failure)) => Err(failure),
            _ => Err(out_of_order()),
        }
    }

    async fn detokenize(&self, _: &str, tokens: Vec<u32>) -> Result<String, Failure> {
        let _turn = self.tokenizing.acquire().await;
        let mut call = self
            .link
            .open(Arc::default(), |id| Down::Detokenize { id, tokens })?;
        match call.next().await {
            Some(Reply::Text(text)) => Ok(text),
            Some(Reply::Failed(failure)) => Err(failure),
            _ => Err(out_of_order()),
        }
    }
}

async fn next_event(mut call: Call) -> Option<(Result<crate::types::Event, Failure>, Call)> {
    let event = match call.next().await? {
        Reply::Event(event) => Ok(event),
        Reply::Failed(failure) => Err(failure),
        Reply::Started
        | Reply::Counted
        | Reply::Embedded(_)
        | Reply::Tokenized(_)
        | Reply::Text(_) => Err(out_of_order()),
    };
    Some((event, call))
}

fn out_of_order() -> Failure {
    Failure::Broken("its engine's process breaks the protocol".into())
}
