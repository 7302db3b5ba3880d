//! Bounded, fair queues in front of the workers: a request waits for a slot, or is told at once that it can't.

mod affinity;
mod breaker;
mod capacity;
mod fair;
mod hold;
mod member;
mod pool;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use member::Standing;
pub use pool::Limits;

use crate::telemetry::{MembersMetrics, Metrics};
use crate::types::{
    Class, Embed, EmbedJob, Embedded, Events, Failure, Generate, Job, Measure, Plan, Progress,
    ProjectId, Tokenize, Tokenized,
};
use crate::worker::Worker;
use hold::{Held, Hold};
use member::Member;
use pool::Pool;

/// What nobody's leaving wakes: a pause that is over, a class that goes up, places that come back.
const TICK: Duration = Duration::from_millis(50);

/// Why a request gets no slot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// As many wait already as may, and nobody has more waiting than this tenant.
    #[error("the queue of this model is full")]
    QueueFull,
    /// As many of this tenant wait already as may.
    #[error("too many of your requests wait for this model")]
    TenantQueueFull,
    /// It waited as long as it may.
    #[error("the request waited too long for a slot")]
    QueueTimeout,
    /// Every worker of the pool still loads its model, or has failed to.
    #[error("the model is not ready: {0}")]
    NotReady(String),
    /// No worker serves such a plan at the moment.
    #[error("no worker serves this model")]
    NoWorker,
}

/// What a request needs of a pool.
#[derive(Debug, Clone)]
pub struct Need {
    /// Whose it is.
    pub tenant: ProjectId,
    /// How urgent it is.
    pub class: Class,
    /// The tenant's share of what its class gets, in relation to others'; above 0.
    pub weight: f64,
    /// Answers that it asks for: each takes a place.
    pub answers: u32,
    /// Tokens of its prompts, as far as is known.
    pub prompt_tokens: u64,
    /// Tokens that it may take at most, prompts and answers together, as far as is known.
    pub tokens: u64,
    /// A hash of each beginning of its prompt, the shortest first, salted by tenant: it goes where one of them was
    /// read lately.
    pub prefix: Vec<u64>,
    /// Workers that it failed on.
    pub avoid: Vec<Arc<str>>,
}

/// A worker, and the pools that it serves: one for each model that it runs.
pub struct Assigned {
    /// The pools' names.
    pub pools: Vec<Arc<str>>,
    /// The worker.
    pub worker: Arc<dyn Worker>,
}

/// All pools. A pool is the workers that can serve one plan.
pub struct Scheduler {
    pools: HashMap<Arc<str>, Arc<Pool>>,
    limits: Limits,
    metrics: MembersMetrics,
}

/// The right to one of a worker's places, held until the last byte and freed by Drop.
pub struct Slot {
    queued: Duration,
    hold: Hold,
}

/// A pool as operators see it.
#[derive(Debug, Clone)]
pub struct QueueView {
    /// The pool's name: the model that its workers run.
    pub pool: Arc<str>,
    /// Its workers.
    pub workers: Vec<Standing>,
    /// Who waits.
    pub waiting: Vec<WaitingView>,
}

/// Requests of one tenant and one class that wait.
#[derive(Debug, Clone)]
pub struct WaitingView {
    /// Whose they are.
    pub project: ProjectId,
    /// How urgent they are, those included that waited so long that they count as more urgent than they came.
    pub class: Class,
    /// How many.
    pub requests: usize,
    /// How long the first of them has waited.
    pub longest: Duration,
    /// Why: `places_taken`, or `no_worker` where none takes anything.
    pub reason: &'static str,
}

impl Need {
    fn claim(&self) -> fair::Claim {
        fair::Claim {
            tenant: self.tenant.clone(),
            class: self.class,
            weight: self.weight,
            cost: self.cost(),
        }
    }

    fn cost(&self) -> i64 {
        fair::PROMPT.saturating_mul(i64::try_from(self.prompt_tokens).unwrap_or(i64::MAX))
    }
}

impl Scheduler {
    /// Pools by the name that plans call them.
    #[must_use]
    pub fn new(
        pools: &[Arc<str>],
        workers: Vec<Assigned>,
        limits: Limits,
        metrics: &Metrics,
    ) -> Self {
        let pool = |name: &Arc<str>| {
            let pool = Pool::new(Arc::clone(name), limits, metrics.pool(name));
            (Arc::clone(name), Arc::new(pool))
        };
        let scheduler = Self {
            pools: pools.iter().map(pool).collect(),
            limits,
            metrics: metrics.members.clone(),
        };
        for assigned in workers {
            scheduler.add(assigned, false);
        }
        scheduler
    }

    /// A worker that has come up: it is given all of its places little by little. Pools that there aren't are passed
    /// over.
    pub fn join(&self, assigned: Assigned) {
        tracing::info!(worker = assigned.worker.name(), "joins");
        self.add(assigned, true);
    }

