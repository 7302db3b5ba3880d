//! Engines inside this process.

mod bert;
mod constrain;
mod llama;
#[cfg(feature = "mistralrs")]
mod mistralrs;
mod prompt;
mod sampling;
mod text;
mod tools;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use bert::{Bert, BertOptions};
pub(super) use llama::try_load;
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
    /// Runs an engine. However that ends, by an error or a panic too, the status says so: a worker that is
    /// gone must not look ready.
    fn start<T: Send + Sync + 'static>(
        name: String,
        bound: usize,
        status: Arc<Status<T>>,
        run: impl FnOnce(&Receiver<J>, &Status<T>) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(bound);
        let worker = name.clone();
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| run(&queue, &status)));
            let reason = match ended {
                Ok(Ok(())) => "it was stopped".to_owned(),
                Ok(Err(reason)) => {
                    tracing::error!(worker, reason, "the engine has ended");
                    reason
                }
                Err(_) => {
                    tracing::error!(worker, "the engine panicked");
                    "its engine had a fault".to_owned()
                }
            };
            status.failed(reason);
        })?;
        Ok(Self {
            jobs: Some(jobs),
            handle: Some(handle),
        })
    }

    fn send(&self, job: J) -> Result<(), Failure> {
        let sent = self.jobs.as_ref().map(|jobs| jobs.try_send(job));
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(Failure::Busy),
            Some(Err(TrySendError::Disconnected(_))) | None => {
                Err(Failure::Broken("its thread has ended".into()))
            }
        }
    }
}

impl<J> Drop for Thread<J> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take() {
            // It has caught its own panic.
            let _ended = handle.join();
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

/// A long prompt takes milliseconds, which other requests' tasks shall not wait for.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Failure::Broken("the prompt could not be taken apart".into()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn status() -> Arc<Status<()>> {
        let status = Status::loading(Metrics::new().unwrap().worker("w"));
        status.ready(Arc::new(()));
        Arc::new(status)
    }

    #[test]
    fn an_engine_that_panics_is_not_ready_any_more() {
        let status = status();
        let thread = Thread::<()>::start("t".into(), 1, Arc::clone(&status), |queue, _| {
            queue.recv().map_err(|error| error.to_string())?;
            panic!("a fault");
        });
        let thread = thread.unwrap();
        thread.send(()).unwrap();
        drop(thread);
        assert!(matches!(status.health(), Health::Failed(_)));
    }

    #[test]
    fn a_full_queue_is_told_as_busy_which_is_no_fault() {
        let (go, wait) = sync_channel::<()>(0);
        let thread = Thread::<()>::start("t".into(), 1, status(), move |_, _| {
            wait.recv().map_err(|error| error.to_string())
        });
        let thread = thread.unwrap();
        thread.send(()).unwrap();
        let refused = thread.send(()).unwrap_err();
        assert!(matches!(refused, Failure::Busy) && refused.is_refusal());
        go.send(()).unwrap();
    }
}
