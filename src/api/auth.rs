//! The key of a request: `Authorization: Bearer` as OpenAI's clients send it, `x-api-key` or, as Azure's do, `api-key`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath};
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::Api;
use super::error::ApiError;
use super::inside::Inside;
use crate::gateway;
use crate::tenancy::{Access, Administrator, Identity};

/// A tenant whose key was checked.
pub(super) struct Authenticated(pub(super) Arc<Access>);

impl FromRequestParts<Arc<Api>> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        match identity(parts, api).await? {
            Identity::Tenant(access) => Ok(Self(access)),
            Identity::Administrator(_) => Err(ApiError::forbidden(
                "an administrator's key asks no models: use a project's key",
            )),
        }
    }
}

/// An administrator whose key was checked.
pub(super) struct Administrating(pub(super) Administrator);

impl FromRequestParts<Arc<Api>> for Administrating {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        match identity(parts, api).await? {
            Identity::Administrator(administrator) => Ok(Self(administrator)),
            // Whether there is a thing of that id is nobody else's business.
            Identity::Tenant(_) if names_a_thing(parts) => Err(ApiError::not_found(format!(
                "there is nothing at {}",
                parts.uri.path()
            ))),
            Identity::Tenant(_) => Err(ApiError::forbidden(
                "this needs an administrator's key: `forebay key create --admin` makes one",
            )),
        }
    }
}

/// Whether an id stands in the path.
fn names_a_thing(parts: &Parts) -> bool {
    let route = parts.extensions.get::<MatchedPath>();
    route.is_some_and(|route| route.as_str().contains('{'))
}

/// Anybody whose key was checked.
pub(super) struct Identified(pub(super) Identity);

impl FromRequestParts<Arc<Api>> for Identified {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        Ok(Self(identity(parts, api).await?))
    }
}

async fn identity(parts: &Parts, api: &Api) -> Result<Identity, ApiError> {
    if let Some(inside) = parts.extensions.get::<Inside>() {
        return Ok(Identity::Tenant(Arc::clone(&inside.access)));
    }
    let secret = secret(parts).ok_or_else(ApiError::no_key)?;
    let identity = api.gateway.tenancy.authenticate(secret).await;
    Ok(identity.map_err(gateway::Error::from)?)
}

fn secret(parts: &Parts) -> Option<&str> {
    if let Some(value) = parts.headers.get(AUTHORIZATION) {
        let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim());
    }
    let headers = &parts.headers;
    let key = headers
        .get("x-api-key")
        .or_else(|| headers.get("api-key"))?;
    key.to_str().ok().map(str::trim)
}
