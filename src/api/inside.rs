//! A door for requests that come from inside: lines of batches go the way of everybody's requests.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::IntoResponse;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::Api;
use super::error::ApiError;
use crate::batch::{Answered, Asked, Door};
use crate::gateway;
use crate::tenancy::Access;
use crate::types::RequestId;

/// Rides on a request that comes from inside; no client can send it along.
#[derive(Clone)]
pub(super) struct Inside {
    /// Who pays, in the place of a key.
    pub(super) access: Arc<Access>,
    /// What it is called.
    pub(super) request: RequestId,
}

/// The routes that clients reach, without a network between.
pub struct InnerDoor {
    api: Arc<Api>,
    routes: axum::Router,
}

impl InnerDoor {
    /// Into these routes.
    #[must_use]
    pub fn new(api: Arc<Api>, routes: axum::Router) -> Self {
        Self { api, routes }
    }

    async fn answer(&self, asked: Asked) -> Result<Response<Body>, ApiError> {
        let access = self.api.gateway.tenancy.access(&asked.caller).await;
        let inside = Inside {
            access: access.map_err(gateway::Error::from)?,
            request: asked.request,
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(asked.endpoint.path())
            .header(header::CONTENT_TYPE, "application/json")
            .extension(inside)
            .extension(asked.paying)
            .body(Body::from(asked.body))
            .map_err(|_| ApiError::internal())?;
        match self.routes.clone().oneshot(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}

/// Whether a refusal is for want of it.
fn is_of_money(body: &[u8]) -> bool {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    body["error"]["code"] == "insufficient_quota"
}

#[async_trait]
impl Door for InnerDoor {
    async fn ask(&self, asked: Asked) -> Answered {
        let response = self.answer(asked).await;
        let response = response.unwrap_or_else(IntoResponse::into_response);
        let (head, body) = response.into_parts();
        let number = |name| head.headers.get(name)?.to_str().ok()?.parse().ok();
        let retry_after = number(header::RETRY_AFTER).map(Duration::from_secs);
        let told = head.headers.get("x-should-retry");
        let told = told.is_some_and(|value| value == "false");
        match body.collect().await {
            Ok(body) => {
                let body = body.to_bytes();
                Answered {
                    status: head.status.as_u16(),
                    retry_after,
                    // Who can wait for a day can wait for a day's limit. No waiting brings money.
                    is_final: told && (retry_after.is_none() || is_of_money(&body)),
                    body,
                }
            }
            Err(_) => Answered {
                status: 500,
                retry_after: None,
                is_final: false,
                body: ApiError::internal().event().into(),
            },
        }
    }
}
