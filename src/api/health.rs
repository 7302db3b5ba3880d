//! Whether the process lives, whether it can serve, and its metrics.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::error::ApiError;

#[derive(Serialize, ToSchema)]
struct Readiness {
    ready: bool,
    /// What is not, a line each.
    waiting_for: Vec<String>,
}

/// Whether the process answers.
#[utoipa::path(
    get,
    path = "/health",
    tag = "Health",
    operation_id = "health",
    security(()),
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")),
)]
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// Whether the process can serve.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "Health",
    operation_id = "ready",
    security(()),
    responses(
        (status = 200, body = Readiness, description = "Every model is loaded and the store answers"),
        (status = 503, body = Readiness, description = "What is waited for"),
    ),
)]
pub(super) async fn ready(State(api): Shared) -> Response {
    let mut waiting_for = api.gateway.scheduler.not_ready();
    if let Err(error) = api.gateway.store.ping().await {
        tracing::error!(%error, "the store does not answer");
        waiting_for.push("the store does not answer".into());
    }
    let ready = waiting_for.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Readiness { ready, waiting_for })).into_response()
}

/// Prometheus's text format.
pub(super) async fn metrics(State(api): Shared) -> Response {
    match api.gateway.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            ApiError::internal().into_response()
        }
    }
}
