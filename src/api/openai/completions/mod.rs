//! `POST /v1/completions`

mod answer;
mod logprobs;
mod prompt;
mod request;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::Timestamp;

use self::answer::Text;
use self::request::Request;
use super::answer::{streamed, whole, with_found, with_headers};
use super::chat::observed;
use super::fingerprint;
use super::outgoing::Source;
use super::profile::{profiled, sample};
use super::relay::{self, Peeked};
use super::shadow::Pending;
use crate::api::Api;
use crate::api::Shared;
use crate::api::asked::{Asked, end_user};
use crate::api::body::Raw;
use crate::api::error::ApiError;
use crate::api::openapi::{IdempotencyKey, ModelErrors};
use crate::gateway::Ask;
use crate::types::{Endpoint, Generate};

/// Goes on where a text ends.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "Completions",
    operation_id = "createCompletion",
    params(IdempotencyKey),
    request_body = Request,
    responses(
        (status = 200, description = "The answer, or its chunks as server-sent events where `stream` is true", content(
            (answer::Completion = "application/json"),
            (answer::Completion = "text/event-stream"),
        )),
        ModelErrors,
    ),
)]
pub(in crate::api) async fn create(State(api): Shared, asked: Asked, Raw(bytes): Raw) -> Response {
    // What it keeps while it waits is large, and each layer around a handler would move it.
    Box::pin(answered(api, asked, bytes)).await
}

async fn answered(api: Arc<Api>, asked: Asked, bytes: Bytes) -> Response {
    let peeked = profiled(&api, &asked, bytes, Endpoint::Completions).await;
    let mut peeked = match peeked {
        Ok(peeked) => peeked,
        Err(error) => return observed(&api, Endpoint::Completions, "", Err(error)),
    };
    let shadow = Pending::of(&asked, &mut peeked);
    sample(&api, &asked, &peeked);
    let speech = peeked.speech();
    let answer = if speech.decoded {
        decoded(&api, asked, &peeked, speech.relayed).await
    } else {
        relay::answer(&api, asked, Endpoint::Completions, &peeked).await
    };
    let answer = answer.map(|answer| with_found(answer, &peeked.found));
    if let (Ok(_), Some(shadow)) = (&answer, shadow) {
        shadow.ask(&api, Endpoint::Completions);
    }
    observed(&api, Endpoint::Completions, peeked.answers(), answer)
}

/// What a request asks.
pub(super) fn decode(peeked: &Peeked) -> Result<Generate, ApiError> {
    peeked.decode::<Request>()?.decode()
}

async fn decoded(
    api: &Api,
    asked: Asked,
    peeked: &Peeked,
    relayed: bool,
) -> Result<Response, ApiError> {
    let mut request: Request = peeked.decode()?;
    let streams = request.streams();
    let include_usage = request.includes_usage();
    let end_user = end_user("user", request.user.take())?;
    let mut body = request.decode()?;
    if relayed {
        body.relay = Some(peeked.relay(Endpoint::Completions)?);
    }
    let answers = body.answers();
    let asks_logprobs = body.top_logprobs.is_some();
    let ask = Ask {
        class: asked.class_for(peeked.choice.as_ref(), None),
        choice: peeked.choice.clone(),
        decision: peeked.decision.clone(),
        ..asked.ask(Endpoint::Completions, &peeked.model, end_user, body)
    };
    let id = ask.answer_id();
    let (served, begun) = peeked.generate(api, ask).await?;
    let begun = Source::new(begun, api, peeked);
    let text = Text::new(
        id,
        Timestamp::now().as_second(),
        (served.model.to_string(), fingerprint(&served)),
        asks_logprobs,
        include_usage,
    );
    let response = if streams {
        streamed(begun, text)
    } else {
        let json = |whole| axum::Json(text.completion(whole)).into_response();
        whole(begun, answers, json).await?
    };
    Ok(with_headers(response, &served))
}

#[cfg(test)]
mod tests;
