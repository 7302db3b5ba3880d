use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::breaker::{Breaker, State};
use super::capacity::Capacity;
use super::pool::Pool;
use crate::telemetry::{MemberMetrics, MembersMetrics};
use crate::types::Failure;
use crate::worker::{Health, Worker};

/// A worker that is new, or comes back, is given this share of its places at first.
const RAMP_FROM: f64 = 0.1;

/// A worker as the pools see it that it serves: what it runs, and how it does.
pub(super) struct Member {
    pub(super) name: Arc<str>,
    pub(super) worker: Arc<dyn Worker>,
    /// Those that a place of it may go to.
    pools: RwLock<Vec<Weak<Pool>>>,
    slow_start: Duration,
    load: Mutex<Load>,
    metrics: MemberMetrics,
}

struct Load {
    /// Places that are held, borrowed ones aside.
    taken: u32,
    /// Requests that are held.
    requests: u32,
    /// Tokens of all of them, as they were thought to be.
    tokens: u64,
    /// Places that the batch class holds and would make way from, less those that others have borrowed so.
    lent: i64,
    capacity: Capacity,
    breaker: Breaker,
    /// From when on its places come back little by little.
    ramp: Option<Instant>,
    /// Gets nothing more.
    drains: bool,
}

/// What of a worker's room one request has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) places: u32,
    pub(super) tokens: u64,
    /// It has the places of the batch class.
    pub(super) borrowed: bool,
    /// It is of the batch class, on a worker that puts it aside for others.
    pub(super) lends: bool,
}

/// What a worker offers to the next request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) free: u32,
    pub(super) limit: u32,
    pub(super) lent: i64,
    pub(super) tokens: u64,
    /// It failed, and one request is to tell whether it still does.
    pub(super) trial: bool,
}

/// How a request ended, as far as it tells how its worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing is to be told: the client went, or was to blame.
    Unknown,
    /// It was answered, and the first token took so long; `None` where the answer came as a whole.
    Answered(Option<Duration>),
    /// The worker has as many as it can hold.
    Refused,
    /// The worker broke.
    Failed,
}

impl Outcome {
    pub(super) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Busy | Failure::NotReady(_) => Self::Refused,
            Failure::Broken(_) => Self::Failed,
            Failure::Invalid { .. } | Failure::ContextLength { .. } | Failure::Refused { .. } => {
                Self::Unknown
            }
        }
    }
}

impl Member {
    pub(super) fn new(
        worker: Arc<dyn Worker>,
        slow_start: Duration,
        late: bool,
        metrics: &MembersMetrics,
    ) -> Self {
        let metrics = metrics.member(worker.name());
        let places = u32::try_from(worker.capacity()).unwrap_or(u32::MAX).max(1);
        let capacity = match worker.learns_up_to() {
            Some(most) => Capacity::learned(places, most),
            None => Capacity::Fixed(places),
        };
        metrics.places.set(capacity.limit().into());
        Self {
            name: worker.name().into(),
            worker,
            pools: RwLock::default(),
            slow_start,
            load: Mutex::new(Load {
                taken: 0,
                requests: 0,
                tokens: 0,
                lent: 0,
                capacity,
                breaker: Breaker::default(),
                ramp: late.then(Instant::now),
                drains: false,
            }),
            metrics,
        }
    }

    pub(super) fn serves(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.push(Arc::downgrade(pool));
    }

    /// What it offers now; `None` where it takes nothing at all.
    pub(super) fn offer(&self, now: Instant) -> Option<Offer> {
        if self.worker.health() != Health::Ready {
            return None;
        }
        let load = self.load();
        if load.drains || !load.breaker.admits(now) {
            return None;
        }
        let limit = self.limit(&load, now);
        let trial = matches!(load.breaker.state(), State::Open { .. });
        // Whoever has borrowed a place keeps it when the lender has gone.
        let kept = u32::try_from(-load.lent).unwrap_or(0);
        let free = limit.saturating_sub(load.taken.saturating_add(kept));
        Some(Offer {
            // Whatever still runs from before: one request is to tell how it is.
            free: if trial { 1 } else { free },
            limit,
            lent: load.lent,
            tokens: load.tokens + self.inside(&load),
            trial,
        })
    }

    /// Tokens of what waits inside the worker, as far as it tells, if those requests are as the ones from here.
    fn inside(&self, load: &Load) -> u64 {
        let each = load.tokens / u64::from(load.requests.max(1));
        u64::from(self.worker.waiting()) * each.max(1)
    }