    fn add(&self, Assigned { pools, worker }: Assigned, late: bool) {
        let member = Arc::new(Member::new(
            worker,
            self.limits.slow_start,
            late,
            &self.metrics,
        ));
        for pool in pools.iter().filter_map(|name| self.pools.get(name)) {
            pool.join(&member);
        }
    }

    /// A worker gets nothing more, and is gone once what it runs has ended.
    pub fn leave(&self, worker: &str) {
        tracing::info!(worker, "drains");
        for pool in self.pools.values() {
            pool.leave(worker);
        }
    }

    /// Looks after what waits, until it is told to stop.
    pub async fn tend(self: Arc<Self>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(TICK))
            .await
            .is_some()
        {
            self.pools.values().for_each(Pool::tend);
        }
    }

    /// Waits for a slot on a worker that can serve the plan. A request with more answers than a worker has
    /// places waits for all of them; the worker runs the rest after the first.
    ///
    /// # Errors
    /// The queue is full, the wait was too long, or no worker is ready.
    pub async fn submit(&self, plan: &Plan, need: Need) -> Result<Slot, Error> {
        let pool = self.pools.get(&plan.pool).ok_or(Error::NoWorker)?;
        pool.slot(need).await
    }

    /// A slot that can be had at once on a worker that isn't to be avoided; there is no waiting for it.
    #[must_use]
    pub fn offer(&self, plan: &Plan, need: &Need) -> Option<Slot> {
        self.pools.get(&plan.pool)?.offer(need)
    }

    /// Who waits for what, pool by pool in order of their names.
    #[must_use]
    pub fn view(&self) -> Vec<QueueView> {
        let mut pools: Vec<_> = self.pools.values().map(|pool| pool.view()).collect();
        pools.sort_by(|one, other| one.pool.cmp(&other.pool));
        pools
    }

    /// How many workers a plan's pool has.
    #[must_use]
    pub fn workers(&self, plan: &Plan) -> usize {
        self.pools.get(&plan.pool).map_or(0, |pool| pool.size())
    }

    /// How many of them are none of these.
    #[must_use]
    pub fn others(&self, plan: &Plan, avoid: &[Arc<str>]) -> usize {
        let pool = self.pools.get(&plan.pool);
        pool.map_or(0, |pool| pool.others(avoid))
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

    /// A prompt in the tokens of a plan's model. It waits for no slot.
    ///
    /// # Errors
    /// No worker can be asked now, or none can tell.
    pub async fn tokenize(&self, plan: &Plan, ask: Tokenize) -> Result<Tokenized, Failure> {
        self.any(plan)?.tokenize(&plan.pool, ask).await
    }

    /// The text that tokens of a plan's model stand for.
    ///
    /// # Errors
    /// As [`Scheduler::tokenize`].
    pub async fn detokenize(&self, plan: &Plan, tokens: Vec<u32>) -> Result<String, Failure> {
        self.any(plan)?.detokenize(&plan.pool, tokens).await
    }

    fn any(&self, plan: &Plan) -> Result<Arc<dyn Worker>, Failure> {
        self.ready(plan)
            .ok_or_else(|| Failure::NotReady("no worker can be asked now".into()))
    }

    fn ready(&self, plan: &Plan) -> Option<Arc<dyn Worker>> {
        self.pools.get(&plan.pool)?.ready()
    }

    /// What still loads or has failed to, a line each; empty when every model can be asked. Of workers that may come and
    /// go, one of a pool is enough.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let mut lines: Vec<_> = self
            .pools
            .values()
            .flat_map(|pool| pool.not_ready())
            .collect();
        lines.sort();
        lines.dedup();
        lines
    }
}

impl Slot {
    /// The worker's name.
    #[must_use]
    pub fn worker(&self) -> Arc<str> {
        Arc::clone(&self.hold.member.name)
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
    pub async fn generate(mut self, job: Job, progress: Arc<Progress>) -> Result<Events, Failure> {
        let worker = Arc::clone(&self.hold.member.worker);
        self.hold
            .runs(job.resume.as_ref().map_or(0, |begun| begun.tokens));
        match worker.generate(job, Arc::clone(&progress)).await {
            Ok(events) => Ok(Box::pin(Held::new(events, progress, self.hold))),
            Err(failure) => {
                self.hold.fails(&failure);
                Err(failure)
            }
        }
    }

    /// Runs an embedding request, and frees the slot.
    ///
    /// # Errors
    /// The worker can't run it, or broke.
    pub async fn embed(
        mut self,
        job: EmbedJob,
        progress: Arc<Progress>,
    ) -> Result<Embedded, Failure> {
        let worker = Arc::clone(&self.hold.member.worker);
        self.hold.runs(0);
        let embedded = worker.embed(job, Arc::clone(&progress)).await;
        match &embedded {
            Ok(_) => self.hold.answers(true),
            Err(failure) => self.hold.fails(failure),
        }
        self.hold.count(&progress);
        embedded
    }
}
