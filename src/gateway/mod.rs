//! The way of a request, on one screen: resolve, reserve, admit, submit, meter. No HTTP.

mod answer;
mod attempt;
mod auto;
mod drift;
mod nearest;
mod prefix;
mod reserve;
mod resume;
mod shadow;
mod tries;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use answer::Answer;
pub use auto::Decision;

use crate::metering::{self, Admission, Flight, Meter, Metering};
use crate::router::{self, Choice, Router};
use crate::scheduler::{self, Scheduler, Slot};
use crate::telemetry::Metrics;
use crate::tenancy::{self, Access, Limiter, Refused, Standing, Tenancy};
use crate::types::{
    Caller, Class, Embed, EmbedJob, Embedded, Endpoint, Failure, Generate, Job, Kind, Paying, Plan,
    RequestId, Store, Tokenize, Tokenized, Usage,
};
use attempt::Attempt;
use auto::Routes;
use drift::Drift;
use nearest::Vectors;
use resume::Resuming;
use shadow::Shadows;
use tries::{Failed, Tries};

/// Everything that a request meets on its way.
pub struct Gateway {
    /// Who may ask.
    pub tenancy: Tenancy,
    /// How much they may use.
    pub limiter: Arc<Limiter>,
    /// What names mean.
    pub router: Router,
    /// Where requests wait.
    pub scheduler: Arc<Scheduler>,
    /// How many more attempts are made on a plan's workers when one of them fails before the first token.
    pub retries: u32,
    /// How long a stream's first token is waited for before another worker is asked as well.
    pub hedge_after: Option<Duration>,
    /// Who pays.
    pub metering: Metering,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// What is known of verticals.
    pub verticals: Verticals,
}

/// What is learned of verticals while they are asked.
#[derive(Default)]
pub struct Verticals {
    /// Where their examples stand.
    vectors: Vectors,
    /// How far live questions are from what verticals were tried on.
    drift: Drift,
    /// Where the examples of `auto` stand.
    routes: Routes,
    /// Room for revisions that answer nobody.
    shadows: Shadows,
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
    /// What that came to, where it was looked up already.
    pub choice: Option<Choice>,
    /// Why it came to that, where it asked for `auto`.
    pub decision: Option<Arc<Decision>>,
    /// How urgent it is.
    pub class: Class,
    /// When its client pays.
    pub paying: Paying,
    /// When it came.
    pub arrived: Instant,
    /// What is asked.
    pub body: T,
}

/// What is known of an answer before its content.
#[derive(Debug, Clone)]
pub struct Served {
    /// The model, by the name that it was asked for.
    pub model: Arc<str>,
    /// What that name meant when the request came.
    pub revision: Arc<str>,
    /// Whether the caller may know that: it names the site's own models and files.
    pub shows_revision: bool,
    /// The worker that runs it.
    pub worker: Arc<str>,
    /// What `auto` came to, where it was asked for.
    pub decision: Option<Arc<Decision>>,
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
    /// Generates an answer. It is metered as it is read, and ends once its charge is on disk. What fails before the first
    /// event is tried again elsewhere.
    ///
    /// # Errors
    /// Whatever fails before the first event, when there is nothing left to try.
    pub async fn generate(
        self: &Arc<Self>,
        mut ask: Ask<Generate>,
    ) -> Result<(Served, Answer), Error> {
        let plan = self.resolve(&ask, Kind::Generate)?;
        let (reserved, measure) = self.reserve(&mut ask, &plan).await?;
        let size = (ask.body.answers(), measure);
        let mut tries = Tries::new(self, &ask, plan, Kind::Generate, size, reserved);
        let ask = ask.share();
        let (served, meter) = loop {
            match self.try_generate(&ask, &mut tries).await {
                Ok(begun) => break begun,
                Err(failed) => self.again(&mut tries, failed).await?,
            }
        };
        let resuming = resume::can(&ask, tries.plan()).then(|| Resuming::new(self, ask, tries));
        Ok((served, Answer::new(meter, resuming)))
    }