    fn limit(&self, load: &Load, now: Instant) -> u32 {
        let limit = load.capacity.limit();
        if matches!(load.breaker.state(), State::Open { .. }) {
            return 1;
        }
        let Some(since) = load.ramp else { return limit };
        let share = now.saturating_duration_since(since).as_secs_f64()
            / self.slow_start.as_secs_f64().max(f64::EPSILON);
        let share = (RAMP_FROM + (1.0 - RAMP_FROM) * share).min(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u32"
        )]
        let ramped = (f64::from(limit) * share).ceil() as u32;
        ramped.clamp(1, limit.max(1))
    }

    /// True where the request is to tell whether the worker still fails.
    pub(super) fn take(&self, room: Room, now: Instant) -> bool {
        let mut load = self.load();
        let trial = load.breaker.enter(now);
        load.requests += 1;
        load.tokens += room.tokens;
        if room.borrowed {
            load.lent -= i64::from(room.places);
        } else {
            load.taken += room.places;
        }
        if room.lends {
            load.lent += i64::from(room.places);
        }
        self.show(&load);
        trial
    }

    /// The request that was to tell has its first event.
    pub(super) fn answers_again(&self) {
        let mut load = self.load();
        load.breaker.closes();
        load.ramp = Some(Instant::now());
        self.show(&load);
        tracing::info!(worker = &*self.name, "answers again");
    }

    fn show(&self, load: &Load) {
        self.metrics.taken.set(load.taken.into());
        self.metrics.places.set(load.capacity.limit().into());
        let tokens = i64::try_from(load.tokens).unwrap_or(i64::MAX);
        self.metrics.tokens.set(tokens);
        let open = !matches!(load.breaker.state(), State::Closed);
        self.metrics.open.set(open.into());
    }

    /// A request ends. What waits for one of this worker's pools may go now.
    pub(super) fn release(&self, room: Room, trial: bool, outcome: Outcome) {
        self.give_back(room, trial, outcome, Instant::now());
        let pools: Vec<_> = {
            let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        for pool in pools {
            pool.dispatch();
        }
    }

    fn give_back(&self, room: Room, trial: bool, outcome: Outcome, now: Instant) {
        let mut load = self.load();
        let taken = load.taken;
        load.requests -= 1;
        load.tokens -= room.tokens;
        if room.borrowed {
            load.lent += i64::from(room.places);
        } else {
            load.taken -= room.places;
        }
        if room.lends {
            load.lent -= i64::from(room.places);
        }
        match outcome {
            Outcome::Unknown => {
                self.metrics.unknown.inc();
                if trial {
                    load.breaker.abandoned(now);
                }
            }
            Outcome::Answered(first_token) => {
                self.metrics.answered.inc();
                let waits = self.worker.waiting() > 0;
                load.capacity.answered(first_token, waits, taken, now);
                load.breaker.succeeded();
            }
            // It answers, if only to say that it has enough.
            Outcome::Refused => {
                self.metrics.refused.inc();
                load.capacity.refused(now);
                if trial {
                    load.breaker.abandoned(now);
                }
            }
            Outcome::Failed => {
                self.metrics.failed.inc();
                if load.breaker.failed(trial, now) {
                    tracing::warn!(worker = &*self.name, "fails: gets nothing for a while");
                }
            }
        }
        self.show(&load);
    }

    /// Gets nothing more from now on. True when it runs nothing any more.
    pub(super) fn drain(&self) -> bool {
        let mut load = self.load();
        load.drains = true;
        load.requests == 0
    }

    /// Whether it has drained.
    pub(super) fn is_gone(&self) -> bool {
        let load = self.load();
        load.drains && load.requests == 0
    }

    /// How it stands, for operators.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let health = self.worker.health();
        let load = self.load();
        Standing {
            worker: Arc::clone(&self.name),
            state: match (&health, load.breaker.state()) {
                _ if load.drains => "draining",
                (Health::Loading, _) => "loading",
                (Health::Failed(_), _) => "failed",
                (Health::Ready, State::Open { .. }) => "open",
                (Health::Ready, State::Trying) => "trying",
                (Health::Ready, State::Closed) => "ready",
            },
            places: self.limit(&load, now),
            taken: load.taken,
            requests: load.requests,
            tokens: load.tokens,
        }
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a worker stands, for operators.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub worker: Arc<str>,
    /// `ready`, `loading`, `failed`, `draining`, `open` (it failed, and gets nothing for a while) or `trying` (one
    /// request is to tell whether it still does).
    pub state: &'static str,
    /// Places that it has at the moment.
    pub places: u32,
    /// Those that are taken.
    pub taken: u32,
    /// Requests that it runs.
    pub requests: u32,
    /// Tokens that they may take, as far as is known.
    pub tokens: u64,
}
