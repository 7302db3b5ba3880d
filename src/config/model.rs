use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::check_name;
use super::price::Prices;
use crate::types::{Adapter, Example, Nearest, Profile, Tariff};

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
    /// Models that are asked in its place, one after another, where its workers fail or have no room. What they
    /// answer is charged at this model's price.
    #[serde(default)]
    fallbacks: Vec<String>,
    /// What it says before its clients do: their own system message goes on where this ends.
    system: Option<String>,
    /// A file of worked examples, a line each: `{"input": "...", "output": "..."}`. They are turns before the client's
    /// first. A relative path is seen from the working directory.
    examples: Option<PathBuf>,
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
    /// What it costs; nothing by default.
    #[serde(default)]
    price: Prices,
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
        Some(Adapter { path, scale })
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
                Some(path) => examples(path)?,
                None => Vec::new(),
            },
            nearest: self.nearest.clone(),
            defaults: self.defaults.clone(),
            locked: self.locked.clone(),
        };
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

fn examples(path: &Path) -> Result<Vec<Example>, String> {
    let failed = |line: usize, error: &dyn std::fmt::Display| {
        format!("examples: {} line {line}: {error}", path.display())
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("examples: {}: {error}", path.display()))?;
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| serde_json::from_str(line).map_err(|error| failed(number, &error)))
        .collect()
}
