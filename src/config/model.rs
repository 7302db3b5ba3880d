use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::auto::RouteConfig;
use super::price::Prices;
use super::{check_name, json_lines};
use crate::guard::{GuardRule, Guards};
use crate::types::{Adapter, Class, Definition, Nearest, Profile, Reasoning, Tariff};

/// Fields that no vertical sets.
const CLIENTS_OWN: [&str; 5] = ["model", "messages", "prompt", "stream", "stream_options"];

/// `[[model]]`: a name that clients ask for, what it stands on and what it costs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The name that clients ask for.
    pub name: String,
    /// Other names that clients may ask for it by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The `model` of the workers that run it; its own name by default.
    base: Option<String>,
    /// A LoRA adapter over the base, a GGUF file. A relative path is seen from the working directory.
    adapter: Option<PathBuf>,
    /// What the adapter's change of the weights is multiplied with; 1 is as it was trained.
    adapter_scale: Option<f32>,
    /// What remote workers call the adapter that they have loaded, as vLLM and SGLang do: it is asked for in the place of the
    /// base, by whose name the workers are known.
    adapter_name: Option<String>,
    /// Models that are asked in its place, one after another, where its workers fail or have no room. What they
    /// answer is charged at this model's price.
    #[serde(default)]
    fallbacks: Vec<String>,
    /// What it says before its clients do: their own system message goes on where this ends.
    system: Option<String>,
    /// A file of worked examples, a line each: `{"input": "...", "output": "..."}`. They are turns before the client's
    /// first. A relative path is seen from the working directory.
    examples: Option<PathBuf>,
    /// How it is to think before it answers: `{ prompt = "Think step by step, then write Answer: and the answer.",
    /// until = "Answer:" }`. What it thinks is told apart as `reasoning_content`.
    reasoning: Option<Reasoning>,
    /// A file of tools that it has where its clients name none: a JSON list, as `tools` of a request. A relative path is
    /// seen from the working directory.
    tools: Option<PathBuf>,
    /// The most urgent class that its requests may have, and that which they have by default: in the place of what keys
    /// and projects say.
    pub class: Option<Class>,
    /// What may go into it and come out of it.
    #[serde(default, rename = "guard")]
    pub guards: Vec<GuardRule>,
    /// Only the examples that are nearest to what is asked: `{ count = 4, embedding = "all-minilm-l6-v2" }`.
    nearest: Option<Nearest>,
    /// The projects, by id or name, that may ask for it; all by default. To others there is no such model.
    pub projects: Option<Vec<String>>,
    /// Fields of a request, for clients that leave them out: `{ temperature = 0.2, max_tokens = 200 }`.
    #[serde(default)]
    defaults: Map<String, Value>,
    /// Fields of a request, whatever clients say.
    #[serde(default)]
    locked: Map<String, Value>,
    /// Whose questions are compared with the gate's suite, to see whether they still look like it.
    pub drift: Option<DriftConfig>,
    /// What `auto` sends to it.
    pub route: Option<RouteConfig>,
    /// What a revision of it must reach before it serves: `{ suite = "suite.toml", bar = 0.8 }`.
    gate: Option<GateConfig>,
    /// What it costs; nothing by default.
    #[serde(default)]
    price: Prices,
}

/// What a revision must reach before it serves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// A suite, as `forebay eval run` takes it. A relative path is seen from the working directory.
    pub suite: PathBuf,
    /// The least that the lower end of the score's 95% interval may be, from 0 to 1.
    pub bar: f64,
}

/// Whose questions are compared with the gate's suite.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftConfig {
    /// The projects that opted in, by id or name.
    pub projects: Vec<String>,
    /// The embedding model that they are compared by.
    pub embedding: String,
    /// Of their questions so many of a hundred.
    #[serde(default = "sample_percent")]
    pub sample_percent: f64,
    /// The last ones that count.
    #[serde(default = "window")]
    pub window: usize,
}

fn sample_percent() -> f64 {
    5.0
}

fn window() -> usize {
    200
}

impl ModelConfig {
    /// The `model` of the workers that run it.
    #[must_use]
    pub fn base(&self) -> &String {
        self.base.as_ref().unwrap_or(&self.name)
    }

    /// The adapter over the base, where it has one.
    #[must_use]
    pub fn adapter(&self) -> Option<Adapter> {
        let path = self.adapter.clone()?;
        let scale = self.adapter_scale.unwrap_or(1.0);
        Some(Adapter {
            content: adapter_content(&path),
            path,
            scale,
        })
    }

    /// Whether remote workers know its adapter by a name.
    pub(super) fn has_adapter_name(&self) -> bool {
        self.adapter_name.is_some()
    }

    /// The models that are asked in its place.
    #[must_use]
    pub fn fallbacks(&self) -> &[String] {
        &self.fallbacks
    }

