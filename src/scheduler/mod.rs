//! Bounded queues in front of the workers: a request waits for a slot, or is told at once that it can't.

mod pool;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

pub use pool::Limits;

use crate::telemetry::Metrics;
use crate::types::{
    Class, Embed, Embedded, Event, Events, Failure, Generate, Job, Measure, Plan, Progress,
};
use crate::worker::{Health, Worker};
use pool::{Hold, Pool};

/// Why a request gets no slot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// As many wait already as may.
    #[error("the queue of this model is full")]
    QueueFull,
    /// It waited as long as it may.
    #[error("the request waited too long for a slot")]
    QueueTimeout,
    /// Every worker of the pool still loads its model, or has failed to.
    #[error("the model is not ready: {0}")]
    NotReady(String),
    /// No worker serves such a plan: a fault of the wiring.
    #[error("no worker serves this model")]
    NoWorker,
}

/// What a request needs of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// How urgent it is.
    pub class: Class,
    /// Answers that it asks for: each takes a place.
    pub answers: u32,
}

/// All pools. A pool is the workers that can serve one plan.
pub struct Scheduler {
    pools: HashMap<Arc<str>, Pool>,
}

/// The right to one of a worker's places, held until the last byte and freed by Drop.
pub struct Slot {
    worker: Arc<dyn Worker>,
    queued: Duration,
    hold: Hold,
}

impl Scheduler {
    /// Pools by the name that plans call them.
    #[must_use]
    pub fn new(
        workers: Vec<(Arc<str>, Arc<dyn Worker>)>,
        limits: Limits,
        metrics: &Metrics,
    ) -> Self {
        let mut grouped: HashMap<Arc<str>, Vec<Arc<dyn Worker>>> = HashMap::new();
        for (pool, worker) in workers {
            grouped.entry(pool).or_default().push(worker);
        }
        let pools = grouped
            .into_iter()
            .map(|(name, workers)| {
                let metrics = metrics.pool(&name);
                (name, Pool::new(workers, limits, metrics))
            })
            .collect();
        Self { pools }
    }

    /// Waits for a slot on a worker that can serve the plan. A request with more answers than the pool has
    /// places waits for all of them; the worker runs the rest after the first.
    ///
    /// # Errors
    /// The queue is full, the wait was too long, or no worker is ready.
    pub async fn submit(&self, plan: &Plan, need: Need) -> Result<Slot, Error> {
        self.pools
            .get(&plan.pool)
            .ok_or(Error::NoWorker)?
            .slot(need)
            .await
    }

    /// What a request would take of the plan's workers, where one of them can tell.
    ///
    /// # Errors
    /// The request can't be run by this model.
    pub async fn measure(
        &self,
        plan: &Plan,
        request: &Generate,
    ) -> Result<Option<Measure>, Failure> {
        match self.ready(plan) {
            Some(worker) => worker.measure(request).await,
            None => Ok(None),
        }
    }

    /// As [`Scheduler::measure`], for texts to be embedded.
    ///
    /// # Errors
    /// As [`Scheduler::measure`].
    pub async fn measure_embed(
        &self,
        plan: &Plan,
        request: &Embed,
    ) -> Result<Option<u32>, Failure> {
        match self.ready(plan) {
            Some(worker) => worker.measure_embed(request).await,
            None => Ok(None),
        }
    }

    fn ready(&self, plan: &Plan) -> Option<&Arc<dyn Worker>> {
        let mut workers = self.pools.get(&plan.pool)?.workers();
        workers.find(|worker| worker.health() == Health::Ready)
    }

    /// What still loads or has failed to, a line each; empty when every model can be asked.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let mut lines: Vec<_> = self
            .pools
            .values()
            .flat_map(Pool::workers)
            .filter_map(|worker| match worker.health() {
                Health::Ready => None,
                Health::Loading => Some(format!("{}: loading", worker.name())),
                Health::Failed(reason) => Some(format!("{}: {reason}", worker.name())),
            })
            .collect();
        lines.sort();
        lines
    }
}

impl Slot {
    /// The worker's name.
    #[must_use]
    pub fn worker(&self) -> &str {
        self.worker.name()
    }

    /// How long the request waited.
    #[must_use]
    pub fn queued(&self) -> Duration {
        self.queued
    }

    /// Runs a request. The slot is held until the stream is dropped.
    ///
    /// # Errors
    /// The worker can't run it.
    pub async fn generate(self, job: Job, progress: Arc<Progress>) -> Result<Events, Failure> {
        let events = self.worker.generate(job, progress).await?;
        Ok(Box::pin(Held {
            events,
            _hold: self.hold,
        }))
    }

    /// Runs an embedding request, and frees the slot.
    ///
    /// # Errors
    /// The worker can't run it, or broke.
    pub async fn embed(self, request: Embed, progress: Arc<Progress>) -> Result<Embedded, Failure> {
        self.worker.embed(request, progress).await
    }
}

/// Events with the slot they run in. The stream goes first, so that the worker is told before its place
/// is given away.
struct Held {
    events: Events,
    _hold: Hold,
}

impl Stream for Held {
    type Item = Result<Event, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}
