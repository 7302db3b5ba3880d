//! What comes around a request's body: its id, when it came, and who asks.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::Api;
use super::auth::Authenticated;
use super::azure::Deployment;
use super::error::ApiError;
use super::inside::Inside;
use super::request_id::Arrived;
use crate::gateway::Ask;
use crate::router::Choice;
use crate::tenancy::Access;
use crate::types::{Class, Endpoint, Paying, RequestId};

/// `user` is kept in the ledger for ever.
const MAX_END_USER_BYTES: usize = 256;

/// A request whose key was checked.
pub(super) struct Asked {
    pub(super) request: RequestId,
    arrived: Instant,
    access: Arc<Access>,
    /// What comes from inside has no client that waits for it.
    inside: bool,
    paying: Paying,
    deployment: Option<Deployment>,
}

impl Asked {
    /// The model that the path names, which goes before what the body says.
    pub(super) fn deployment(&self) -> Option<&str> {
        let Deployment(name) = self.deployment.as_ref()?;
        Some(name)
    }

    /// Who asks, and what they may.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Who asks, to be kept.
    pub(super) fn shared_access(&self) -> Arc<Access> {
        Arc::clone(&self.access)
    }

    /// The class of a request that asks for this one, or for none.
    pub(super) fn class(&self, asked: Option<Class>) -> Class {
        if self.inside {
            Class::Batch
        } else {
            self.access.class(asked)
        }
    }

    /// The class of a request for this model that asks for this one, or for none.
    pub(super) fn class_for(&self, model: Option<&Choice>, asked: Option<Class>) -> Class {
        let own = model
            .filter(|_| !self.inside)
            .and_then(|model| model.class(asked));
        own.unwrap_or_else(|| self.class(asked))
    }

    /// With its body, on its way to the gateway.
    pub(super) fn ask<T>(
        self,
        endpoint: Endpoint,
        model: &str,
        end_user: Option<String>,
        body: T,
    ) -> Ask<T> {
        Ask {
            class: self.class(None),
            request: self.request,
            access: self.access,
            end_user,
            endpoint,
            model: model.to_owned(),
            choice: None,
            decision: None,
            paying: self.paying,
            arrived: self.arrived,
            body,
        }
    }
}

/// The person behind the caller, under the field's name.
pub(super) fn end_user(param: &str, user: Option<String>) -> Result<Option<String>, ApiError> {
    match user {
        Some(user) if user.len() > MAX_END_USER_BYTES => {
            let message = format!("{param} may have {MAX_END_USER_BYTES} bytes at most");
            Err(ApiError::invalid(Some(param), &message))
        }
        // Not every database has a place for it.
        Some(user) if user.contains('\0') => {
            let message = format!("{param} has a NUL character in it");
            Err(ApiError::invalid(Some(param), &message))
        }
        other => Ok(other.filter(|user| !user.is_empty())),
    }
}

impl FromRequestParts<Arc<Api>> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let Authenticated(access) = Authenticated::from_request_parts(parts, api).await?;
        // The outermost layer puts both there.
        let request = parts
            .extensions
            .get()
            .copied()
            .ok_or_else(ApiError::internal)?;
        let Arrived(arrived) = parts
            .extensions
            .get()
            .copied()
            .ok_or_else(ApiError::internal)?;
        Ok(Self {
            request,
            arrived,
            access,
            deployment: parts.extensions.get().cloned(),
            inside: parts.extensions.get::<Inside>().is_some(),
            paying: parts.extensions.get().copied().unwrap_or_default(),
        })
    }
}
