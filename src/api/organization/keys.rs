//! `/v1/organization/projects/{project_id}/api_keys`

use axum::Json as Answer;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limit::LimitBody;
use super::{admin, key, project};
use crate::api::auth::Administrating;
use crate::api::body::{Json, object};
use crate::api::error::ApiError;
use crate::api::list::{List, PageParams, page};
use crate::api::openapi::Conflicts;
use crate::api::path::Path;
use crate::api::query::Query;
use crate::api::{Api, Shared};
use crate::tenancy::{Administrator, KeyWish};
use crate::types::{ApiKey, KeysOf, Project};

/// How long a key that is rotated is accepted beside its successor, at most and by default.
const MAX_OVERLAP_S: u64 = 30 * 24 * 3600;
const OVERLAP_S: u64 = 24 * 3600;

#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(in crate::api) struct KeyObject {
    object: &'static str,
    id: String,
    name: String,
    redacted_value: String,
    created_at: i64,
    last_used_at: Option<i64>,
    owner: Owner,
    /// Whether its project is not archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_project_access: Option<&'static str>,
    /// Not OpenAI's: when it is no longer accepted.
    expires_at: Option<i64>,
    /// Not OpenAI's: the models that it may ask; any, where it is null.
    models: Option<Vec<String>>,
    /// The secret, in the answer that makes the key and in no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// Keys belong to programs here: people are not known.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeyOwner)]
struct Owner {
    r#type: &'static str,
    service_account: ServiceAccount,
}

#[derive(Serialize, ToSchema)]
struct ServiceAccount {
    object: &'static str,
    id: String,
    name: String,
    role: &'static str,
    created_at: i64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DeletedKey)]
pub(in crate::api) struct Deleted {
    object: &'static str,
    id: String,
    deleted: bool,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateApiKeyRequest)]
pub(in crate::api) struct Create {
    #[serde(default)]
    #[schema(max_length = 128)]
    pub(super) name: String,
    /// Seconds from now until it is no longer accepted.
    pub(super) expires_in_seconds: Option<u32>,
    /// The models that it may ask; any, where it is null.
    models: Option<Vec<String>>,
    #[serde(default, deserialize_with = "object")]
    limits: LimitBody,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = RotateApiKeyRequest)]
pub(in crate::api) struct Rotate {
    /// For how long the key of before is still accepted: a day by default.
    #[schema(maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
}

impl KeyObject {
    pub(super) fn of(key: ApiKey, object: &'static str) -> Self {
        let created_at = key.created.as_second();
        Self {
            object,
            id: key.id.to_string(),
            redacted_value: format!("fb-...{}", key.hint),
            created_at,
            last_used_at: key.last_used.map(Timestamp::as_second),
            owner: Owner {
                r#type: "service_account",
                service_account: ServiceAccount {
                    object: "organization.project.service_account",
                    id: key.id.to_string(),
                    name: key.name.clone(),
                    role: if key.project.is_some() {
                        "member"
                    } else {
                        "owner"
                    },
                    created_at,
                },
            },
            owner_project_access: None,
            name: key.name,
            expires_at: key.expires.map(Timestamp::as_second),
            models: key.models,
            value: None,
        }
    }

    fn of_project(key: ApiKey, project: &Project) -> Self {
        let access = match project.archived {
            None => "active",
            Some(_) => "inactive",
        };
        Self {
            owner_project_access: Some(access),
            ..Self::of(key, OBJECT)
        }
    }

    pub(super) fn with_secret(self, secret: String) -> Self {
        Self {
            value: Some(secret),
            ..self
        }
    }
}

impl Deleted {
    pub(super) fn new(id: String, object: &'static str) -> Self {
        Self {
            object,
            id,
            deleted: true,
        }
    }
}

impl Create {
    pub(super) fn wish(self) -> Result<KeyWish, ApiError> {
        if self.name.len() > 128 || self.name.chars().any(char::is_control) {
            let message = "name must have 128 bytes at most, and no control characters";
            return Err(ApiError::invalid(Some("name"), message));
        }
        let lives = |seconds: u32| Timestamp::now() + SignedDuration::from_secs(seconds.into());
        Ok(KeyWish {
            name: self.name,
            models: self.models,
            expires: self.expires_in_seconds.map(lives),
            limits: self.limits.into(),
        })
    }
}

const OBJECT: &str = "organization.project.api_key";

