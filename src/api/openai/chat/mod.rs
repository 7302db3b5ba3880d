//! `POST /v1/chat/completions`

mod answer;
mod messages;
mod request;
mod tools;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use self::answer::Chat;
use self::request::Request;
use super::answer::{streamed, whole, with_headers};
use crate::api::asked::Asked;
use crate::api::body::Json;
use crate::api::error::ApiError;
use crate::api::{Api, Shared};
use crate::gateway::Ask;
use crate::types::Endpoint;

pub(in crate::api) async fn create(
    State(api): Shared,
    asked: Asked,
    Json(mut request): Json<Request>,
) -> Response {
    let request_id = asked.request;
    let model = request.model.clone();
    let streams = request.streams();
    let answer = async {
        let end_user = request.end_user()?;
        let (manner, class) = (request.manner(), request.class());
        let body = request.decode()?;
        let answers = body.answers();
        let ask = Ask {
            class,
            ..asked.ask(Endpoint::Chat, &model, end_user, body)
        };
        let (served, meter) = api.gateway.generate(ask).await?;
        let chat = Chat {
            id: format!("chatcmpl-{}", request_id.simple()),
            created: Timestamp::now().as_second(),
            model: served.model.to_string(),
            manner,
        };
        let response = if streams {
            streamed(meter, chat)
        } else {
            axum::Json(chat.completion(whole(meter, answers).await?)).into_response()
        };
        Ok(with_headers(response, &served))
    };
    let answer = answer.await;
    observed(&api, Endpoint::Chat, &model, answer)
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
        .request(endpoint, label, response.status().as_u16());
    response
}

#[cfg(test)]
mod tests;
