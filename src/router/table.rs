//! What names mean at one time: made of a config and of what the store says serves, and never changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::auto::Auto;
use super::{Error, Speech};
use crate::config::{Config, EngineKind, ModelConfig, WorkerConfig, adapter_content};
use crate::guard::Guards;
use crate::types::{
    Class, Definition, Kind, Plan, Price, Profile, Serving, Share, StoredRevision, Tariff,
};

/// A revision may be named by the beginning of its id, from so many characters on.
const SHORTEST_ID: usize = 4;

/// What stands in the store beside the config.
#[derive(Default)]
pub struct Stored {
    /// All revisions.
    pub revisions: Vec<StoredRevision>,
    /// Which of them serve. A model of which nothing stands here serves as the config says, unless it has a gate.
    pub serving: Vec<Serving>,
    /// What revisions must reach before they serve, by model.
    pub gates: BTreeMap<String, Gate>,
    /// What the config says of models, where its files were read already.
    pub definitions: BTreeMap<String, Definition>,
    /// How `auto` is decided, where that was read already.
    pub auto: Option<Arc<Auto>>,
}

/// What a revision must reach before it serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// The suite's name.
    pub suite: String,
    /// A name for the suite's content.
    pub version: String,
    /// The least that the lower end of the score's 95% interval may be.
    pub bar: f64,
    /// What the suite asks.
    pub inputs: Arc<[String]>,
}

/// Whose questions are compared with a suite.
#[derive(Debug)]
pub struct DriftOf {
    /// The projects that opted in, by id or name.
    pub projects: Vec<String>,
    /// The embedding model that they are compared by.
    pub embedding: String,
    /// Of their questions so many of a hundred.
    pub sample_percent: f64,
    /// The last ones that count.
    pub window: usize,
    /// A name for the suite's content.
    pub suite: String,
    /// The suite's questions.
    pub inputs: Arc<[String]>,
}

/// What names mean.
pub struct Table {
    pub(super) models: BTreeMap<String, Arc<Served>>,
    /// Other names of them.
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) auto: Option<Arc<Auto>>,
}

/// A model.
pub(super) struct Served {
    pub(super) name: Arc<str>,
    /// From when on it costs what, in the order of time.
    prices: Vec<Prices>,
    /// The projects that may ask for it; all, where there is no list.
    pub(super) projects: Option<Vec<String>>,
    fallbacks: Arc<[String]>,
    fallback_speech: Speech,
    pub(super) gate: Option<Gate>,
    guards: Arc<Guards>,
    class: Option<Class>,
    drift: Option<Arc<DriftOf>>,
    /// The id of what the config says.
    pub(super) configured: String,
    /// Those that can be run.
    pub(super) revisions: BTreeMap<String, Arc<Revision>>,
    /// None, where none may serve.
    serving: Option<Arc<Revision>>,
    canary: Option<(Arc<Revision>, f64)>,
    shadow: Option<(Arc<Revision>, f64)>,
}

/// One of the things that a model's name may mean.
pub(super) struct Revision {
    pub(super) id: String,
    pub(super) definition: Definition,
    name: Arc<str>,
    pool: Arc<str>,
    kind: Kind,
    speech: Speech,
    resume: bool,
}

/// What a request's model came to: a revision of it, whatever else begins to serve while the request runs.
#[derive(Clone)]
pub struct Choice {
    model: Arc<Served>,
    revision: Arc<Revision>,
    shadow: Option<Arc<Revision>>,
    /// The revision was asked for by its own name: somebody tries it.
    is_tried: bool,
}

impl Table {
    /// The models that a config names: each worker's own, and each `[[model]]`, at the revisions that serve.
    ///
    /// # Errors
    /// A price that is no amount, or examples that can't be read; a checked config has neither.
    pub fn new(config: &Config, stored: &Stored) -> Result<Self, String> {
        let (mut models, mut aliases) = (BTreeMap::new(), BTreeMap::new());
        for worker in &config.workers {
            for name in worker.models() {
                let own = Definition {
                    base: name.clone(),
                    adapter: None,
                    adapter_name: None,
                    profile: None,
                };
                models.insert(name.clone(), Served::new(name, own, config));
            }
        }
        for model in &config.models_named {
            models.insert(model.name.clone(), Served::named(model, config, stored)?);
            let named = |alias: &String| (alias.clone(), model.name.clone());
            aliases.extend(model.aliases.iter().map(named));
        }
        let speeches: BTreeMap<_, _> = models
            .iter()
            .filter_map(|(name, model)| Some((name.clone(), model.serving.as_ref()?.speech)))
            .collect();
        for model in models.values_mut() {
            let known = model.fallbacks.iter().filter_map(|name| speeches.get(name));
            model.fallback_speech = known.fold(Speech::NONE, |all, other| all.and(*other));
        }
        let models = models
            .into_iter()
            .map(|(name, model)| (name, Arc::new(model)))
            .collect();
        Ok(Self {
            models,
            aliases,
            auto: match &stored.auto {
                Some(auto) => Some(Arc::clone(auto)),
                None => Auto::new(config)?.map(Arc::new),
            },
        })
    }

