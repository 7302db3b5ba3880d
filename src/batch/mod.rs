//! Batches: files of requests that are answered when there is room, in the batch class.
//!
//! One replica works on a batch at a time, for as long as it says so. Each line is a request like any other, that has no client:
//! it sees nothing before its end, and pays at the end alone, so a line that was cut off is asked again.

mod answers;
mod line;
mod lines;
mod validate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::telemetry::Metrics;
use crate::types::{
    Batch, BatchHold, BatchStatus, BatchStep, Caller, Endpoint, Paying, ReplicaId, RequestId,
    Store, StoreError,
};

/// The longest line.
const LONGEST_LINE: usize = 16 << 20;
/// Batches that one process works on at once.
const AT_ONCE: usize = 64;
/// How often it is looked whether there is one.
const EVERY: Duration = Duration::from_secs(1);
/// For how long a batch is held; it is held anew each third of that.
const HOLD: Duration = Duration::from_secs(30);
/// A batch that the store broke off is taken up again after so long.
const AGAIN: Duration = Duration::from_secs(3);

/// A line on its way to the gateway.
pub struct Asked {
    /// Who pays.
    pub caller: Caller,
    /// Where it goes.
    pub endpoint: Endpoint,
    /// What it is called.
    pub request: RequestId,
    /// When it pays.
    pub paying: Paying,
    /// The body, as a client would send it.
    pub body: Bytes,
}

/// What the gateway says to it, as a client would see it.
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// How long to stay away, where it is to come again.
    pub retry_after: Option<Duration>,
    /// It shall not come again.
    pub is_final: bool,
    /// JSON.
    pub body: Bytes,
}

/// Answers requests as it would answer clients.
#[async_trait]
pub trait Door: Send + Sync {
    /// The answer, once it is there whole and charged.
    async fn ask(&self, asked: Asked) -> Answered;
}

/// What batches are bound by.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a batch may take.
    pub window: Duration,
    /// Lines of one batch.
    pub max_lines: u64,
    /// Lines of all batches that are under way at once.
    pub lines_at_once: usize,
    /// How long lines that are under way may go on once the process is told to stop.
    pub drain: Duration,
}

/// What the one who takes batches in shares with the one who runs them.
pub struct Batches {
    /// What they are bound by.
    pub options: Options,
    wake: Notify,
    stop: CancellationToken,
}

impl Batches {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            wake: Notify::new(),
            stop: CancellationToken::new(),
        }
    }

    /// There is a new batch, or one that is given up.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// No line is begun any more.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// Runs the batches of a store.
pub struct Runner {
    store: Arc<dyn Store>,
    door: Arc<dyn Door>,
    batches: Arc<Batches>,
    metrics: Arc<Metrics>,
    hold: BatchHold,
    room: Arc<Semaphore>,
}

/// Why work on a batch ends early.
enum Halt {
    /// Another replica has it, or may have it soon.
    Lost,
    /// The process ends.
    Stopped,
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A batch that is worked on.
struct Work {
    runner: Arc<Runner>,
    batch: Batch,
    /// No line is to be begun: the batch is given up, its time is over, or the process ends.
    close: CancellationToken,
    /// Another replica may have it: what is under way is cut off.
    lost: CancellationToken,
}

impl Runner {
    /// `alone` says that no other process can run batches of this store.
    pub fn new(
        store: Arc<dyn Store>,
        door: Arc<dyn Door>,
        batches: Arc<Batches>,
        metrics: Arc<Metrics>,
        alone: bool,
    ) -> Self {
        Self {
            room: Arc::new(Semaphore::new(batches.options.lines_at_once)),
            store,
            door,
            batches,
            metrics,
            hold: BatchHold {
                replica: ReplicaId::mint(),
                lasts: HOLD,
                alone,
            },
        }
    }

