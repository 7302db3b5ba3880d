//! What an operator sets: one file, one section a module. Unknown keys are errors.
//!
//! Every value may be overridden by the environment: `FOREBAY_SERVER__LISTEN` is `listen` of `[server]`.

mod auto;
mod batches;
mod files;
mod ledger;
mod metrics;
mod model;
mod price;
mod remote;
mod scheduler;
mod server;
mod store;
mod tenancy;
mod webhook;
mod worker;

use std::collections::HashSet;
use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use auto::{AutoConfig, RouteConfig, RouteRule};
pub use batches::BatchesConfig;
pub use files::FilesConfig;
pub use ledger::LedgerConfig;
pub use metrics::MetricsConfig;
pub use model::{DriftConfig, GateConfig, ModelConfig, adapter_content};
pub use remote::{Discover, RemoteConfig, TimeoutsConfig, TlsConfig};
pub use scheduler::SchedulerConfig;
pub use server::{ServerConfig, ServerTlsConfig};
pub use store::StoreConfig;
pub use tenancy::TenancyConfig;
pub use webhook::WebhookConfig;
pub use worker::{EngineKind, WorkerConfig};

use crate::types::Kind;

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The gateway's own listener.
    #[serde(default)]
    pub server: ServerConfig,
    /// The metrics' listener.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Where projects, keys and the ledger are kept.
    #[serde(default)]
    pub store: StoreConfig,
    /// How charges are booked.
    #[serde(default)]
    pub ledger: LedgerConfig,
    /// Who may ask.
    #[serde(default)]
    pub tenancy: TenancyConfig,
    /// Who is told of budgets that are nearly spent.
    #[serde(default)]
    pub webhook: WebhookConfig,
    /// How requests wait.
    #[serde(default)]
    pub scheduler: SchedulerConfig,
    /// What clients may leave here.
    #[serde(default)]
    pub files: FilesConfig,
    /// Requests that are answered when there is room.
    #[serde(default)]
    pub batches: BatchesConfig,
    /// What a request comes to that asks for `auto`.
    pub auto: Option<AutoConfig>,
    /// What runs the models.
    #[serde(default, rename = "worker")]
    pub workers: Vec<WorkerConfig>,
    /// Names, prices and meanings of models.
    #[serde(default, rename = "model")]
    pub models_named: Vec<ModelConfig>,
}

/// A config that can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file isn't there or can't be read.
    #[error("config {path}: {reason}")]
    Unreadable {
        /// The file as it was named.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// A key is unknown, missing or of the wrong kind.
    #[error("config: {0}")]
    Malformed(String),
    /// The values don't go together.
    #[error("config: {0}")]
    Invalid(String),
}

