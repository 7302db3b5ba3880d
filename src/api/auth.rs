//! The key of a request: `Authorization: Bearer` as OpenAI's clients send it, or `x-api-key`.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::Api;
use super::error::ApiError;
use crate::gateway;
use crate::types::Caller;

/// A caller whose key was checked.
pub(super) struct Authenticated(pub(super) Caller);

impl FromRequestParts<Arc<Api>> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let secret = secret(parts).ok_or_else(ApiError::no_key)?;
        let caller = api
            .gateway
            .tenancy
            .authenticate(secret)
            .await
            .map_err(gateway::Error::from)?;
        Ok(Self(caller))
    }
}

fn secret(parts: &Parts) -> Option<&str> {
    if let Some(value) = parts.headers.get(AUTHORIZATION) {
        let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim());
    }
    parts.headers.get("x-api-key")?.to_str().ok().map(str::trim)
}