    /// Runs them until it is told to stop, and what is under way for a while longer.
    pub async fn run(self) {
        let runner = Arc::new(self);
        let stop = runner.batches.stop.clone();
        let mut running = JoinSet::new();
        while !stop.is_cancelled() {
            while running.len() < AT_ONCE {
                match runner.store.take_batch(&runner.hold).await {
                    Ok(Some(batch)) => running.spawn(Arc::clone(&runner).work(batch)),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "batches could not be looked for");
                        break;
                    }
                };
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = runner.batches.wake.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
                Some(_) = running.join_next() => {}
            }
        }
        let all = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(runner.batches.options.drain, all)
            .await
            .is_err()
        {
            tracing::warn!("lines of batches are cut off, and asked again at the next start");
        }
        running.shutdown().await;
    }

    async fn work(self: Arc<Self>, batch: Batch) {
        let id = batch.id.clone();
        let close = self.batches.stop.child_token();
        let work = Work {
            runner: Arc::clone(&self),
            batch,
            lost: CancellationToken::new(),
            close,
        };
        let (close, lost) = (work.close.clone(), work.lost.clone());
        let _holding = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&self).keep(
            work.batch.clone(),
            close,
            lost,
        )));
        let done = work.run().await;
        match done {
            Ok(()) => tracing::info!(batch = %id, "a batch is over"),
            Err(Halt::Stopped) if self.batches.stop.is_cancelled() => {}
            Err(Halt::Stopped) => {
                tracing::warn!(batch = %id, "a batch was broken off, and is taken up again");
                tokio::time::sleep(AGAIN).await;
            }
            Err(Halt::Lost) => tracing::warn!(batch = %id, "another replica has the batch"),
            Err(Halt::Store(error)) => {
                tracing::warn!(batch = %id, %error, "a batch was broken off, and is taken up again");
                tokio::time::sleep(AGAIN).await;
            }
        }
        // Where that fails too it is tried until the store is back: nobody else would take it up before.
        while let Err(error) = self.store.leave_batch(&id, &self.hold.replica).await {
            tracing::debug!(%error, "a batch could not be left");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Holds a batch for as long as it is worked on, and tells once it is given up, which may happen in another process.
    async fn keep(
        self: Arc<Self>,
        batch: Batch,
        close: CancellationToken,
        lost: CancellationToken,
    ) {
        let mut held = Instant::now();
        // By the own clock, and sooner than by the store's.
        while held.elapsed() < HOLD / 3 * 2 {
            tokio::time::sleep(EVERY).await;
            let begun = Instant::now();
            let now = if held.elapsed() > HOLD / 3 {
                let now = self.store.hold_batch(&batch.id, &self.hold).await;
                if matches!(now, Ok(None)) {
                    break;
                }
                if now.is_ok() {
                    held = begun;
                }
                now
            } else {
                let project = &batch.caller.project;
                let now = self.store.find_batch(project, batch.id.as_str()).await;
                now.map(Some)
            };
            match now {
                Ok(Some(now)) if now.status == BatchStatus::Cancelling => close.cancel(),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a batch could not be held"),
            }
        }
        close.cancel();
        lost.cancel();
    }
}

impl Work {
    async fn run(mut self) -> Result<(), Halt> {
        if self.batch.status == BatchStatus::Validating && !self.validate().await? {
            return Ok(());
        }
        if matches!(
            self.batch.status,
            BatchStatus::InProgress | BatchStatus::Cancelling
        ) {
            self.answer_lines().await?;
            self.look().await?;
        }
        let end = self.end();
        if end == BatchStatus::Completed && self.batch.status == BatchStatus::InProgress {
            self.step(&[BatchStatus::InProgress], BatchStatus::Finalizing)
                .await?;
        }
        let files = self.write_answers(end).await?;
        let step = BatchStep {
            from: &[
                BatchStatus::InProgress,
                BatchStatus::Finalizing,
                BatchStatus::Cancelling,
            ],
            to: Some(end),
            files,
            ..BatchStep::default()
        };
        self.runner.store.step_batch(&self.batch.id, &step).await?;
        while self.runner.store.forget_lines(&self.batch.id).await? {}
        Ok(())
    }

    /// The end that it comes to as it is now.
    fn end(&self) -> BatchStatus {
        match self.batch.status {
            BatchStatus::Cancelling => BatchStatus::Cancelled,
            BatchStatus::InProgress if !self.is_answered() => BatchStatus::Expired,
            _ => BatchStatus::Completed,
        }
    }

    fn is_answered(&self) -> bool {
        let counts = &self.batch.counts;
        counts.completed + counts.failed >= counts.total
    }

    fn is_late(&self) -> bool {
        self.batch.expires <= Timestamp::now()
    }

    /// How it stands now. Stops where nothing is to be done any more.
    async fn look(&mut self) -> Result<(), Halt> {
        if self.lost.is_cancelled() {
            return Err(Halt::Lost);
        }
        let store = &self.runner.store;
        let batch = store.hold_batch(&self.batch.id, &self.runner.hold).await?;
        self.batch = batch.ok_or(Halt::Lost)?;
        let unfinished = self.batch.status == BatchStatus::InProgress && !self.is_answered();
        if unfinished && !self.is_late() {
            return Err(Halt::Stopped);
        }
        Ok(())
    }

    async fn step(&mut self, from: &'static [BatchStatus], to: BatchStatus) -> Result<(), Halt> {
        let step = BatchStep {
            from,
            to: Some(to),
            ..BatchStep::default()
        };
        self.runner.store.step_batch(&self.batch.id, &step).await?;
        // It may have been given up in between.
        self.look().await
    }
}
