use std::path::PathBuf;

use serde::Deserialize;

use super::check_name;
use crate::types::{Adapter, Price};

/// `[[model]]`: a name that clients ask for, what it stands on and what it costs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The name that clients ask for.
    pub name: String,
    /// The `model` of the workers that run it; its own name by default.
    base: Option<String>,
    /// A LoRA adapter over the base, a GGUF file. A relative path is seen from the working directory.
    adapter: Option<PathBuf>,
    /// What the adapter's change of the weights is multiplied with; 1 is as it was trained.
    adapter_scale: Option<f32>,
    /// What it costs; nothing by default.
    #[serde(default)]
    price: PriceConfig,
}

/// Quotes per million tokens, as plain decimals in quotes: a float would round money.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PriceConfig {
    prompt: Option<String>,
    cached_prompt: Option<String>,
    completion: Option<String>,
    /// A quote for each answer, whatever its length.
    request: Option<String>,
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

    /// What its tokens cost. The version names the numbers, so the same ones are the same version.
    ///
    /// # Errors
    /// A quote that is no amount, is too fine or too much.
    pub fn price(&self) -> Result<Price, String> {
        let quote = |text: &Option<String>| text.as_deref().map(Price::per_token).transpose();
        let prompt_pico = quote(&self.price.prompt)?.unwrap_or(0);
        let cached_pico = quote(&self.price.cached_prompt)?.unwrap_or(prompt_pico);
        let completion_pico = quote(&self.price.completion)?.unwrap_or(0);
        let request = self.price.request.as_deref().map(Price::per_request);
        let request_pico = request.transpose()?.unwrap_or(0);
        Ok(Price::named(
            [prompt_pico, cached_pico, completion_pico],
            request_pico,
        ))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        check_name("[[model]]", &self.name)?;
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
        self.price()
            .map(drop)
            .map_err(|error| format!("[[model]] {}: price {error}", self.name))
    }
}
