//! Each request's own id, and one line of log for it.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;

use super::inside::Inside;
use super::{Shared, transport};
use crate::types::RequestId;

/// When a request came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived(pub(super) Instant);

/// Mints the id, hands it to the handlers and puts it on the answer. A client's own `x-request-id` is
/// not taken up: it could name another's request.
pub(super) async fn mint(State(api): Shared, mut request: Request, next: Next) -> Response {
    let inside = request.extensions().get::<Inside>();
    let id = inside.map_or_else(RequestId::mint, |inside| inside.request);
    let arrived = Instant::now();
    let method = request.method().clone();
    // Never the path as it came, which may hold anything: a route of ours or nothing.
    let route = request.extensions().get::<MatchedPath>().cloned();
    request.extensions_mut().insert(id);
    request.extensions_mut().insert(Arrived(arrived));
    let mut response = transport::carry(&api, request, next).await;
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert("x-request-id", value);
    }
    tracing::info!(
        request_id = %id,
        %method,
        route = route.as_ref().map_or("", MatchedPath::as_str),
        status = response.status().as_u16(),
        head_ms = arrived.elapsed().as_millis() as u64,
        "answered"
    );
    response
}
