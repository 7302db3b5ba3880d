//! `/v1/organization/*`: the shapes of OpenAI's administration API, for administrators' keys.
//! <https://platform.openai.com/docs/api-reference/administration>

pub(super) mod admin_keys;
pub(super) mod audit;
pub(super) mod costs;
pub(super) mod keys;
mod limit;
pub(super) mod models;
pub(super) mod projects;
pub(super) mod queue;
pub(super) mod rate_limits;
mod report;
pub(super) mod usage;

use super::Api;
use super::error::ApiError;
use crate::tenancy::{Admin, Administrator};
use crate::types::{Actor, ApiKey, Project};

/// Acts in this administrator's name.
fn admin<'a>(api: &'a Api, administrator: &Administrator) -> Admin<'a> {
    Admin {
        store: &*api.gateway.store,
        actor: Actor::Key(administrator.key.clone()),
    }
}

/// A project of the administrator's organisation; another's is none.
async fn project(api: &Api, administrator: &Administrator, id: &str) -> Result<Project, ApiError> {
    let found = api.gateway.store.find_project(id).await;
    match found {
        Ok(project) if project.organisation == administrator.organisation => Ok(project),
        Ok(_) | Err(crate::types::StoreError::NotFound(_)) => Err(ApiError::no_such("project", id)),
        Err(error) => Err(error.into()),
    }
}

/// A key of the administrator's organisation that was not taken back.
async fn key(api: &Api, administrator: &Administrator, id: &str) -> Result<ApiKey, ApiError> {
    match api.gateway.store.find_key(&id.into()).await {
        Ok(key) if key.organisation == administrator.organisation && key.revoked.is_none() => {
            Ok(key)
        }
        Ok(_) | Err(crate::types::StoreError::NotFound(_)) => Err(ApiError::no_such("key", id)),
        Err(error) => Err(error.into()),
    }
}

/// What people call a thing.
fn checked_name(name: String) -> Result<String, ApiError> {
    let plain = !name.trim().is_empty() && !name.chars().any(char::is_control);
    if plain && name.len() <= 128 {
        return Ok(name);
    }
    let message = "name must have 1 to 128 bytes, and no control characters";
    Err(ApiError::invalid(Some("name"), message))
}