    /// A model by one of its names, with a revision of it where the name says one, as `name@id`.
    pub(super) fn find<'a>(&self, name: &'a str) -> Option<(&Arc<Served>, Option<&'a str>)> {
        let known = |name: &str| {
            let own = self.aliases.get(name).map_or(name, String::as_str);
            self.models.get(own)
        };
        match known(name) {
            Some(model) => Some((model, None)),
            None => {
                let (name, id) = name.split_once('@')?;
                Some((known(name)?, Some(id)))
            }
        }
    }

    /// What a name means for whoever asks.
    pub(super) fn choose(
        &self,
        name: &str,
        by: impl FnOnce() -> Option<String>,
    ) -> Result<Choice, Error> {
        let unknown = || Error::UnknownModel(name.to_owned());
        let (model, id) = self.find(name).ok_or_else(unknown)?;
        let choice = |revision: &Arc<Revision>, shadow| Choice {
            model: Arc::clone(model),
            revision: Arc::clone(revision),
            shadow,
            is_tried: id.is_some(),
        };
        if let Some(id) = id {
            let revision = model.revision(id).ok_or_else(unknown)?;
            return Ok(choice(revision, None));
        }
        let closed = || Error::Closed(name.to_owned());
        let serving = model.serving.as_ref().ok_or_else(closed)?;
        if model.canary.is_none() && model.shadow.is_none() {
            return Ok(choice(serving, None));
        }
        let Some(by) = by() else {
            return Ok(choice(serving, None));
        };
        let gets = |share: &Option<(Arc<Revision>, f64)>, what: &str| {
            let (revision, percent) = share.as_ref()?;
            (draw(&[what, &model.name, &by]) < *percent).then(|| Arc::clone(revision))
        };
        let canary = gets(&model.canary, "canary");
        Ok(choice(
            canary.as_ref().unwrap_or(serving),
            gets(&model.shadow, "shadow"),
        ))
    }
}

/// From 0 to 100, the same for the same words, and as good as random over others.
fn draw(words: &[&str]) -> f64 {
    let mut hash = Sha256::new();
    for word in words {
        hash.update((word.len() as u64).to_le_bytes());
        hash.update(word);
    }
    let [a, b, c, d, ..]: [u8; 32] = hash.finalize().into();
    f64::from(u32::from_le_bytes([a, b, c, d])) * 100.0 / (f64::from(u32::MAX) + 1.0)
}

impl Served {
    /// As it stands in no `[[model]]`. A checked config has a worker for each base, all of one kind.
    fn new(name: &str, own: Definition, config: &Config) -> Self {
        let configured = own.id();
        let revision = Revision::new(own, config).map(Arc::new);
        Self {
            name: name.into(),
            prices: Vec::new(),
            projects: None,
            fallbacks: Arc::default(),
            fallback_speech: Speech::NONE,
            gate: None,
            guards: Arc::default(),
            class: None,
            drift: None,
            revisions: revision
                .iter()
                .map(|revision| (configured.clone(), Arc::clone(revision)))
                .collect(),
            configured,
            serving: revision,
            canary: None,
            shadow: None,
        }
    }

    fn named(model: &ModelConfig, config: &Config, stored: &Stored) -> Result<Self, String> {
        let own = match stored.definitions.get(&model.name) {
            Some(own) => own.clone(),
            None => model.definition()?,
        };
        let mut served = Self::new(&model.name, own, config);
        served.prices = model.prices()?.into_iter().map(Prices::from).collect();
        served.projects.clone_from(&model.projects);
        served.fallbacks = model.fallbacks().into();
        served.guards = Arc::new(Guards::new(&model.guards)?);
        served.class = model.class;
        served.gate = stored.gates.get(&model.name).cloned();
        served.drift = model
            .drift
            .as_ref()
            .zip(served.gate.as_ref())
            .map(|(drift, gate)| {
                Arc::new(DriftOf {
                    projects: drift.projects.clone(),
                    embedding: drift.embedding.clone(),
                    sample_percent: drift.sample_percent,
                    window: drift.window,
                    suite: gate.version.clone(),
                    inputs: Arc::clone(&gate.inputs),
                })
            });
        for kept in stored
            .revisions
            .iter()
            .filter(|kept| kept.model == model.name)
        {
            if let Some(revision) = runnable(kept, config) {
                let revision = Arc::new(revision);
                served.revisions.entry(kept.id.clone()).or_insert(revision);
            }
        }
        let state = stored
            .serving
            .iter()
            .find(|state| state.model == model.name);
        if let Some(state) = state {
            let share = |share: &Option<Share>| {
                let share = share.as_ref()?;
                let revision = served.revisions.get(&share.revision)?;
                Some((Arc::clone(revision), share.percent))
            };
            served.canary = share(&state.canary);
            served.shadow = share(&state.shadow);
            served.serving = served.revisions.get(&state.revision).cloned();
        } else if model.gate().is_some() {
            served.serving = None;
        }
        Ok(served)
    }

