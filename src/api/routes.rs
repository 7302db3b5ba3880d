//! All routes in one list, all layers in another.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use super::error::ApiError;
use super::openai::{chat, completions, embeddings, models};
use super::{Api, health, request_id};

/// What clients reach.
pub fn gateway_routes(api: Arc<Api>, max_body_bytes: usize) -> axum::Router {
    axum::Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*model}", get(models::retrieve))
        .route("/health", get(health::live))
        .route("/ready", get(health::ready))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
        // From the inside out. A body is bounded before a handler reads it.
        .layer(DefaultBodyLimit::max(max_body_bytes))
        // A panic of a handler is one broken answer in the envelope, not a broken connection.
        .layer(CatchPanicLayer::custom(panicked))
        // Outermost: whatever happens inside, the answer has its id and the log its line.
        .layer(axum::middleware::from_fn(request_id::mint))
}

/// What Prometheus reaches.
pub fn metrics_routes(api: Arc<Api>) -> axum::Router {
    axum::Router::new()
        .route("/metrics", get(health::metrics))
        .with_state(api)
}

async fn unknown_path(method: http::Method, uri: http::Uri) -> ApiError {
    ApiError::not_found(format!("unknown URL: {method} {}", uri.path()))
}

async fn wrong_method(method: http::Method, uri: http::Uri) -> ApiError {
    ApiError::wrong_method(format!("{method} is not allowed on {}", uri.path()))
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> http::Response<axum::body::Body> {
    // What it said may quote the request; the panic hook has told the log where it was.
    tracing::error!("a handler panicked");
    axum::response::IntoResponse::into_response(ApiError::internal())
}
