//! `/v1/organization/admin_api_keys`

use axum::Json as Answer;
use axum::extract::State;

use super::keys::{Create, Deleted, KeyObject};
use super::{admin, key};
use crate::api::auth::Administrating;
use crate::api::body::Json;
use crate::api::error::ApiError;
use crate::api::list::{List, PageParams, page};
use crate::api::openapi::Conflicts;
use crate::api::path::Path;
use crate::api::query::Query;
use crate::api::{Api, Shared};
use crate::tenancy::Administrator;
use crate::types::{ApiKey, KeysOf};

const OBJECT: &str = "organization.admin_api_key";

/// Administrators' keys.
#[utoipa::path(
    get,
    path = "/v1/organization/admin_api_keys",
    tag = "Keys",
    operation_id = "listAdminApiKeys",
    params(PageParams),
    responses((status = 200, body = List<KeyObject>, description = "Some of the keys")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Administrating(administrator): Administrating,
    mut query: Query,
) -> Result<Answer<List<KeyObject>>, ApiError> {
    let page = page(&mut query)?;
    let of = KeysOf::Administrators(administrator.organisation);
    let rows = api.gateway.store.keys(&of, &page).await?;
    let id = |key: &ApiKey| key.id.as_str().to_owned();
    let show = |key| KeyObject::of(key, OBJECT);
    Ok(Answer(List::of(rows, &page, id, show)))
}

/// Makes a key for an administrator.
#[utoipa::path(
    post,
    path = "/v1/organization/admin_api_keys",
    tag = "Keys",
    operation_id = "createAdminApiKey",
    request_body = Create,
    responses((status = 200, body = KeyObject, description = "The key, and its secret, which is never shown again"), Conflicts),
)]
pub(in crate::api) async fn create(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Json(body): Json<Create>,
) -> Result<Answer<KeyObject>, ApiError> {
    let made = admin(&api, &administrator)
        .create_admin_key(&administrator.organisation, body.wish()?)
        .await?;
    Ok(Answer(
        KeyObject::of(made.key, OBJECT).with_secret(made.secret),
    ))
}

/// What is known of an administrator's key.
#[utoipa::path(
    get,
    path = "/v1/organization/admin_api_keys/{key}",
    tag = "Keys",
    operation_id = "retrieveAdminApiKey",
    params(("key" = String, Path)),
    responses((status = 200, body = KeyObject, description = "The key")),
)]
pub(in crate::api) async fn retrieve(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
) -> Result<Answer<KeyObject>, ApiError> {
    let key = admin_key(&api, &administrator, &id).await?;
    Ok(Answer(KeyObject::of(key, OBJECT)))
}

/// Takes an administrator's key back.
#[utoipa::path(
    delete,
    path = "/v1/organization/admin_api_keys/{key}",
    tag = "Keys",
    operation_id = "deleteAdminApiKey",
    params(("key" = String, Path)),
    responses((status = 200, body = Deleted, description = "It is accepted no more"), Conflicts),
)]
pub(in crate::api) async fn delete(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
) -> Result<Answer<Deleted>, ApiError> {
    let key = admin_key(&api, &administrator, &id).await?;
    admin(&api, &administrator).revoke_key(&key).await?;
    let deleted = Deleted::new(key.id.to_string(), "organization.admin_api_key.deleted");
    Ok(Answer(deleted))
}

async fn admin_key(api: &Api, administrator: &Administrator, id: &str) -> Result<ApiKey, ApiError> {
    let found = key(api, administrator, id).await?;
    if found.project.is_none() {
        Ok(found)
    } else {
        Err(ApiError::no_such("key", id))
    }
}