impl Config {
    /// Reads a file, then the environment over it, and checks that the values go together.
    ///
    /// # Errors
    /// The file can't be read, or holds what can't be served.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        let file = Figment::from(Toml::string(&text));
        // Only FOREBAY_SECTION__KEY: FOREBAY_BIN and the like are nobody's settings. Where the weights are
        // is asked for by commands that read no config, and so is the environment's alone.
        let environment = Env::prefixed("FOREBAY_")
            .filter(|key| key.as_str().contains("__") && key != "models__dir")
            .split("__");
        Self::extract(&file.merge(environment))
    }

    /// Reads a config out of a text, without the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::extract(&Figment::from(Toml::string(text)))
    }

    fn extract(figment: &Figment) -> Result<Self, ConfigError> {
        let config: Self = figment
            .extract()
            .map_err(|error| ConfigError::Malformed(one_line(&error)))?;
        config.check().map_err(ConfigError::Invalid)?;
        Ok(config)
    }

    /// This config with another's models.
    ///
    /// # Errors
    /// They can't be served by the workers of this one.
    pub fn with_models_of(&self, other: Self) -> Result<Self, ConfigError> {
        let config = Self {
            models_named: other.models_named,
            auto: other.auto,
            ..self.clone()
        };
        config.check_models().map_err(ConfigError::Invalid)?;
        config.check_auto().map_err(ConfigError::Invalid)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.workers.is_empty() {
            return Err("no [[worker]]: there is nothing that could answer".into());
        }
        let mut names = HashSet::new();
        for worker in &self.workers {
            worker.check()?;
            if !names.insert(&worker.name) {
                return Err(format!("two [[worker]] are named {:?}", worker.name));
            }
        }
        self.check_models()?;
        self.check_auto()?;
        self.scheduler.check()?;
        self.store.check()?;
        self.ledger.check()?;
        self.batches.check()?;
        self.webhook.check()?;
        self.tenancy.check(self.server.listen)
    }

    fn check_models(&self) -> Result<(), String> {
        let bases: HashSet<_> = self.workers.iter().flat_map(WorkerConfig::models).collect();
        for base in &bases {
            let kinds: Vec<_> = self
                .workers
                .iter()
                .filter(|worker| worker.runs(base))
                .map(WorkerConfig::kind)
                .collect();
            if kinds.iter().any(|kind| *kind != kinds[0]) {
                return Err(format!("model {base:?} is served by workers of two kinds"));
            }
        }
        let (mut names, mut aliases) = (HashSet::new(), HashSet::new());
        for model in &self.models_named {
            model.check()?;
            if !names.insert(&model.name) {
                return Err(format!("two [[model]] are named {:?}", model.name));
            }
            if !bases.contains(model.base()) {
                return Err(format!(
                    "model {:?} stands on {:?}, which no worker serves",
                    model.name,
                    model.base()
                ));
            }
            for alias in &model.aliases {
                let named = |model: &ModelConfig| model.name == *alias;
                if bases.contains(alias)
                    || self.models_named.iter().any(named)
                    || !aliases.insert(alias)
                {
                    return Err(format!(
                        "model {:?} has the alias {alias:?}, which names something else as well",
                        model.name
                    ));
                }
            }
            self.check_embedding(model)?;
            self.check_route(model)?;
            self.check_profile(model)?;
            for fallback in model.fallbacks() {
                let named = |model: &ModelConfig| model.name == *fallback;
                if !bases.contains(fallback) && !self.models_named.iter().any(named) {
                    return Err(format!(
                        "model {:?} falls back on {fallback:?}, which there isn't",
                        model.name
                    ));
                }
            }
            let runs_it = |worker: &&WorkerConfig| worker.runs(model.base());
            let mut workers = self.workers.iter().filter(runs_it);
            if model.adapter().is_some() && workers.any(|worker| worker.engine != EngineKind::Llama)
            {
                return Err(format!(
                    "model {:?} has an adapter, which only workers of the engine llama can load",
                    model.name
                ));
            }
            self.check_adapter_name(model)?;
        }
        Ok(())
    }

    fn check_auto(&self) -> Result<(), String> {
        let Some(auto) = &self.auto else {
            return Ok(());
        };
        auto.check()?;
        let kind = |name: &String| {
            let named = self.models_named.iter().find(|model| model.name == *name);
            let base = named.map_or(name, ModelConfig::base);
            let mut runs = self.workers.iter().filter(|worker| worker.runs(base));
            runs.next().map(WorkerConfig::kind)
        };
        if kind(&auto.general) != Some(Kind::Generate) {
            return Err(format!(
                "[auto] general is {:?}, which answers nothing",
                auto.general
            ));
        }
        if kind(&auto.embedding) != Some(Kind::Embed) {
            let name = &auto.embedding;
            return Err(format!(
                "[auto] embedding is {name:?}, which is no embedding model"
            ));
        }
        let all = self.workers.iter().flat_map(WorkerConfig::models);
        let named = self.models_named.iter();
        let named = named.flat_map(|model| model.aliases.iter().chain([&model.name]));
        if all.chain(named).any(|name| name == crate::types::AUTO) {
            return Err("[auto] stands beside a model that has its name".into());
        }
        Ok(())
    }

    /// An adapter that is known by its name is in workers elsewhere.
    fn check_adapter_name(&self, model: &ModelConfig) -> Result<(), String> {
        let mut runs = self
            .workers
            .iter()
            .filter(|worker| worker.runs(model.base()));
        if model.has_adapter_name() && runs.any(|worker| worker.engine != EngineKind::Remote) {
            let message = "has an adapter_name, which only remote workers know";
            return Err(format!("model {:?} {message}", model.name));
        }
        Ok(())
    }

    /// What `auto` may send to a vertical.
    fn check_route(&self, model: &ModelConfig) -> Result<(), String> {
        let Some(route) = &model.route else {
            return Ok(());
        };
        let wrong = |what: &str| format!("[[model]] {}: {what}", model.name);
        route.check().map_err(|error| wrong(&error))?;
        if self.auto.is_none() {
            return Err(wrong("it has a route, and there is no [auto]"));
        }
        if let Some(beside) = &route.beside {
            let other = self.models_named.iter().find(|other| other.name == *beside);
            let route = other.and_then(|other| other.route.as_ref());
            if route.is_none_or(|route| route.beside.is_some()) {
                return Err(wrong(
                    "it stands beside a model that has no route of its own",
                ));
            }
        }
        Ok(())
    }

    /// What a vertical says is for models that answer, and what it falls back on says nothing of its own, to whomever.
    fn check_profile(&self, model: &ModelConfig) -> Result<(), String> {
        let mut runs = self
            .workers
            .iter()
            .filter(|worker| worker.runs(model.base()));
        let embeds = runs.any(|worker| worker.kind() == Kind::Embed);
        if embeds && (model.profile()?.is_some() || !model.guards.is_empty()) {
            let message =
                "stands on an embedding model, which can't be told anything, and has no rules";
            return Err(format!("model {:?} {message}", model.name));
        }
        let named = |name: &String| self.models_named.iter().find(|other| other.name == *name);
        for fallback in model.fallbacks().iter().filter_map(named) {
            if fallback.projects.is_some()
                || !fallback.guards.is_empty()
                || fallback.profile()?.is_some()
            {
                return Err(format!(
                    "model {:?} falls back on {:?}, which has projects, rules or things to say of its own",
                    model.name, fallback.name
                ));
            }
        }
        Ok(())
    }

    /// A vertical's examples are chosen by a model that there is.
    fn check_embedding(&self, model: &ModelConfig) -> Result<(), String> {
        let drift = model.drift.as_ref().map(|drift| drift.embedding.as_str());
        for embedding in model.embedding().into_iter().chain(drift) {
            let mut workers = self.workers.iter().filter(|worker| worker.runs(embedding));
            if !workers.any(|worker| worker.kind() == Kind::Embed) {
                return Err(format!(
                    "model {:?} compares by {embedding:?}, which no worker makes embeddings with",
                    model.name
                ));
            }
        }
        Ok(())
    }
}

