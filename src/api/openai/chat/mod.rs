//! `POST /v1/chat/completions`

mod answer;
mod messages;
mod request;
mod tools;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::Timestamp;

use self::answer::Chat;
use self::request::Request;
use super::answer::{streamed, whole, with_found, with_headers};
use super::fingerprint;
use super::outgoing::Source;
use super::profile::{profiled, sample};
use super::relay::{self, Peeked};
use super::sampling::Tier;
use super::shadow::Pending;
use crate::api::asked::Asked;
use crate::api::body::Raw;
use crate::api::error::ApiError;
use crate::api::openapi::{IdempotencyKey, ModelErrors};
use crate::api::{Api, Shared};
use crate::gateway::Ask;
use crate::types::{Endpoint, Generate, Prompt};

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "Chat",
    operation_id = "createChatCompletion",
    params(IdempotencyKey),
    request_body = Request,
    responses(
        (status = 200, description = "The answer, or its chunks as server-sent events where `stream` is true", content(
            (answer::Completion = "application/json"),
            (answer::Chunk = "text/event-stream"),
        )),
        ModelErrors,
    ),
)]
pub(in crate::api) async fn create(State(api): Shared, asked: Asked, Raw(bytes): Raw) -> Response {
    // What it keeps while it waits is large, and each layer around a handler would move it.
    Box::pin(answered(api, asked, bytes)).await
}

async fn answered(api: Arc<Api>, asked: Asked, bytes: Bytes) -> Response {
    let peeked = profiled(&api, &asked, bytes, Endpoint::Chat).await;
    let mut peeked = match peeked {
        Ok(peeked) => peeked,
        Err(error) => return observed(&api, Endpoint::Chat, "", Err(error)),
    };
    let shadow = Pending::of(&asked, &mut peeked);
    sample(&api, &asked, &peeked);
    let speech = peeked.speech();
    let answer = if speech.decoded {
        decoded(&api, asked, &peeked, speech.relayed).await
    } else {
        relay::answer(&api, asked, Endpoint::Chat, &peeked).await
    };
    let answer = answer.map(|answer| with_found(answer, &peeked.found));
    if let (Ok(_), Some(shadow)) = (&answer, shadow) {
        shadow.ask(&api, Endpoint::Chat);
    }
    observed(&api, Endpoint::Chat, peeked.answers(), answer)
}

async fn decoded(
    api: &Api,
    asked: Asked,
    peeked: &Peeked,
    relayed: bool,
) -> Result<Response, ApiError> {
    let mut request: Request = peeked.decode()?;
    let streams = request.streams();
    let end_user = request.end_user()?;
    let (manner, class) = (
        request.manner(),
        asked.class_for(peeked.choice.as_ref(), request.class()),
    );
    let tier = request.names_tier().then(|| Tier::name(class));
    let mut body = request.decode()?;
    if relayed {
        body.relay = Some(peeked.relay(Endpoint::Chat)?);
    }
    let answers = body.answers();
    let ask = Ask {
        class,
        choice: peeked.choice.clone(),
        decision: peeked.decision.clone(),
        ..asked.ask(Endpoint::Chat, &peeked.model, end_user, body)
    };
    let id = ask.answer_id();
    let (served, begun) = peeked.generate(api, ask).await?;
    let begun = Source::new(begun, api, peeked);
    let chat = Chat {
        id,
        created: Timestamp::now().as_second(),
        model: served.model.to_string(),
        fingerprint: fingerprint(&served),
        tier,
        manner,
    };
    let response = if streams {
        streamed(begun, chat)
    } else {
        let json = |whole| axum::Json(chat.completion(whole)).into_response();
        whole(begun, answers, json).await?
    };
    Ok(with_headers(response, &served))
}

/// What a request asks.
pub(super) fn decode(peeked: &Peeked) -> Result<Generate, ApiError> {
    peeked.decode::<Request>()?.decode()
}

/// The prompt that a request's body asks with.
pub(super) fn prompt(body: serde_json::Value) -> Result<Prompt, ApiError> {
    let request: Request = serde_json::from_value(body)
        .map_err(|error| ApiError::invalid(Some("messages"), &error.to_string()))?;
    let mut prompts = request.decode()?.prompts;
    prompts.pop().ok_or_else(ApiError::internal)
}

/// Counts the answer, and gives it.
pub(super) fn observed(
    api: &Api,
    endpoint: Endpoint,
    model: &str,
    answer: Result<Response, ApiError>,
) -> Response {
    let response = answer.into_response();
    let label = api.gateway.router.label(model);
    api.gateway
        .metrics
        .request(endpoint, &label, response.status().as_u16());
    response
}

#[cfg(test)]
mod tests;