    /// One attempt, or two where the first is slow to begin and another worker has room.
    async fn try_generate(
        &self,
        ask: &Ask<Arc<Generate>>,
        tries: &mut Tries,
    ) -> Result<(Served, Meter), Failed> {
        let admission = self.metering.admit()?;
        let workers = self.scheduler.workers(tries.plan());
        let need = tries.need(workers, |plan| prefix::of(ask, plan));
        let slot = self.scheduler.submit(tries.plan(), need).await?;
        let first = self.attempt(ask, tries, slot, admission);
        let Some(patience) = self
            .hedge_after
            .filter(|_| workers > 1 && ask.body.streams())
        else {
            return first.finish().await;
        };
        let first = match first.finish_within(patience).await {
            Ok(begun) => return begun,
            Err(first) => first,
        };
        // What isn't used is given back before the first is waited for any longer.
        let need = tries.beside(first.worker());
        let admission = self.metering.admit().ok();
        let slot = admission.and_then(|admission| {
            let slot = self.scheduler.offer(tries.plan(), &need)?;
            Some((slot, admission))
        });
        let Some((slot, admission)) = slot else {
            return first.finish().await;
        };
        let second = self.attempt(ask, tries, slot, admission);
        first.race(second).await
    }

    fn attempt(
        &self,
        ask: &Ask<Arc<Generate>>,
        tries: &mut Tries,
        slot: Slot,
        admission: Admission,
    ) -> Attempt {
        let (served, flown, reserved) = tries.begin(ask, &slot);
        let flight = self
            .metering
            .dispatch(admission, flown, ask.paying, reserved);
        let plan = tries.plan();
        let job = Job {
            request: Arc::clone(&ask.body),
            model: Arc::clone(&plan.sent),
            asked: Arc::clone(&served.model),
            id: ask.answer_id().into(),
            resumable: resume::can(ask, plan),
            resume: tries.begun(),
            tenant: ask.access.caller.project.clone(),
            class: ask.class,
            adapter: plan.adapter.clone(),
            preface: prefix::preface(&ask.body, plan),
        };
        Attempt::start(slot, job, flight, served, ask.arrived)
    }

    /// Turns texts into vectors, and returns once the charge is on disk.
    ///
    /// # Errors
    /// Whatever fails, when there is nothing left to try; then there is no charge to be paid.
    pub async fn embed(&self, ask: Ask<Embed>) -> Result<(Served, Vec<Vec<f32>>, Usage), Error> {
        let plan = self.resolve(&ask, Kind::Embed)?;
        let (reserved, measure) = self.reserve_embed(&ask, &plan).await?;
        let mut tries = Tries::new(self, &ask, plan, Kind::Embed, (1, measure), reserved);
        let ask = ask.share();
        loop {
            let (served, mut flight, embedded) = match self.try_embed(&ask, &mut tries).await {
                Ok(embedded) => embedded,
                Err(failed) => {
                    self.again(&mut tries, failed).await?;
                    continue;
                }
            };
            let usage = Usage {
                prompt_tokens: embedded.prompt_tokens,
                ..Usage::default()
            };
            flight.settle(usage).await?;
            return Ok((served, embedded.vectors, usage));
        }
    }

    async fn try_embed(
        &self,
        ask: &Ask<Arc<Embed>>,
        tries: &mut Tries,
    ) -> Result<(Served, Flight, Embedded), Failed> {
        let admission = self.metering.admit()?;
        let need = tries.need(0, |_| Vec::new());
        let slot = self.scheduler.submit(tries.plan(), need).await?;
        let (served, flown, reserved) = tries.begin(ask, &slot);
        let flight = self
            .metering
            .dispatch(admission, flown, ask.paying, reserved);
        let job = EmbedJob {
            request: Arc::clone(&ask.body),
            model: Arc::clone(&tries.plan().pool),
        };
        match slot.embed(job, flight.progress()).await {
            Ok(embedded) => Ok((served, flight, embedded)),
            Err(failure) => Err(Failed::Worker(
                Box::new(flight),
                failure,
                Arc::clone(&served.worker),
            )),
        }
    }

    /// A prompt in a model's tokens. It takes no slot, and costs nothing.
    ///
    /// # Errors
    /// There is no such model for this key, or it can't tell.
    pub async fn tokenize(
        &self,
        access: &Access,
        (model, choice): (&str, Option<&Choice>),
        ask: Tokenize,
    ) -> Result<Tokenized, Error> {
        let plan = self.plan(access, model, choice)?;
        Ok(self.scheduler.tokenize(&plan, ask).await?)
    }