/// A file of JSON, a value each line.
fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = (1_usize..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let failed = |error| format!("{} line {number}: {error}", path.display());
            serde_json::from_str(line).map_err(failed)
        })
        .collect()
}

/// An error in the TOML itself comes as a drawing over several lines; its words are enough.
fn one_line(error: &figment::Error) -> String {
    let text = error.to_string();
    let words = text.lines().filter(|line| !line.contains('|'));
    words.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Names that become metric labels, ledger columns and parts of URLs.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
        return Err(format!(
            "{what} name {name:?}: 1 to 128 letters, digits and - _ . : /"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: &str = "[[worker]]\nname = \"w\"\nengine = \"llama\"\nmodel = \"m\"\n";

    fn refusal(text: &str) -> String {
        let line = Config::parse(text).unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn a_worker_is_all_that_is_needed() {
        let config = Config::parse(WORKER).unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.metrics.listen.to_string(), "127.0.0.1:9464");
        assert_eq!(config.workers[0].slots(), 32);
    }

    #[test]
    fn an_unknown_key_is_named() {
        assert!(refusal(&format!("{WORKER}[server]\nlissten = \"\"\n")).contains("lissten"));
        assert!(refusal(&format!("{WORKER}speed = 1\n")).contains("speed"));
        assert!(refusal(&format!("{WORKER}[colour]\n")).contains("colour"));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let bootstrap = "[tenancy]\nbootstrap_key = \"fb-local\"\n";
        let open = "[server]\nlisten = \"0.0.0.0:1\"\n";
        for (text, word) in [
            (String::new(), "[[worker]]"),
            (format!("{WORKER}{WORKER}"), "two [[worker]]"),
            (
                format!("{WORKER}[[model]]\nname = \"x\"\nbase = \"y\"\n"),
                "\"y\"",
            ),
            (format!("{WORKER}{bootstrap}{open}"), "loopback"),
            (WORKER.replace("\"w\"", "\"a b\""), "a b"),
            (format!("{WORKER}slots = 0\n"), "slots"),
            (
                format!("{WORKER}[[model]]\nname = \"m\"\naliases = [\"a\", \"a\"]\n"),
                "alias",
            ),
            (
                format!("{WORKER}[[model]]\nname = \"x\"\nbase = \"m\"\naliases = [\"m\"]\n"),
                "alias",
            ),
            (
                format!("{WORKER}[store]\nurl = \"mysql://u:secret@h/d\"\n"),
                "mysql",
            ),
            (format!("{WORKER}[ledger]\nlease_s = 1\n"), "lease_s"),
            (
                format!("{WORKER}[[model]]\nname = \"m\"\nexamples = \"none.jsonl\"\n"),
                "none.jsonl",
            ),
            (
                format!(
                    "{WORKER}[[model]]\nname = \"a\"\nbase = \"m\"\nfallbacks = [\"b\"]
                     [[model]]\nname = \"b\"\nbase = \"m\"\nprojects = [\"x\"]\n"
                ),
                "falls back",
            ),
            (
                format!(
                    "{WORKER}[[worker]]\nname = \"v\"\nengine = \"bert\"\nmodel = \"v\"
                     [[model]]\nname = \"v\"\nlocked = {{ dimensions = 8 }}\n"
                ),
                "embedding model",
            ),
            (
                format!("{WORKER}[[model]]\nname = \"m\"\nlocked = {{ messages = [] }}\n"),
                "messages is the client's own",
            ),
            (
                format!(
                    "{WORKER}[[model]]\nname = \"m\"\nexamples = \"config/examples/hydropower/examples.jsonl\"
                     nearest = {{ count = 2, embedding = \"m\" }}\n"
                ),
                "no worker makes embeddings",
            ),
            (
                format!("{WORKER}[store]\nurl = \"sqlite://:memory:\"\n"),
                "file",
            ),
            (format!("{WORKER}[models]\ndir = \"x\"\n"), "models"),
            (
                format!("{WORKER}[[model]]\nname = \"m\"\nprice = {{ prompt = \"1e9\" }}\n"),
                "1e9",
            ),
        ] {
            assert!(refusal(&text).contains(word), "{text}: {}", refusal(&text));
        }
    }

    #[test]
    fn the_configs_that_ship_are_good() {
        Config::parse(include_str!(
            "../../config/examples/hydropower/forebay.toml"
        ))
        .unwrap();
        Config::parse(include_str!("../../config/examples/routing/forebay.toml")).unwrap();
        Config::parse(include_str!("../../config/quickstart.toml")).unwrap();
        Config::parse(include_str!("../../deploy/container.toml")).unwrap();
    }
}