    /// The one whose id begins so.
    pub(super) fn revision(&self, id: &str) -> Option<&Arc<Revision>> {
        if id.len() < SHORTEST_ID {
            return None;
        }
        let mut fits = self.revisions.values().filter(|one| one.id.starts_with(id));
        fits.next().filter(|_| fits.next().is_none())
    }

    pub(super) fn price_at(&self, now: Timestamp, class: Class) -> Arc<Price> {
        let past = self.prices.partition_point(|prices| prices.from <= now);
        match past.checked_sub(1).and_then(|last| self.prices.get(last)) {
            Some(prices) => Arc::clone(match class {
                Class::Batch => &prices.batch,
                Class::Standard | Class::Interactive => &prices.price,
            }),
            None => Arc::new(Price {
                version: "none".into(),
                ..Price::default()
            }),
        }
    }
}

/// A revision that was kept, if it can still be run as it was.
fn runnable(kept: &StoredRevision, config: &Config) -> Option<Revision> {
    let (model, id) = (&kept.model, &kept.id);
    let definition = kept.definition.clone();
    if let Some(adapter) = &definition.adapter
        && adapter_content(&adapter.path) != adapter.content
    {
        tracing::warn!(%model, revision = %id, "its adapter's file is another one now: it can't be served");
        return None;
    }
    let revision = Revision::new(definition, config);
    if revision.is_none() {
        tracing::warn!(%model, revision = %id, "no worker runs its base any more: it can't be served");
    }
    revision
}

impl Revision {
    /// `None` where no worker runs its base.
    fn new(definition: Definition, config: &Config) -> Option<Self> {
        let base = &definition.base;
        let workers = || config.workers.iter().filter(|worker| worker.runs(base));
        let is_remote = |worker: &WorkerConfig| worker.engine == EngineKind::Remote;
        Some(Self {
            id: definition.id(),
            name: definition.name().into(),
            pool: base.as_str().into(),
            kind: workers().next().map(WorkerConfig::kind)?,
            speech: Speech {
                decoded: workers().any(|worker| !is_remote(worker)),
                relayed: workers().any(is_remote),
            },
            resume: workers().all(|worker| is_remote(worker) && worker.remote.resume),
            definition,
        })
    }
}

impl Choice {
    /// How it will be served, at the price that holds now for requests of this class.
    ///
    /// # Errors
    /// The model can't do what is asked.
    pub fn plan(&self, kind: Kind, class: Class) -> Result<Plan, Error> {
        let Revision { definition, .. } = &*self.revision;
        if self.revision.kind != kind {
            return Err(Error::WrongKind {
                model: self.model.name.to_string(),
                kind: self.revision.kind,
            });
        }
        Ok(Plan {
            model: Arc::clone(&self.model.name),
            revision: Arc::clone(&self.revision.name),
            pool: Arc::clone(&self.revision.pool),
            sent: Arc::clone(
                definition
                    .adapter_name
                    .as_ref()
                    .unwrap_or(&self.revision.pool),
            ),
            adapter: definition.adapter.clone(),
            profile: definition.profile.clone(),
            resume: self.revision.resume,
            fallbacks: Arc::clone(&self.model.fallbacks),
            price: self.model.price_at(Timestamp::now(), class),
        })
    }

    /// The model's own name.
    #[must_use]
    pub fn model(&self) -> &Arc<str> {
        &self.model.name
    }

    /// The revision, by its name in the ledger.
    #[must_use]
    pub fn revision(&self) -> &Arc<str> {
        &self.revision.name
    }

    /// What it says before its clients do.
    #[must_use]
    pub fn profile(&self) -> Option<&Arc<Profile>> {
        self.revision.definition.profile.as_ref()
    }

    /// What may go into it and come out of it.
    #[must_use]
    pub fn guards(&self) -> &Arc<Guards> {
        &self.model.guards
    }

    /// Whose questions are compared with its suite.
    #[must_use]
    pub fn drift(&self) -> Option<&Arc<DriftOf>> {
        self.model.drift.as_ref().filter(|_| !self.is_tried)
    }

    /// The class of a request for it, in the place of what its key says, where the model has one.
    #[must_use]
    pub fn class(&self, asked: Option<Class>) -> Option<Class> {
        let own = self.model.class?;
        Some(asked.map_or(own, |asked| asked.min(own)))
    }

    /// In what form the workers want a request that may serve it, those of its fallbacks included.
    #[must_use]
    pub fn speech(&self) -> Speech {
        self.revision.speech.and(self.model.fallback_speech)
    }

    /// The revision that is to be asked beside it, and answers nobody.
    #[must_use]
    pub fn shadow(&self) -> Option<Self> {
        Some(Self {
            model: Arc::clone(&self.model),
            revision: Arc::clone(self.shadow.as_ref()?),
            shadow: None,
            is_tried: false,
        })
    }
}

/// What a model costs from some time on, the batch class apart.
struct Prices {
    from: Timestamp,
    price: Arc<Price>,
    batch: Arc<Price>,
}

impl From<Tariff> for Prices {
    fn from(tariff: Tariff) -> Self {
        Self {
            from: tariff.from,
            price: Arc::new(tariff.price),
            batch: Arc::new(tariff.batch),
        }
    }
}