    /// What it says before its clients do, and what it fills in of their requests.
    ///
    /// # Errors
    /// The examples can't be read, or a field is none that a vertical may set.
    pub fn profile(&self) -> Result<Option<Profile>, String> {
        let profile = Profile {
            system: self.system.clone(),
            examples: match &self.examples {
                Some(path) => json_lines(path).map_err(|error| format!("examples: {error}"))?,
                None => Vec::new(),
            },
            nearest: self.nearest.clone(),
            defaults: self.defaults()?,
            locked: self.locked.clone(),
            reasoning: self.reasoning.clone(),
        };
        if profile
            .reasoning
            .as_ref()
            .is_some_and(|one| one.until.trim().is_empty())
        {
            return Err("reasoning: until is empty".into());
        }
        if profile
            .nearest
            .as_ref()
            .is_some_and(|nearest| nearest.count == 0)
        {
            return Err("nearest: count must be above 0".into());
        }
        if profile.nearest.is_some() && profile.examples.is_empty() {
            return Err("nearest needs examples".into());
        }
        let fields = profile.defaults.keys().chain(profile.locked.keys());
        if let Some(field) = fields
            .clone()
            .find(|field| CLIENTS_OWN.contains(&field.as_str()))
        {
            return Err(format!("{field} is the client's own to say"));
        }
        Ok((!profile.is_empty()).then_some(profile))
    }

    /// Fields of a request, for clients that leave them out.
    fn defaults(&self) -> Result<Map<String, Value>, String> {
        let mut defaults = self.defaults.clone();
        if let Some(path) = &self.tools {
            let failed =
                |error: &dyn std::fmt::Display| format!("tools: {}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
            let tools: Vec<Value> = serde_json::from_str(&text).map_err(|error| failed(&error))?;
            let before = defaults.insert("tools".to_owned(), tools.into());
            if before.is_some() {
                return Err("tools stand in the defaults as well".into());
            }
        }
        Ok(defaults)
    }

    /// What its answers depend on.
    ///
    /// # Errors
    /// As [`ModelConfig::profile`].
    pub fn definition(&self) -> Result<Definition, String> {
        Ok(Definition {
            base: self.base().clone(),
            adapter_name: self.adapter_name.as_deref().map(Arc::from),
            adapter: self.adapter().map(Arc::new),
            profile: self.profile()?.map(Arc::new),
        })
    }

    /// What a revision of it must reach before it serves.
    #[must_use]
    pub fn gate(&self) -> Option<&GateConfig> {
        self.gate.as_ref()
    }

    /// The embedding model that its examples are chosen by.
    #[must_use]
    pub fn embedding(&self) -> Option<&str> {
        self.nearest
            .as_ref()
            .map(|nearest| nearest.embedding.as_str())
    }

    /// What it costs, and from when on, in the order of time; where there is nothing, it costs nothing.
    ///
    /// # Errors
    /// A quote that is no amount, is too fine or too much, or times out of order.
    pub fn prices(&self) -> Result<Vec<Tariff>, String> {
        self.price.read()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let profile = self.profile().map(drop);
        profile.map_err(|error| format!("[[model]] {}: {error}", self.name))?;
        check_name("[[model]]", &self.name)?;
        for alias in &self.aliases {
            check_name("[[model]] aliases", alias)?;
        }
        let wrong = |what: &str| Err(format!("[[model]] {}: {what}", self.name));
        Guards::new(&self.guards)
            .map(drop)
            .or_else(|error| wrong(&error))?;
        if let Some(drift) = &self.drift {
            if self.gate.is_none() {
                return wrong("drift: it is from a gate's suite, and there is no gate");
            }
            if !(0.0..=100.0).contains(&drift.sample_percent) || drift.window == 0 {
                return wrong("drift: sample_percent is from 0 to 100, window above 0");
            }
        }
        if let Some(gate) = &self.gate
            && !(0.0..=1.0).contains(&gate.bar)
        {
            return wrong("gate: bar must be between 0 and 1");
        }
        if self.adapter_name.is_some() && self.adapter.is_some() {
            return wrong("adapter is for workers here, adapter_name for remote ones");
        }
        match self.adapter_scale {
            Some(_) if self.adapter.is_none() => {
                return wrong("adapter_scale without an adapter");
            }
            Some(scale) if !scale.is_finite() => {
                return wrong("adapter_scale is no number");
            }
            _ => {}
        }
        self.prices()
            .map(drop)
            .map_err(|error| format!("[[model]] {}: price {error}", self.name))
    }
}

/// A file's length, when it changed, and the name of its content.
type Content = (u64, SystemTime, String);

/// A name for the content of an adapter's file; empty where it can't be read, which whoever loads it will say. A file that
/// looks as it did is not read again.
#[must_use]
pub fn adapter_content(path: &Path) -> String {
    static KNOWN: LazyLock<Mutex<HashMap<PathBuf, Content>>> = LazyLock::new(Mutex::default);
    let Ok((length, changed)) =
        std::fs::metadata(path).and_then(|file| Ok((file.len(), file.modified()?)))
    else {
        return String::new();
    };
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((before, then, content)) = known().get(path)
        && (*before, *then) == (length, changed)
    {
        return content.clone();
    }
    let Ok(content) = sum_of(path) else {
        return String::new();
    };
    known().insert(path.to_owned(), (length, changed, content.clone()));
    content
}

fn sum_of(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash) = (std::fs::File::open(path)?, crc32fast::Hasher::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(format!("{:08x}", hash.finalize())),
            read => hash.update(piece.get(..read).unwrap_or_default()),
        }
    }
}
