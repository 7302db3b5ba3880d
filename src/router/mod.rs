//! Model name -> [`Plan`]: what a name means, where it can run and what it costs.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::{Config, EngineKind, WorkerConfig};
use crate::types::{Class, Kind, Plan, Price, Profile, Tariff};

/// Why a name can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model has this name.
    #[error("the model {0:?} does not exist")]
    UnknownModel(String),
    /// It exists, and can't do this.
    #[error("the model {model:?} {}", match .kind {
        Kind::Generate => "makes text, not embeddings",
        Kind::Embed => "makes embeddings, not text",
    })]
    WrongKind {
        /// Its name.
        model: String,
        /// What it can do.
        kind: Kind,
    },
}

/// In what form a model's workers want a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speech {
    /// Taken apart, for engines in this process. So is a request for a model that there isn't.
    pub decoded: bool,
    /// In the client's own words, for remote workers.
    pub relayed: bool,
}

impl Speech {
    /// Of a model that there isn't.
    pub const UNKNOWN: Self = Self {
        decoded: true,
        relayed: false,
    };
}

/// The registry of models. Its names are the only ones that become labels.
pub struct Router {
    models: BTreeMap<String, Served>,
    /// Other names of them.
    aliases: BTreeMap<String, String>,
}

struct Served {
    kind: Kind,
    speech: Speech,
    /// At the price that holds before all of `prices`: none.
    plan: Plan,
    /// From when on it costs what, in the order of time.
    prices: Vec<Prices>,
    /// The projects that may ask for it; all, where there is no list.
    projects: Option<Vec<String>>,
}

impl Router {
    /// The models that a config names: each worker's own, and each `[[model]]`.
    ///
    /// # Errors
    /// A price that is no amount; a checked config has none.
    pub fn new(config: &Config) -> Result<Self, String> {
        let (mut models, mut aliases) = (BTreeMap::new(), BTreeMap::new());
        for worker in &config.workers {
            for name in worker.models() {
                models.insert(name.clone(), serve(name, name, config, Vec::new()));
            }
        }
        for model in &config.models_named {
            let mut served = serve(&model.name, model.base(), config, model.prices()?);
            served.plan.fallbacks = model.fallbacks().into();
            served.projects.clone_from(&model.projects);
            served.plan.adapter = model.adapter().map(Arc::new);
            if let Some(adapter) = &served.plan.adapter {
                let stem = adapter.path.file_stem().unwrap_or_default();
                let scale = adapter.scale;
                let revision = format!("{}+{}*{scale}", model.base(), stem.to_string_lossy());
                served.plan.revision = revision.into();
            }
            if let Some(profile) = model.profile()? {
                let revision = format!("{}#{}", served.plan.revision, profile.revision());
                served.plan.revision = revision.into();
                served.plan.profile = Some(Arc::new(profile));
            }
            models.insert(model.name.clone(), served);
            let named = |alias: &String| (alias.clone(), model.name.clone());
            aliases.extend(model.aliases.iter().map(named));
        }
        Ok(Self { models, aliases })
    }

    /// How a name will be served, at the price that holds now for requests of this class.
    ///
    /// # Errors
    /// There is no such model, or it can't do what is asked.
    pub fn resolve(&self, model: &str, kind: Kind, class: Class) -> Result<Plan, Error> {
        let served = self
            .models
            .get(self.own_name(model))
            .ok_or_else(|| Error::UnknownModel(model.to_owned()))?;
        if served.kind != kind {
            return Err(Error::WrongKind {
                model: model.to_owned(),
                kind: served.kind,
            });
        }
        Ok(served.plan_at(Timestamp::now(), class))
    }

    /// Whether a project, by its id or by the name that the config may call it, may ask for a model. A model that there
    /// isn't is open to all.
    #[must_use]
    pub fn is_open_to(&self, model: &str, id: &str, name: Option<&str>) -> bool {
        let served = self.models.get(self.own_name(model));
        let projects = served.and_then(|served| served.projects.as_ref());
        projects.is_none_or(|projects| {
            let is_it = |known: &String| known == id || name == Some(known.as_str());
            projects.iter().any(is_it)
        })
    }

    /// What a model says before its clients do.
    #[must_use]
    pub fn profile(&self, model: &str) -> Option<&Profile> {
        let served = self.models.get(self.own_name(model))?;
        served.plan.profile.as_deref()
    }

    /// In what form the workers want a request that may serve the model, those of its fallbacks included.
    #[must_use]
    pub fn speech(&self, model: &str) -> Speech {
        let Some(served) = self.models.get(self.own_name(model)) else {
            return Speech::UNKNOWN;
        };
        let fallbacks = served.plan.fallbacks.iter();
        let all = fallbacks.filter_map(|name| self.models.get(name.as_str()));
        all.fold(served.speech, |all, other| Speech {
            decoded: all.decoded || other.speech.decoded,
            relayed: all.relayed || other.speech.relayed,
        })
    }

    /// The registry's own spelling of a name, which is empty where there is no such model: a label.
    #[must_use]
    pub fn label(&self, model: &str) -> &str {
        self.models
            .get_key_value(self.own_name(model))
            .map_or("", |(name, _)| name)
    }

    /// A model's own name for one that it may have beside that; any other name is as it was.
    #[must_use]
    pub fn own_name<'a>(&'a self, model: &'a str) -> &'a str {
        self.aliases.get(model).map_or(model, String::as_str)
    }

