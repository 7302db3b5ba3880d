//! One request's attempts: on which plan, past which workers, and when to give up.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Ask, Error, Gateway, Served};
use crate::metering::{self, Flight};
use crate::router::Router;
use crate::scheduler::{self, Need, Scheduler, Slot};
use crate::tenancy::Standing;
use crate::types::{Failure, Flown, Kind, Measure, Outcome, Plan, Reserved, Resume};

/// How long a request stays away from workers that have said that they have enough; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The attempts of one request.
pub(super) struct Tries {
    kind: Kind,
    /// The plan of the name that was asked for: its price and its name hold whoever serves.
    asked: Plan,
    plan: Plan,
    /// Of the asked plan's fallbacks, those that were tried.
    fallbacks: usize,
    need: Need,
    attempt: u32,
    /// Attempts that may still be made on this plan.
    left: u32,
    retries: u32,
    reserved: Option<Box<dyn Reserved>>,
    standing: Standing,
    queued: Duration,
    /// What another worker had done before it failed.
    begun: Option<Resume>,
}

/// Why an attempt came to nothing, before the first event.
pub(super) enum Failed {
    /// There was no slot.
    Slot(scheduler::Error),
    /// The ledger has no room.
    Ledger(metering::Error),
    /// The worker failed.
    Worker(Box<Flight>, Failure, Arc<str>),
}

impl Failed {
    /// Books what it cost, where there is nothing left to try.
    pub(super) async fn absorb(self) -> Option<metering::Error> {
        match self {
            Self::Slot(_) => None,
            Self::Ledger(error) => Some(error),
            Self::Worker(mut flight, failure, _) => Some(flight.fail(failure).await),
        }
    }
}

impl From<scheduler::Error> for Failed {
    fn from(error: scheduler::Error) -> Self {
        Self::Slot(error)
    }
}

impl From<metering::Error> for Failed {
    fn from(error: metering::Error) -> Self {
        Self::Ledger(error)
    }
}

