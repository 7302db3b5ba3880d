//! The way of a request, on one screen: resolve, admit, submit, meter. No HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::metering::{self, Meter, Metering};
use crate::router::{self, Router};
use crate::scheduler::{self, Need, Scheduler, Slot};
use crate::telemetry::Metrics;
use crate::tenancy::{self, Tenancy};
use crate::types::{
    Caller, Class, Embed, Endpoint, Failure, Flown, Generate, Job, Kind, Ledger, Plan, RequestId,
    Usage,
};

/// Everything that a request meets on its way.
pub struct Gateway {
    /// Who may ask.
    pub tenancy: Tenancy,
    /// What names mean.
    pub router: Router,
    /// Where requests wait.
    pub scheduler: Scheduler,
    /// Who pays.
    pub metering: Metering,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Asked whether it answers, for readiness.
    pub ledger: Arc<dyn Ledger>,
}

/// A request with what came around it.
pub struct Ask<T> {
    /// Its name, for ever.
    pub request: RequestId,
    /// Who asks.
    pub caller: Caller,
    /// The person behind the caller, in the caller's own words.
    pub end_user: Option<String>,
    /// The door it came in by.
    pub endpoint: Endpoint,
    /// The model that is asked for.
    pub model: String,
    /// How urgent it is.
    pub class: Class,
    /// When it came.
    pub arrived: Instant,
    /// What is asked.
    pub body: T,
}

/// What is known of an answer before its content.
#[derive(Debug, Clone)]
pub struct Served {
    /// The model's name in the registry.
    pub model: Arc<str>,
    /// The worker that runs it.
    pub worker: Arc<str>,
    /// How long the request waited for a slot.
    pub queued: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key.
    #[error(transparent)]
    Tenancy(#[from] tenancy::Error),
    /// The model's name.
    #[error(transparent)]
    Router(#[from] router::Error),
    /// No slot.
    #[error(transparent)]
    Scheduler(#[from] scheduler::Error),
    /// No ledger, or the answer failed.
    #[error(transparent)]
    Metering(#[from] metering::Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Metering(failure.into())
    }
}

impl Gateway {
    /// Generates an answer. It is metered as it is read, and ends once its charge is on disk.
    ///
    /// # Errors
    /// Whatever fails before the first event.
    pub async fn generate(&self, ask: Ask<Generate>) -> Result<(Served, Meter), Error> {
        let plan = self.router.resolve(&ask.model, Kind::Generate)?;
        let admission = self.metering.admit()?;
        let need = Need {
            class: ask.class,
            answers: ask.body.answers(),
        };
        let slot = self.scheduler.submit(&plan, need).await?;
        let (served, flown) = describe(&ask, &plan, &slot);
        let mut flight = self.metering.dispatch(admission, flown);
        let job = Job {
            request: ask.body,
            tenant: ask.caller.project,
            class: ask.class,
            adapter: plan.adapter,
        };
        let events = match slot.generate(job, flight.progress()).await {
            Ok(events) => events,
            Err(failure) => return Err(flight.fail(failure).await.into()),
        };
        let mut meter = Meter::new(events, flight, ask.arrived);
        meter.peek().await?;
        Ok((served, meter))
    }

    /// Turns texts into vectors, and returns once the charge is on disk.
    ///
    /// # Errors
    /// Whatever fails; then there is no charge to be paid.
    pub async fn embed(&self, ask: Ask<Embed>) -> Result<(Served, Vec<Vec<f32>>, Usage), Error> {
        let plan = self.router.resolve(&ask.model, Kind::Embed)?;
        let admission = self.metering.admit()?;
        let need = Need {
            class: ask.class,
            answers: 1,
        };
        let slot = self.scheduler.submit(&plan, need).await?;
        let (served, flown) = describe(&ask, &plan, &slot);
        let mut flight = self.metering.dispatch(admission, flown);
        let embedded = match slot.embed(ask.body, flight.progress()).await {
            Ok(embedded) => embedded,
            Err(failure) => return Err(flight.fail(failure).await.into()),
        };
        let usage = Usage {
            prompt_tokens: embedded.prompt_tokens,
            ..Usage::default()
        };
        flight.settle(usage).await?;
        Ok((served, embedded.vectors, usage))
    }
}

fn describe<T>(ask: &Ask<T>, plan: &Plan, slot: &Slot) -> (Served, Flown) {
    let served = Served {
        model: Arc::clone(&plan.model),
        worker: slot.worker().into(),
        queued: slot.queued(),
    };
    let flown = Flown {
        request: ask.request,
        attempt: 1,
        caller: ask.caller.clone(),
        end_user: ask.end_user.clone(),
        model: Arc::clone(&plan.model),
        revision: Arc::clone(&plan.revision),
        worker: Arc::clone(&served.worker),
        endpoint: ask.endpoint,
        class: ask.class,
        price: Arc::clone(&plan.price),
        started: Timestamp::now(),
    };
    (served, flown)
}
