use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Slot};
use crate::telemetry::PoolMetrics;
use crate::worker::{Health, Worker};

/// How a pool's queue is bounded.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that may wait.
    pub max_queue: usize,
    /// How long one may wait.
    pub queue_timeout: Duration,
}

/// The workers that can serve one plan, and the queue in front of them.
pub(super) struct Pool {
    members: Vec<Member>,
    /// One permit for each place of every worker. Fair: who came first goes first.
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    limits: Limits,
    metrics: PoolMetrics,
}

struct Member {
    worker: Arc<dyn Worker>,
    /// Places that are taken.
    taken: Arc<AtomicUsize>,
}

/// A place on one worker, which is given back on drop.
pub(super) struct Hold {
    _permit: OwnedSemaphorePermit,
    taken: Arc<AtomicUsize>,
    busy: IntGauge,
}

impl Pool {
    pub(super) fn new(workers: Vec<Arc<dyn Worker>>, limits: Limits, metrics: PoolMetrics) -> Self {
        let total = workers.iter().map(|worker| worker.capacity()).sum();
        let member = |worker| Member {
            worker,
            taken: Arc::default(),
        };
        Self {
            members: workers.into_iter().map(member).collect(),
            slots: Arc::new(Semaphore::new(total)),
            waiting: AtomicUsize::new(0),
            limits,
            metrics,
        }
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Arc<dyn Worker>> {
        self.members.iter().map(|member| &member.worker)
    }

    pub(super) async fn slot(&self) -> Result<Slot, Error> {
        self.assert_ready()?;
        let start = Instant::now();
        let permit = self.wait().await;
        let queued = start.elapsed();
        self.metrics.wait_seconds.observe(queued.as_secs_f64());
        let member = self.freest().ok_or(Error::NoWorker)?;
        Ok(Slot {
            worker: Arc::clone(&member.worker),
            queued,
            hold: self.hold(member, permit?),
        })
    }

    async fn wait(&self) -> Result<OwnedSemaphorePermit, Error> {
        let slots = Arc::clone(&self.slots);
        // Who finds a free slot doesn't wait; max_queue = 0 then means "serve or refuse".
        if let Ok(permit) = Arc::clone(&slots).try_acquire_owned() {
            return Ok(permit);
        }
        let _waits = self.enter()?;
        match tokio::time::timeout(self.limits.queue_timeout, slots.acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| Error::NoWorker),
            Err(_) => {
                self.metrics.timeout.inc();
                Err(Error::QueueTimeout)
            }
        }
    }

    /// The ready worker with the most places free. The pool's permit says that there is room somewhere;
    /// where only a worker that isn't ready has it, another's own queue takes the request.
    fn freest(&self) -> Option<&Member> {
        self.members
            .iter()
            .filter(|member| member.worker.health() == Health::Ready)
            .max_by_key(|member| {
                let taken = member.taken.load(Ordering::Acquire);
                member.worker.capacity().saturating_sub(taken)
            })
    }

    fn hold(&self, member: &Member, permit: OwnedSemaphorePermit) -> Hold {
        member.taken.fetch_add(1, Ordering::AcqRel);
        self.metrics.busy.inc();
        Hold {
            _permit: permit,
            taken: Arc::clone(&member.taken),
            busy: self.metrics.busy.clone(),
        }
    }

    fn assert_ready(&self) -> Result<(), Error> {
        let mut reason = Error::NoWorker;
        for worker in self.workers() {
            match worker.health() {
                Health::Ready => return Ok(()),
                Health::Loading => reason = Error::NotReady("it is being loaded".into()),
                Health::Failed(why) => reason = Error::NotReady(why),
            }
        }
        Err(reason)
    }

    /// Takes a place in the queue, which is given back on drop.
    fn enter(&self) -> Result<Waits<'_>, Error> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        self.metrics.depth.inc();
        let waits = Waits(self);
        if before >= self.limits.max_queue {
            self.metrics.full.inc();
            return Err(Error::QueueFull);
        }
        Ok(waits)
    }
}

/// A request in the queue. One that gives up leaves it as well.
struct Waits<'a>(&'a Pool);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.depth.dec();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.busy.dec();
    }
}