impl Tries {
    pub(super) fn new<T>(
        gateway: &Gateway,
        ask: &Ask<T>,
        plan: Plan,
        kind: Kind,
        (answers, measure): (u32, Measure),
        (reserved, standing): (Box<dyn Reserved>, Standing),
    ) -> Self {
        let need = Need {
            tenant: ask.access.caller.project.clone(),
            class: ask.class,
            weight: ask.access.weight(),
            answers,
            prompt_tokens: measure.prompt_tokens,
            tokens: measure.prompt_tokens + measure.completion_tokens,
            prefix: Vec::new(),
            avoid: Vec::new(),
        };
        Self {
            kind,
            asked: plan.clone(),
            plan,
            fallbacks: 0,
            need,
            attempt: 0,
            left: gateway.retries,
            retries: gateway.retries,
            reserved: Some(reserved),
            standing,
            queued: Duration::ZERO,
            begun: None,
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the request needs of the plan's pool. `prefix` is made only where there is a choice.
    pub(super) fn need(&mut self, workers: usize, prefix: impl FnOnce(&Plan) -> Vec<u64>) -> Need {
        if workers > 1 && self.need.prefix.is_empty() {
            self.need.prefix = prefix(&self.plan);
        }
        self.need.clone()
    }

    /// The attempt that begins on this slot: what its client is told, what the ledger is, and what was reserved.
    pub(super) fn begin<T>(
        &mut self,
        ask: &Ask<T>,
        slot: &Slot,
    ) -> (Served, Flown, Option<Box<dyn Reserved>>) {
        self.attempt += 1;
        self.queued += slot.queued();
        let served = Served {
            model: if *self.asked.model == *ask.model {
                Arc::clone(&self.asked.model)
            } else {
                ask.model.as_str().into()
            },
            revision: Arc::clone(&self.plan.revision),
            shows_revision: ask.access.is_of_the_site(),
            worker: slot.worker(),
            decision: ask.decision.clone(),
            queued: self.queued,
            standing: self.standing.clone(),
        };
        let flown = Flown {
            request: ask.request,
            attempt: self.attempt,
            caller: ask.access.caller.clone(),
            end_user: ask.end_user.clone(),
            model: Arc::clone(&self.asked.model),
            revision: Arc::clone(&self.plan.revision),
            route: ask
                .decision
                .as_ref()
                .map(|decision| decision.to_string().into()),
            worker: slot.worker(),
            endpoint: ask.endpoint,
            class: ask.class,
            price: Arc::clone(&self.asked.price),
            started: Timestamp::now(),
        };
        (served, flown, self.reserved.take())
    }

    /// Makes ready for the next attempt: on another worker, on the same one where it only was busy, or on the next
    /// fallback.
    ///
    /// # Errors
    /// There is nothing left to try: why the last attempt failed.
    pub(super) async fn again(&mut self, gateway: &Gateway, failed: Failed) -> Result<(), Error> {
        let router = &gateway.router;
        let (flight, failure, worker) = match failed {
            Failed::Ledger(error) => return Err(error.into()),
            Failed::Slot(error) if self.falls_back(router) => {
                tracing::info!(model = &*self.plan.model, %error, "falls back");
                return Ok(());
            }
            Failed::Slot(error) => return Err(error.into()),
            Failed::Worker(flight, failure, worker) => (flight, failure, worker),
        };
        if !self.may_try_again(&gateway.scheduler, &failure, &worker)
            && !self.falls_back_from(router, &failure)
        {
            let mut flight = flight;
            return Err(flight.fail(failure).await.into());
        }
        tracing::warn!(
            worker = &*worker,
            error = failure.told(),
            "an attempt failed, and another one follows"
        );
        let ran = (!failure.is_refusal()).then_some(Outcome::Failed);
        self.reserved = flight.give_up(ran);
        if matches!(failure, Failure::Busy) {
            tokio::time::sleep(FIRST_PAUSE * (1 << self.attempt.min(6))).await;
        }
        Ok(())
    }

    fn may_try_again(
        &mut self,
        scheduler: &Scheduler,
        failure: &Failure,
        worker: &Arc<str>,
    ) -> bool {
        if self.left == 0 || !retryable(failure) {
            return false;
        }
        let busy = matches!(failure, Failure::Busy);
        if !self.need.avoid.contains(worker) {
            self.need.avoid.push(Arc::clone(worker));
        }
        let another = scheduler.others(&self.plan, &self.need.avoid) > 0;
        if busy || another {
            self.left -= 1;
            // Where all have failed on it, none is better than another.
            if !another {
                self.need.avoid.clear();
            }
        }
        busy || another
    }

    /// Whether another worker can go on with what this one began.
    pub(super) fn may_resume(&mut self, scheduler: &Scheduler, worker: &Arc<str>) -> bool {
        if !self.need.avoid.contains(worker) {
            self.need.avoid.push(Arc::clone(worker));
        }
        let can = self.left > 0 && scheduler.others(&self.plan, &self.need.avoid) > 0;
        self.left -= u32::from(can);
        can
    }

    /// The next attempt goes on with this.
    pub(super) fn resume(&mut self, reserved: Option<Box<dyn Reserved>>, begun: Resume) {
        self.reserved = reserved;
        self.begun = Some(begun);
    }

    /// What the next attempt goes on with.
    pub(super) fn begun(&self) -> Option<Resume> {
        self.begun.clone()
    }

    /// The same request at another worker, while the first one is waited for.
    pub(super) fn beside(&mut self, worker: &Arc<str>) -> Need {
        let mut need = self.need.clone();
        need.avoid.push(Arc::clone(worker));
        need
    }

    fn falls_back_from(&mut self, router: &Router, failure: &Failure) -> bool {
        retryable(failure) && self.falls_back(router)
    }

    /// Goes over to the next fallback that can be resolved.
    fn falls_back(&mut self, router: &Router) -> bool {
        while let Some(name) = self.asked.fallbacks.get(self.fallbacks) {
            self.fallbacks += 1;
            if let Ok(plan) = router.resolve(name, self.kind, self.need.class) {
                self.plan = plan;
                // It is asked in the vertical's words all the same.
                if self.asked.profile.is_some()
                    && let Some((_, id)) = self.asked.revision.rsplit_once('#')
                {
                    self.plan.revision = format!("{}#{id}", self.plan.revision).into();
                }
                self.left = self.retries;
                self.need.avoid.clear();
                self.need.prefix.clear();
                return true;
            }
        }
        false
    }
}

/// Whether another worker may do better.
fn retryable(failure: &Failure) -> bool {
    match failure {
        Failure::Busy | Failure::NotReady(_) | Failure::Broken(_) => true,
        Failure::Invalid { .. } | Failure::ContextLength { .. } | Failure::Refused { .. } => false,
    }
}