    /// The text that a model's tokens stand for.
    ///
    /// # Errors
    /// As [`Gateway::tokenize`].
    pub async fn detokenize(
        &self,
        access: &Access,
        model: &str,
        tokens: Vec<u32>,
    ) -> Result<String, Error> {
        let plan = self.plan(access, model, None)?;
        Ok(self.scheduler.detokenize(&plan, tokens).await?)
    }

    fn plan(
        &self,
        access: &Access,
        model: &str,
        choice: Option<&Choice>,
    ) -> Result<Plan, router::Error> {
        if !self.allows(access, model) {
            return Err(router::Error::UnknownModel(model.to_owned()));
        }
        let choice = match choice {
            Some(choice) => choice.clone(),
            None => self.router.choose(model, || None)?,
        };
        match choice.plan(Kind::Generate, Class::default()) {
            Err(router::Error::WrongKind { kind, .. }) => choice.plan(kind, Class::default()),
            plan => plan,
        }
    }

    async fn again(&self, tries: &mut Tries, failed: Failed) -> Result<(), Error> {
        tries.again(self, failed).await
    }
}

impl Gateway {
    /// Whether a key may ask for a model by this name.
    #[must_use]
    pub fn allows(&self, access: &Access, model: &str) -> bool {
        let is_named = access.allows(model) || access.allows(&self.router.own_name(model));
        is_named && self.is_open(access, model)
    }

    /// Whether a model is there for this key's project.
    fn is_open(&self, access: &Access, model: &str) -> bool {
        // Other organisations' administrators call their projects what they like.
        let is_ours = access.is_of_the_site();
        let name = is_ours.then_some(access.project_name.as_str());
        let id = access.caller.project.as_str();
        // A revision by its name is there to be tried by whoever decides what serves.
        let is_tried = is_ours || !self.router.names_revision(model);
        is_tried && self.router.is_open_to(model, id, name)
    }

    /// What a model's name means for this key and the person behind it, who is always given the same. `None` where it may not
    /// ask it, or it can't be served, which is said once the request is resolved.
    #[must_use]
    pub fn choose(&self, access: &Access, model: &str, end_user: Option<&str>) -> Option<Choice> {
        let choice = self.choose_open(access, model, end_user);
        choice.filter(|_| self.allows(access, model))
    }

    fn choose_open(&self, access: &Access, model: &str, end_user: Option<&str>) -> Option<Choice> {
        let Caller { project, key, .. } = &access.caller;
        let by = || Some(format!("{project} {}", end_user.unwrap_or(key.as_str())));
        self.router.choose(model, by).ok()
    }

    /// Why a request can't be served whose model came to nothing.
    #[must_use]
    pub fn refusal(&self, access: &Access, model: &str) -> Error {
        if self.allows(access, model) {
            self.router.refusal(model).into()
        } else {
            router::Error::UnknownModel(model.to_owned()).into()
        }
    }

    /// What the name means. To a key that may not ask a model, there is none of that name.
    fn resolve<T>(&self, ask: &Ask<T>, kind: Kind) -> Result<Plan, router::Error> {
        // What `auto` may come to was seen to.
        if ask.decision.is_none() && !self.allows(&ask.access, &ask.model) {
            return Err(router::Error::UnknownModel(ask.model.clone()));
        }
        match &ask.choice {
            Some(choice) => choice.plan(kind, ask.class),
            None => self.router.resolve(&ask.model, kind, ask.class),
        }
    }
}

impl<T> Ask<T> {
    /// The answer's id, as OpenAI spells those of this endpoint.
    #[must_use]
    pub fn answer_id(&self) -> String {
        let kind = match self.endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completions | Endpoint::Embeddings => "cmpl",
        };
        format!("{kind}-{}", self.request.simple())
    }

    /// With a body that several attempts may share.
    fn share(self) -> Ask<Arc<T>> {
        Ask {
            request: self.request,
            access: self.access,
            end_user: self.end_user,
            endpoint: self.endpoint,
            model: self.model,
            choice: self.choice,
            decision: self.decision,
            class: self.class,
            paying: self.paying,
            arrived: self.arrived,
            body: Arc::new(self.body),
        }
    }
}
