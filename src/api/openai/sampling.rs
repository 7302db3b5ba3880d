//! The part of a request that chat and text completions share.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::error::ApiError;
use crate::types::{Class, Sampling};

const MAX_STOPS: usize = 4;
/// Answers to one request, over all its prompts; also the most that `n` may be.
pub(super) const MAX_ANSWERS: u32 = 128;
const MAX_BIASES: usize = 1024;
pub(super) const MAX_TOKEN_ID: u32 = i32::MAX.cast_unsigned();

/// `stop`: one string or a list.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Stop {
    One(String),
    Many(Vec<String>),
}

/// `service_tier`: OpenAI's names of how urgent a request is.
#[derive(Deserialize, Clone, Copy, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ServiceTier)]
pub(super) enum Tier {
    Auto,
    Default,
    Flex,
    Priority,
}

impl Tier {
    /// What a class is called in an answer.
    pub(super) fn name(class: Class) -> &'static str {
        match class {
            Class::Standard => "default",
            Class::Batch => "flex",
            Class::Interactive => "priority",
        }
    }

    /// What is asked for; `auto` leaves it to the key.
    pub(super) fn class(self) -> Option<Class> {
        match self {
            Self::Auto => None,
            Self::Default => Some(Class::Standard),
            Self::Flex => Some(Class::Batch),
            Self::Priority => Some(Class::Interactive),
        }
    }
}

/// `stream_options`
#[derive(Deserialize, ToSchema)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

/// The stop strings. Empty ones stop nothing.
pub(super) fn stops(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
    let mut stops = match stop {
        None => Vec::new(),
        Some(Stop::One(one)) => vec![one],
        Some(Stop::Many(many)) => many,
    };
    stops.retain(|stop| !stop.is_empty());
    if stops.len() > MAX_STOPS {
        return Err(ApiError::invalid(
            Some("stop"),
            "stop may have 4 strings at most",
        ));
    }
    Ok(stops)
}

/// The fields that say how tokens are chosen, as they came. Those that OpenAI doesn't have are named and
/// bounded as other servers do it.
pub(super) struct WireSampling {
    pub(super) logit_bias: Option<BTreeMap<String, f32>>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) temperature: Option<f32>,
    pub(super) min_p: Option<f32>,
    pub(super) top_k: Option<i64>,
    pub(super) top_p: Option<f32>,
    pub(super) seed: Option<i64>,
}

impl WireSampling {
    /// What isn't said leaves the distribution as it is.
    pub(super) fn decode(self) -> Result<Sampling, ApiError> {
        let penalty = -2.0..=2.0;
        Ok(Sampling {
            logit_bias: biases(self.logit_bias.unwrap_or_default())?,
            repetition_penalty: above_zero("repetition_penalty", self.repetition_penalty, 2.0)?,
            frequency_penalty: within(
                "frequency_penalty",
                self.frequency_penalty.unwrap_or(0.0),
                &penalty,
            )?,
            presence_penalty: within(
                "presence_penalty",
                self.presence_penalty.unwrap_or(0.0),
                &penalty,
            )?,
            temperature: within("temperature", self.temperature.unwrap_or(1.0), &(0.0..=2.0))?,
            min_p: within("min_p", self.min_p.unwrap_or(0.0), &(0.0..=1.0))?,
            top_k: top_k(self.top_k)?,
            top_p: above_zero("top_p", self.top_p, 1.0)?,
            seed: self.seed.map(i64::cast_unsigned),
        })
    }
}

fn within(param: &str, value: f32, range: &RangeInclusive<f32>) -> Result<f32, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!(
        "{param} must be between {} and {}",
        range.start(),
        range.end()
    );
    Err(ApiError::invalid(Some(param), &message))
}

/// A factor or a share: 1 changes nothing, and 0 would leave nothing.
fn above_zero(param: &str, value: Option<f32>, most: f32) -> Result<f32, ApiError> {
    let value = value.unwrap_or(1.0);
    if value > 0.0 && value <= most {
        return Ok(value);
    }
    let message = format!("{param} must be above 0, and {most} at most");
    Err(ApiError::invalid(Some(param), &message))
}

/// 0 and -1 both leave every token.
fn top_k(value: Option<i64>) -> Result<u32, ApiError> {
    match value.unwrap_or(0) {
        -1 => Ok(0),
        count => u32::try_from(count).map_err(|_| {
            let message = "top_k must be -1, 0 (both are all tokens) or a number of tokens";
            ApiError::invalid(Some("top_k"), message)
        }),
    }
}

/// A token id is written in one way alone, so that no two keys mean the same token.
fn biases(biases: BTreeMap<String, f32>) -> Result<Vec<(u32, f32)>, ApiError> {
    let refused = |message: &str| Err(ApiError::invalid(Some("logit_bias"), message));
    if biases.len() > MAX_BIASES {
        return refused("logit_bias may have 1024 tokens at most");
    }
    let mut decoded = Vec::with_capacity(biases.len());
    for (key, bias) in biases {
        let Some(token) = token_id(&key) else {
            return refused("logit_bias has a key that is no token id");
        };
        if !(-100.0..=100.0).contains(&bias) {
            return refused("logit_bias must be between -100 and 100 for each token");
        }
        decoded.push((token, bias));
    }
    Ok(decoded)
}

fn token_id(key: &str) -> Option<u32> {
    let id = key.parse().ok().filter(|id| is_token_id(*id))?;
    (id.to_string() == key).then_some(id)
}

/// Engines count tokens with signed numbers; which ids a model has is for its worker to say.
pub(super) fn is_token_id(id: u32) -> bool {
    id <= MAX_TOKEN_ID
}

/// Answers to each prompt.
pub(super) fn choices(n: Option<u32>, prompts: usize) -> Result<u32, ApiError> {
    let n = n.unwrap_or(1);
    if !(1..=MAX_ANSWERS).contains(&n) {
        return Err(ApiError::invalid(Some("n"), "n must be between 1 and 128"));
    }
    let all = u32::try_from(prompts).map_or(u32::MAX, |prompts| prompts.saturating_mul(n));
    if all > MAX_ANSWERS {
        let param = if n == 1 { "prompt" } else { "n" };
        let message = format!(
            "{prompts} prompts with {n} answers each are more than the {MAX_ANSWERS} answers that one \
             request may have"
        );
        return Err(ApiError::invalid(Some(param), &message));
    }
    Ok(n)
}

/// A limit of 0 would be an answer without a token.
pub(super) fn max_tokens(param: &str, value: Option<u32>) -> Result<Option<u32>, ApiError> {
    if value == Some(0) {
        return Err(ApiError::invalid(
            Some(param),
            &format!("{param} must be at least 1"),
        ));
    }
    Ok(value)
}

/// Not more than there may be.
pub(super) fn min_tokens(value: Option<u32>, max_tokens: Option<u32>) -> Result<u32, ApiError> {
    let value = value.unwrap_or(0);
    if max_tokens.is_some_and(|most| value > most) {
        return Err(ApiError::invalid(
            Some("min_tokens"),
            "min_tokens must not be more than max_tokens",
        ));
    }
    Ok(value)
}
