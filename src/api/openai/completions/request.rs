//! The request, as it comes and as it is checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::prompt::Prompts;
use crate::api::error::ApiError;
use crate::api::openai::sampling::{
    Stop, StreamOptions, WireSampling, choices, max_tokens, min_tokens, stops,
};
use crate::api::openai::unsupported::{field, refuse};
use crate::types::{Format, Generate};

/// OpenAI's default of this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;
/// As on chats. OpenAI itself stops at 5 here.
const MAX_LOGPROBS: u8 = 20;

#[derive(Deserialize)]
pub(in crate::api) struct Request {
    prompt: Prompts,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    best_of: Option<u32>,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    seed: Option<i64>,
    stop: Option<Stop>,
    logprobs: Option<u8>,
    echo: Option<bool>,
    pub(super) user: Option<String>,
    // Not of OpenAI, and named as other servers do:
    repetition_penalty: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    min_tokens: Option<u32>,
    /// Goes on past the model's own end. For benchmarks.
    ignore_eos: Option<bool>,
    // Known, and refused unless it asks for nothing:
    suffix: Option<Value>,
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