/// A project's keys.
#[utoipa::path(
    get,
    path = "/v1/organization/projects/{project}/api_keys",
    tag = "Keys",
    operation_id = "listProjectApiKeys",
    params(("project" = String, Path), PageParams),
    responses((status = 200, body = List<KeyObject>, description = "Some of its keys")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
    mut query: Query,
) -> Result<Answer<List<KeyObject>>, ApiError> {
    let project = project(&api, &administrator, &id).await?;
    let page = page(&mut query)?;
    let rows = api
        .gateway
        .store
        .keys(&KeysOf::Project(project.id.clone()), &page)
        .await?;
    let id = |key: &ApiKey| key.id.as_str().to_owned();
    let show = |key| KeyObject::of_project(key, &project);
    Ok(Answer(List::of(rows, &page, id, show)))
}

/// Makes a key.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{project}/api_keys",
    tag = "Keys",
    operation_id = "createProjectApiKey",
    params(("project" = String, Path)),
    request_body = Create,
    responses((status = 200, body = KeyObject, description = "The key, and its secret, which is never shown again"), Conflicts),
)]
pub(in crate::api) async fn create(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
    Json(body): Json<Create>,
) -> Result<Answer<KeyObject>, ApiError> {
    let project = project(&api, &administrator, &id).await?;
    let known = api.gateway.router.names();
    if let Some(unknown) = body
        .models
        .iter()
        .flatten()
        .find(|model| !known.contains(model))
    {
        let message = format!("there is no model {unknown:?}");
        return Err(ApiError::invalid(Some("models"), &message));
    }
    let made = admin(&api, &administrator)
        .create_key(&project, body.wish()?)
        .await?;
    Ok(Answer(
        KeyObject::of_project(made.key, &project).with_secret(made.secret),
    ))
}

/// What is known of a key.
#[utoipa::path(
    get,
    path = "/v1/organization/projects/{project}/api_keys/{key}",
    tag = "Keys",
    operation_id = "retrieveProjectApiKey",
    params(("project" = String, Path), ("key" = String, Path)),
    responses((status = 200, body = KeyObject, description = "The key")),
)]
pub(in crate::api) async fn retrieve(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path((id, key)): Path<(String, String)>,
) -> Result<Answer<KeyObject>, ApiError> {
    let (project, key) = key_of(&api, &administrator, &id, &key).await?;
    Ok(Answer(KeyObject::of_project(key, &project)))
}

/// Takes a key back.
#[utoipa::path(
    delete,
    path = "/v1/organization/projects/{project}/api_keys/{key}",
    tag = "Keys",
    operation_id = "deleteProjectApiKey",
    params(("project" = String, Path), ("key" = String, Path)),
    responses((status = 200, body = Deleted, description = "It is accepted no more")),
)]
pub(in crate::api) async fn delete(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path((id, key)): Path<(String, String)>,
) -> Result<Answer<Deleted>, ApiError> {
    let (_, key) = key_of(&api, &administrator, &id, &key).await?;
    admin(&api, &administrator).revoke_key(&key).await?;
    let deleted = Deleted::new(key.id.to_string(), "organization.project.api_key.deleted");
    Ok(Answer(deleted))
}

/// Makes a new key in the place of one that is still accepted for a while.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{project}/api_keys/{key}/rotate",
    tag = "Keys",
    operation_id = "rotateProjectApiKey",
    params(("project" = String, Path), ("key" = String, Path)),
    request_body = Rotate,
    responses((status = 200, body = KeyObject, description = "The new key, and its secret"), Conflicts),
)]
pub(in crate::api) async fn rotate(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Rotate>,
) -> Result<Answer<KeyObject>, ApiError> {
    let (project, key) = key_of(&api, &administrator, &id, &key).await?;
    let overlap = body.overlap_seconds.unwrap_or(OVERLAP_S);
    let Some(overlap) = i64::try_from(overlap.min(MAX_OVERLAP_S + 1))
        .ok()
        .filter(|_| overlap <= MAX_OVERLAP_S)
    else {
        let message = format!("overlap_seconds may be {MAX_OVERLAP_S} at most");
        return Err(ApiError::invalid(Some("overlap_seconds"), &message));
    };
    let until = Timestamp::now() + SignedDuration::from_secs(overlap);
    let made = admin(&api, &administrator).rotate_key(&key, until).await?;
    Ok(Answer(
        KeyObject::of_project(made.key, &project).with_secret(made.secret),
    ))
}

async fn key_of(
    api: &Api,
    administrator: &Administrator,
    project_id: &str,
    id: &str,
) -> Result<(Project, ApiKey), ApiError> {
    let project = project(api, administrator, project_id).await?;
    let found = key(api, administrator, id).await?;
    if found.project.as_ref() == Some(&project.id) {
        Ok((project, found))
    } else {
        Err(ApiError::no_such("key", id))
    }
}
