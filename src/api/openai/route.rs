//! `POST /v1/route`: which model `auto` would have answer, and why. Nothing is answered, and nothing is charged.

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::profile::decided;
use super::relay::peek;
use crate::api::Shared;
use crate::api::auth::Authenticated;
use crate::api::body::Raw;
use crate::api::error::ApiError;
use crate::api::openapi::ModelErrors;
use crate::gateway::Decision;
use crate::router;
use crate::types::AUTO;

/// What the body may say: a chat's fields are taken, and what decides are these.
#[derive(ToSchema)]
#[schema(as = RouteRequest)]
#[expect(dead_code, reason = "fields are looked up by name")]
pub(in crate::api) struct Asked {
    /// `auto`.
    model: String,
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// Whose side of a canary it is.
    safety_identifier: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RouteResponse)]
pub(in crate::api) struct Routed {
    #[schema(pattern = "^route$")]
    object: &'static str,
    /// What would answer.
    model: String,
    /// What decided it: `nearest`, `rule` or `general`.
    by: &'static str,
    /// The model whose examples are nearest, and how much nearer they are than the next one's, in cosine.
    nearest: Option<String>,
    score: Option<f64>,
    took_ms: f64,
}

impl From<Decision> for Routed {
    fn from(decision: Decision) -> Self {
        let (nearest, score) = decision.nearest.unzip();
        Self {
            object: "route",
            model: decision.model.as_ref().to_owned(),
            by: decision.by,
            nearest,
            score,
            took_ms: decision.took.as_secs_f64() * 1000.0,
        }
    }
}

/// Which model `auto` would have answer, and why. Of Forebay alone.
#[utoipa::path(
    post,
    path = "/v1/route",
    tag = "Models",
    operation_id = "route",
    request_body = Asked,
    responses((status = 200, body = Routed, description = "What it would come to"), ModelErrors),
)]
pub(in crate::api) async fn route(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Raw(bytes): Raw,
) -> Result<Answer<Routed>, ApiError> {
    let peeked = peek(bytes, None)?;
    if peeked.model != AUTO {
        return Err(ApiError::invalid(Some("model"), "auto alone is routed"));
    }
    if !peeked.values().any(|(name, _)| name == "messages") {
        return Err(ApiError::invalid(
            Some("messages"),
            "missing field `messages`",
        ));
    }
    let class = access.class(None);
    let Some((_, decision)) = decided(&api, (&access, class), &peeked).await else {
        return Err(router::Error::UnknownModel(AUTO.into()).into());
    };
    Ok(Answer(decision.into()))
}
