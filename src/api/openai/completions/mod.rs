//! `POST /v1/completions`

mod answer;
mod logprobs;
mod prompt;
mod request;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use self::answer::Text;
use self::request::Request;
use super::answer::{streamed, whole, with_headers};
use super::chat::observed;
use crate::api::Shared;
use crate::api::asked::{Asked, end_user};
use crate::api::body::Json;
use crate::types::Endpoint;

pub(in crate::api) async fn create(
    State(api): Shared,
    asked: Asked,
    Json(mut request): Json<Request>,
) -> Response {
    let request_id = asked.request;
    let model = request.model.clone();
    let streams = request.streams();
    let include_usage = request.includes_usage();
    let answer = async {
        let end_user = end_user("user", request.user.take())?;
        let body = request.decode()?;
        let answers = body.answers();
        let asks_logprobs = body.top_logprobs.is_some();
        let ask = asked.ask(Endpoint::Completions, &model, end_user, body);
        let (served, meter) = api.gateway.generate(ask).await?;
        let text = Text::new(
            format!("cmpl-{}", request_id.simple()),
            Timestamp::now().as_second(),
            served.model.to_string(),
            asks_logprobs,
            include_usage,
        );
        let response = if streams {
            streamed(meter, text)
        } else {
            axum::Json(text.completion(whole(meter, answers).await?)).into_response()
        };
        Ok(with_headers(response, &served))
    };
    let answer = answer.await;
    observed(&api, Endpoint::Completions, &model, answer)
}

#[cfg(test)]
mod tests;
