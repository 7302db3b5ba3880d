//! Engines inside this process.

mod bert;
mod llama;
#[cfg(feature = "mistralrs")]
mod mistralrs;
mod prompt;
mod sampling;
mod text;

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use bert::{Bert, BertOptions};
pub use llama::{Llama, LlamaOptions};
#[cfg(feature = "mistralrs")]
pub use mistralrs::{Mistral, MistralOptions};

use crate::telemetry::WorkerMetrics;
use crate::types::Failure;
use crate::worker::Health;

/// What an engine's thread tells its handle: still loading, loaded with this, or broken.
struct Status<T> {
    state: Mutex<State<T>>,
    metrics: WorkerMetrics,
}

enum State<T> {
    Loading,
    Ready(Arc<T>),
    Failed(String),
}

impl<T> Status<T> {
    fn loading(metrics: WorkerMetrics) -> Self {
        metrics.ready.set(0);
        Self {
            state: Mutex::new(State::Loading),
            metrics,
        }
    }

    fn ready(&self, loaded: Arc<T>) {
        self.metrics.ready.set(1);
        self.set(State::Ready(loaded));
    }

    fn failed(&self, reason: String) {
        self.metrics.ready.set(0);
        self.set(State::Failed(reason));
    }

    fn set(&self, state: State<T>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn health(&self) -> Health {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Loading => Health::Loading,
            State::Ready(_) => Health::Ready,
            State::Failed(reason) => Health::Failed(reason.clone()),
        }
    }

    fn loaded(&self) -> Result<Arc<T>, Failure> {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Loading => Err(Failure::NotReady("it is being loaded".into())),
            State::Ready(loaded) => Ok(Arc::clone(loaded)),
            State::Failed(reason) => Err(Failure::NotReady(reason.clone())),
        }
    }
}

/// An engine's thread and the way to it. Dropped, it waits for the thread: C++ must not be at work while the
/// process ends.
struct Thread<J> {
    /// Gone before the thread is joined, which is what ends it.
    jobs: Option<SyncSender<J>>,
    handle: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> Thread<J> {
    fn start(
        name: String,
        bound: usize,
        run: impl FnOnce(Receiver<J>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(bound);
        let handle = std::thread::Builder::new()
            .name(name)
            .spawn(move || run(queue))?;
        Ok(Self {
            jobs: Some(jobs),
            handle: Some(handle),
        })
    }

    fn send(&self, job: J) -> Result<(), Failure> {
        let sent = self.jobs.as_ref().map(|jobs| jobs.try_send(job));
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(Failure::Broken("its queue is full".into())),
            Some(Err(TrySendError::Disconnected(_))) | None => {
                Err(Failure::Broken("its thread has ended".into()))
            }
        }
    }
}

impl<J> Drop for Thread<J> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("an engine's thread panicked");
        }
    }
}

/// As many threads as the machine lets us have cores, unless told otherwise.
fn threads(asked: Option<u32>) -> usize {
    asked.map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from),
        |threads| threads as usize,
    )
}
