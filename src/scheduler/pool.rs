use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Need, Slot};
use crate::telemetry::PoolMetrics;
use crate::types::Class;
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
    total: u32,
    /// Places that the batch class holds and would make way from, less those that others have taken so.
    lent: Arc<AtomicI64>,
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
    /// None where the place is borrowed.
    _permit: Option<OwnedSemaphorePermit>,
    places: u32,
    /// What is added to the pool's lent places at the end: what was borrowed, or less what was lent.
    lent: Option<(Arc<AtomicI64>, i64)>,
    taken: Arc<AtomicUsize>,
    busy: IntGauge,
}

impl Pool {
    pub(super) fn new(workers: Vec<Arc<dyn Worker>>, limits: Limits, metrics: PoolMetrics) -> Self {
        let total: usize = workers.iter().map(|worker| worker.capacity()).sum();
        let member = |worker| Member {
            worker,
            taken: Arc::default(),
        };
        Self {
            members: workers.into_iter().map(member).collect(),
            slots: Arc::new(Semaphore::new(total)),
            total: u32::try_from(total).unwrap_or(u32::MAX),
            lent: Arc::default(),
            waiting: AtomicUsize::new(0),
            limits,
            metrics,
        }
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Arc<dyn Worker>> {
        self.members.iter().map(|member| &member.worker)
    }

    pub(super) async fn slot(&self, need: Need) -> Result<Slot, Error> {
        self.assert_ready()?;
        let start = Instant::now();
        let places = need.answers.clamp(1, self.total);
        let permit = self.wait(need.class, places).await;
        let queued = start.elapsed();
        self.metrics.wait_seconds.observe(queued.as_secs_f64());
        let Some(member) = self.freest() else {
            // The last of them went while the request waited.
            return Err(self.assert_ready().err().unwrap_or(Error::NoWorker));
        };
        Ok(Slot {
            worker: Arc::clone(&member.worker),
            queued,
            hold: self.hold(member, permit?, need.class, places),
        })
    }

    async fn wait(&self, class: Class, places: u32) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let slots = Arc::clone(&self.slots);
        // Who finds a free slot doesn't wait; max_queue = 0 then means "serve or refuse".
        if let Ok(permit) = Arc::clone(&slots).try_acquire_many_owned(places) {
            return Ok(Some(permit));
        }
        // Nor does who may take the place of the batch class: the worker puts that aside.
        if class > Class::Batch && self.borrow(places.into()) {
            return Ok(None);
        }
        let _waits = self.enter()?;
        let free = slots.acquire_many_owned(places);
        match tokio::time::timeout(self.limits.queue_timeout, free).await {
            Ok(permit) => permit.map(Some).map_err(|_| Error::NoWorker),
            Err(_) => {
                self.metrics.timeout.inc();
                Err(Error::QueueTimeout)
            }
        }
    }

    /// Takes places that the batch class will make way from.
    fn borrow(&self, places: i64) -> bool {
        let left = |lent: i64| (lent >= places).then(|| lent - places);
        self.lent
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, left)
            .is_ok()
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

    fn hold(
        &self,
        member: &Member,
        permit: Option<OwnedSemaphorePermit>,
        class: Class,
        places: u32,
    ) -> Hold {
        member.taken.fetch_add(places as usize, Ordering::AcqRel);
        let lends = class == Class::Batch && member.worker.preempts();
        let lent = match (&permit, lends) {
            (None, _) => Some(i64::from(places)),
            (Some(_), true) => {
                self.lent.fetch_add(places.into(), Ordering::AcqRel);
                Some(-i64::from(places))
            }
            (Some(_), false) => None,
        };
        self.metrics.busy.inc();
        Hold {
            lent: lent.map(|places| (Arc::clone(&self.lent), places)),
            places,
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
        let places = self.places as usize;
        self.taken.fetch_sub(places, Ordering::AcqRel);
        self.busy.dec();
        if let Some((lent, places)) = &self.lent {
            lent.fetch_add(*places, Ordering::AcqRel);
        }
    }
}
