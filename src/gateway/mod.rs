//! The way of a request, on one screen: resolve, reserve, admit, submit, meter. No HTTP.

mod reserve;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::metering::{self, Meter, Metering};
use crate::router::{self, Router};
use crate::scheduler::{self, Need, Scheduler, Slot};
use crate::telemetry::Metrics;
use crate::tenancy::{self, Access, Limiter, Refused, Reservation, Standing, Tenancy};
use crate::types::{
    Class, Embed, Endpoint, Failure, Flown, Generate, Job, Kind, Plan, RequestId, Store, Usage,
};

/// Everything that a request meets on its way.
pub struct Gateway {
    /// Who may ask.
    pub tenancy: Tenancy,
    /// How much they may use.
    pub limiter: Arc<Limiter>,
    /// What names mean.
    pub router: Router,
    /// Where requests wait.
    pub scheduler: Scheduler,
    /// Who pays.
    pub metering: Metering,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
}

/// A request with what came around it.
pub struct Ask<T> {
    /// Its name, for ever.
    pub request: RequestId,
    /// Who asks, and what they may.
    pub access: Arc<Access>,
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
    /// How the caller stands to its limits.
    pub standing: Standing,
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
    /// A limit is used up.
    #[error(transparent)]
    Refused(#[from] Refused),
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
    pub async fn generate(&self, mut ask: Ask<Generate>) -> Result<(Served, Meter), Error> {
        let plan = self.resolve(&ask, Kind::Generate)?;
        let reserved = self.reserve(&mut ask, &plan).await?;
        let admission = self.metering.admit()?;
        let need = Need {
            class: ask.class,
            answers: ask.body.answers(),
        };
        let slot = self.scheduler.submit(&plan, need).await?;
        let (served, flown) = describe(&ask, &plan, &slot, &reserved);
        let mut flight = self
            .metering
            .dispatch(admission, flown, Some(Box::new(reserved)));
        let job = Job {
            request: ask.body,
            tenant: ask.access.caller.project.clone(),
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
        let plan = self.resolve(&ask, Kind::Embed)?;
        let reserved = self.reserve_embed(&ask, &plan).await?;
        let admission = self.metering.admit()?;
        let need = Need {
            class: ask.class,
            answers: 1,
        };
        let slot = self.scheduler.submit(&plan, need).await?;
        let (served, flown) = describe(&ask, &plan, &slot, &reserved);
        let mut flight = self
            .metering
            .dispatch(admission, flown, Some(Box::new(reserved)));
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

impl Gateway {
    /// What the name means. To a key that may not ask a model, there is none of that name.
    fn resolve<T>(&self, ask: &Ask<T>, kind: Kind) -> Result<Plan, router::Error> {
        if !ask.access.allows(&ask.model) {
            return Err(router::Error::UnknownModel(ask.model.clone()));
        }
        self.router.resolve(&ask.model, kind)
    }
}

fn describe<T>(ask: &Ask<T>, plan: &Plan, slot: &Slot, reserved: &Reservation) -> (Served, Flown) {
    let served = Served {
        model: Arc::clone(&plan.model),
        worker: slot.worker().into(),
        queued: slot.queued(),
        standing: reserved.standing.clone(),
    };
    let flown = Flown {
        request: ask.request,
        attempt: 1,
        caller: ask.access.caller.clone(),
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
