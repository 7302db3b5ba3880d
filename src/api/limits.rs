//! How a caller stands to its limits, in OpenAI's headers and two of our own.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::tenancy::{Rate, Standing, seconds};

/// <https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers>
const REQUESTS: [&str; 3] = [
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
];
const TOKENS: [&str; 3] = [
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

pub(super) fn insert(headers: &mut HeaderMap, standing: &Standing) {
    for (names, rate) in [(REQUESTS, standing.requests), (TOKENS, standing.tokens)] {
        if let Some(rate) = rate {
            insert_rate(headers, names, rate);
        }
    }
    if let Some(meter) = standing.warning {
        let budget = HeaderValue::from_static(meter.as_str());
        headers.insert("x-forebay-budget-warning", budget);
    }
    if let Some(meter) = standing.cut_by {
        let limit = HeaderValue::from_static(meter.as_str());
        headers.insert("x-forebay-cut-by", limit);
    }
}

fn insert_rate(headers: &mut HeaderMap, [limit, remaining, reset]: [&'static str; 3], rate: Rate) {
    headers.insert(HeaderName::from_static(limit), rate.limit.into());
    headers.insert(HeaderName::from_static(remaining), rate.remaining.into());
    if let Ok(time) = HeaderValue::from_str(&seconds(rate.reset)) {
        headers.insert(HeaderName::from_static(reset), time);
    }
}