    /// All names in order, the models' own ones first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = self.models.keys().chain(self.aliases.keys());
        all.map(String::as_str)
    }
}

impl Served {
    fn plan_at(&self, now: Timestamp, class: Class) -> Plan {
        let mut plan = self.plan.clone();
        let past = self.prices.partition_point(|prices| prices.from <= now);
        if let Some(prices) = past.checked_sub(1).and_then(|last| self.prices.get(last)) {
            plan.price = Arc::clone(match class {
                Class::Batch => &prices.batch,
                Class::Standard | Class::Interactive => &prices.price,
            });
        }
        plan
    }
}

/// What a model costs from some time on, the batch class apart.
struct Prices {
    from: Timestamp,
    price: Arc<Price>,
    batch: Arc<Price>,
}

/// A checked config has a worker for each base, all of one kind.
fn serve(name: &str, base: &str, config: &Config, tariffs: Vec<Tariff>) -> Served {
    let free = Price {
        version: "none".into(),
        ..Price::default()
    };
    let shared = |tariff: Tariff| Prices {
        from: tariff.from,
        price: Arc::new(tariff.price),
        batch: Arc::new(tariff.batch),
    };
    let workers = || config.workers.iter().filter(|worker| worker.runs(base));
    let is_remote = |worker: &WorkerConfig| worker.engine == EngineKind::Remote;
    Served {
        kind: workers().next().map_or(Kind::Generate, WorkerConfig::kind),
        speech: Speech {
            decoded: workers().any(|worker| !is_remote(worker)),
            relayed: workers().any(is_remote),
        },
        prices: tariffs.into_iter().map(shared).collect(),
        projects: None,
        plan: Plan {
            model: name.into(),
            revision: base.into(),
            pool: base.into(),
            adapter: None,
            profile: None,
            resume: workers().all(|worker| is_remote(worker) && worker.remote.resume),
            fallbacks: Arc::default(),
            price: Arc::new(free),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        let config = Config::parse(
            "[[worker]]\nname = \"a\"\nengine = \"llama\"\nmodel = \"base\"\n
             [[worker]]\nname = \"b\"\nengine = \"bert\"\nmodel = \"vectors\"\n
             [[model]]\nname = \"legal\"\nbase = \"base\"\nprice = { prompt = \"1\", completion = \"2\", batch_percent = 50 }\n",
        )
        .unwrap();
        Router::new(&config).unwrap()
    }

    #[test]
    fn a_vertical_runs_on_its_base_at_its_own_price() {
        let router = router();
        let plan = router
            .resolve("legal", Kind::Generate, Class::Standard)
            .unwrap();
        assert_eq!((&*plan.model, &*plan.pool), ("legal", "base"));
        assert_eq!(plan.price.completion_pico, 2_000_000);
        let batch = router.resolve("legal", Kind::Generate, Class::Batch);
        assert_eq!(batch.unwrap().price.completion_pico, 1_000_000);
        assert_eq!(
            router
                .resolve("base", Kind::Generate, Class::Standard)
                .unwrap()
                .price
                .completion_pico,
            0
        );
        assert_eq!(
            router.names().collect::<Vec<_>>(),
            ["base", "legal", "vectors"]
        );
    }

    #[test]
    fn a_model_has_other_names_and_is_billed_by_its_own() {
        let config = Config::parse(
            "[[worker]]\nname = \"a\"\nengine = \"llama\"\nmodel = \"base\"\n
             [[model]]\nname = \"base\"\naliases = [\"gpt-4o-mini\"]\n",
        )
        .unwrap();
        let router = Router::new(&config).unwrap();
        let plan = router.resolve("gpt-4o-mini", Kind::Generate, Class::Standard);
        assert_eq!(&*plan.unwrap().model, "base");
        assert_eq!(router.label("gpt-4o-mini"), "base");
        assert!(router.speech("gpt-4o-mini").decoded);
        assert_eq!(router.names().collect::<Vec<_>>(), ["base", "gpt-4o-mini"]);
    }

    #[test]
    fn a_price_holds_from_its_time_until_the_next() {
        let config = Config::parse(
            "[[worker]]\nname = \"a\"\nengine = \"llama\"\nmodel = \"base\"\n
             [[model]]\nname = \"base\"\nprice = [{ prompt = \"1\" }, { from = \"2027-01-01T00:00:00Z\", prompt = \"2\" }]\n",
        )
        .unwrap();
        let router = Router::new(&config).unwrap();
        let served = &router.models["base"];
        let at = |time: &str| {
            let plan = served.plan_at(time.parse().unwrap(), Class::Standard);
            plan.price.prompt_pico
        };
        assert_eq!(at("1970-01-01T00:00:00Z"), 1_000_000);
        assert_eq!(at("2026-12-31T23:59:59.999Z"), 1_000_000);
        assert_eq!(at("2027-01-01T00:00:00Z"), 2_000_000);
    }

    #[test]
    fn what_does_not_exist_or_can_not_do_it_is_refused_by_name() {
        let router = router();
        assert!(matches!(
            router.resolve("x", Kind::Generate, Class::Standard),
            Err(Error::UnknownModel(_))
        ));
        let error = router
            .resolve("vectors", Kind::Generate, Class::Standard)
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "the model \"vectors\" makes embeddings, not text"
        );
        assert_eq!(
            (router.label("legal"), router.label("anything\n")),
            ("legal", "")
        );
    }
}
