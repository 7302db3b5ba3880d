//! `/v1/organization/projects/{project_id}/rate_limits`
//!
//! The id of the limits for all models is `rl-all`, that of a model's is `rl-model-NAME`. Those that nobody set
//! have none in the list, and can be set all the same.

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::limit::{ALL_MODELS, LimitBody, OF_MODEL, RateLimitObject};
use super::{admin, project};
use crate::api::Shared;
use crate::api::auth::Administrating;
use crate::api::body::Json;
use crate::api::error::ApiError;
use crate::api::openapi::Conflicts;
use crate::api::path::Path;
use crate::types::{LimitSet, Scope};

#[derive(Serialize, ToSchema)]
#[schema(as = ProjectRateLimitList)]
pub(in crate::api) struct Limits {
    object: &'static str,
    data: Vec<RateLimitObject>,
    has_more: bool,
}

/// A project's limits.
#[utoipa::path(
    get,
    path = "/v1/organization/projects/{project}/rate_limits",
    tag = "Limits",
    operation_id = "listProjectRateLimits",
    params(("project" = String, Path)),
    responses((status = 200, body = Limits, description = "Those that somebody set")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
) -> Result<Answer<Limits>, ApiError> {
    let project = project(&api, &administrator, &id).await?;
    let store = &api.gateway.store;
    let sets = store.limits_of(Scope::Project, project.id.as_str()).await?;
    Ok(Answer(Limits {
        object: "list",
        data: sets.into_iter().map(RateLimitObject::from).collect(),
        has_more: false,
    }))
}

/// What the body doesn't name stays as it is; null ends a limit.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{project}/rate_limits/{limit}",
    tag = "Limits",
    operation_id = "updateProjectRateLimits",
    params(("project" = String, Path), ("limit" = String, Path, description = "`rl-all`, or `rl-model-` and a model's name")),
    request_body = LimitBody,
    responses((status = 200, body = RateLimitObject, description = "The limits"), Conflicts),
)]
pub(in crate::api) async fn modify(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path((id, limit)): Path<(String, String)>,
    Json(body): Json<serde_json::Map<String, serde_json::Value>>,
) -> Result<Answer<RateLimitObject>, ApiError> {
    let project = project(&api, &administrator, &id).await?;
    let model = match limit.strip_prefix(OF_MODEL) {
        Some(model) if api.gateway.router.names().iter().any(|name| name == model) => {
            Some(model.to_owned())
        }
        None if limit == ALL_MODELS => None,
        _ => return Err(ApiError::no_such("rate limit", &limit)),
    };
    let store = &api.gateway.store;
    let sets = store.limits_of(Scope::Project, project.id.as_str()).await?;
    let before = sets.into_iter().find(|set| set.model == model);
    let set = LimitSet {
        scope: Scope::Project,
        id: project.id.as_str().into(),
        model,
        limits: changed(before.map(|set| set.limits).unwrap_or_default(), body)?,
    };
    admin(&api, &administrator)
        .set_limits(&project.organisation, set.clone())
        .await?;
    Ok(Answer(set.into()))
}

fn changed(
    before: crate::types::Limits,
    body: serde_json::Map<String, serde_json::Value>,
) -> Result<crate::types::Limits, ApiError> {
    let mut object = match serde_json::to_value(LimitBody::from(before)) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => return Err(ApiError::internal()),
    };
    for (name, value) in body {
        match object.get_mut(&name) {
            Some(limit) => *limit = value,
            None => {
                let message = format!("there is no limit {name:?}");
                return Err(ApiError::invalid(Some(&name), &message));
            }
        }
    }
    let limits: LimitBody = serde_json::from_value(object.into())
        .map_err(|error| ApiError::invalid(None, &format!("a limit is malformed: {error}")))?;
    Ok(limits.into())
}
