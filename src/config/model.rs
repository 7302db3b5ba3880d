use std::path::PathBuf;

use serde::Deserialize;

use super::check_name;
use super::price::Prices;
use crate::types::{Adapter, Tariff};

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

    /// What it costs, and from when on, in the order of time; where there is nothing, it costs nothing.
    ///
    /// # Errors
    /// A quote that is no amount, is too fine or too much, or times out of order.
    pub fn prices(&self) -> Result<Vec<Tariff>, String> {
        self.price.read()
    }

    pub(super) fn check(&self) -> Result<(), String> {
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
