//! The part of a request that chat and text completions share.

use serde::Deserialize;

use crate::api::error::ApiError;
use crate::types::Sampling;

const MAX_STOPS: usize = 4;

/// `stop`: one string or a list.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Stop {
    One(String),
    Many(Vec<String>),
}

/// `stream_options`
#[derive(Deserialize)]
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

/// Temperature 1 and top_p 1 are OpenAI's defaults.
pub(super) fn sampling(
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<i64>,
) -> Result<Sampling, ApiError> {
    let temperature = temperature.unwrap_or(1.0);
    let top_p = top_p.unwrap_or(1.0);
    if !(0.0..=2.0).contains(&temperature) {
        return Err(ApiError::invalid(
            Some("temperature"),
            "temperature must be between 0 and 2",
        ));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(ApiError::invalid(
            Some("top_p"),
            "top_p must be above 0, and 1 at most",
        ));
    }
    Ok(Sampling {
        temperature,
        top_p,
        seed: seed.map(i64::cast_unsigned),
        ..Sampling::default()
    })
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
