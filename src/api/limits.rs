//! How a caller stands to its limits, in OpenAI's headers and two of our own.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::tenancy::{Rate, Standing, seconds};

/// <https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers>
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
const BUDGET_WARNING: HeaderName = HeaderName::from_static("x-forebay-budget-warning");
const CUT_BY: HeaderName = HeaderName::from_static("x-forebay-cut-by");

pub(super) fn insert(headers: &mut HeaderMap, standing: &Standing) {
    for (names, rate) in [(REQUESTS, standing.requests), (TOKENS, standing.tokens)] {
        if let Some(rate) = rate {
            insert_rate(headers, names, rate);
        }
    }
    if let Some(meter) = standing.warning {
        let budget = HeaderValue::from_static(meter.as_str());
        headers.insert(BUDGET_WARNING, budget);
    }
    if let Some(meter) = standing.cut_by {
        let limit = HeaderValue::from_static(meter.as_str());
        headers.insert(CUT_BY, limit);
    }
}

fn insert_rate(headers: &mut HeaderMap, [limit, remaining, reset]: [HeaderName; 3], rate: Rate) {
    headers.insert(limit, rate.limit.into());
    headers.insert(remaining, rate.remaining.into());
    if let Ok(time) = HeaderValue::from_str(&seconds(rate.reset)) {
        headers.insert(reset, time);
    }
}
