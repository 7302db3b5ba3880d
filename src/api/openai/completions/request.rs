//! The request, as it comes and as it is checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use super::prompt::Prompts;
use crate::api::body::optional_object;
use crate::api::error::ApiError;
use crate::api::openai::sampling::{
    Stop, StreamOptions, WireSampling, choices, max_tokens, min_tokens, stops,
};
use crate::api::openai::schemas;
use crate::api::openai::unsupported::{field, refuse};
use crate::types::{Format, Generate};

/// OpenAI's default of this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;
/// As on chats. OpenAI itself stops at 5 here.
const MAX_LOGPROBS: u8 = 20;

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateCompletionRequest)]
pub(in crate::api) struct Request {
    /// The model, or an alias of one. It was read before.
    #[serde(default, rename = "model")]
    #[schema(value_type = String, required)]
    _model: IgnoredAny,
    #[schema(schema_with = prompts)]
    prompt: Prompts,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default, deserialize_with = "optional_object")]
    stream_options: Option<StreamOptions>,
    #[schema(minimum = 1, maximum = 128)]
    n: Option<u32>,
    /// As many as `n`, where it is given.
    #[schema(minimum = 1, maximum = 128)]
    best_of: Option<u32>,
    /// 16 by default; 0 where the prompt alone is wanted, with `echo`.
    max_tokens: Option<u32>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(schema_with = schemas::biases)]
    logit_bias: Option<BTreeMap<String, f32>>,
    seed: Option<i64>,
    #[schema(schema_with = schemas::stop)]
    stop: Option<Stop>,
    #[schema(maximum = 20)]
    logprobs: Option<u8>,
    echo: Option<bool>,
    /// The person behind the caller, as the ledger will name them.
    #[schema(max_length = 256)]
    pub(super) user: Option<String>,
    // Not of OpenAI, and named as other servers do:
    #[schema(exclusive_minimum = 0, maximum = 2)]
    repetition_penalty: Option<f32>,
    /// -1 and 0 leave all tokens.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    min_tokens: Option<u32>,
    /// Goes on past the model's own end. For benchmarks.
    ignore_eos: Option<bool>,
    // Known, and refused unless it asks for nothing:
    #[schema(schema_with = no_suffix)]
    suffix: Option<Value>,
}

fn prompts() -> Schema {
    schemas::texts_or_tokens(0, 128)
}

fn no_suffix() -> Schema {
    schemas::optional(schemas::words(&[""]))
}

impl Request {
    /// Whether the answer comes as a stream.
    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether a stream ends with the usage.
    pub(super) fn includes_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options
            .and_then(|options| options.include_usage)
            .unwrap_or(false)
    }

    pub(super) fn decode(self) -> Result<Generate, ApiError> {
        refuse(&[field("suffix", &self.suffix, |value| value == "")])?;
        let prompts = self.prompt.decode()?;
        let choices = choices(self.n, prompts.len())?;
        // The best of more than are shown would have to be generated, weighed and thrown away.
        if self.best_of.is_some_and(|best_of| best_of != choices) {
            return Err(ApiError::unsupported("best_of"));
        }
        let echo = self.echo.unwrap_or(false);
        // With echo the prompt may be all that is wanted, with its log-probabilities.
        let limit = if echo && self.max_tokens == Some(0) {
            0
        } else {
            max_tokens("max_tokens", self.max_tokens)?.unwrap_or(DEFAULT_MAX_TOKENS)
        };
        let sampling = WireSampling {
            logit_bias: self.logit_bias,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            temperature: self.temperature,
            min_p: self.min_p,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        };
        Ok(Generate {
            prompts,
            choices,
            max_tokens: Some(limit),
            min_tokens: min_tokens(self.min_tokens, Some(limit))?,
            sampling: sampling.decode()?,
            stop: stops(self.stop)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            top_logprobs: top_logprobs(self.logprobs)?,
            echo,
            format: Format::Text,
            relay: None,
        })
    }
}

fn top_logprobs(logprobs: Option<u8>) -> Result<Option<u8>, ApiError> {
    if logprobs.is_some_and(|count| count > MAX_LOGPROBS) {
        return Err(ApiError::invalid(
            Some("logprobs"),
            "logprobs may be 20 at most",
        ));
    }
    Ok(logprobs)
}
