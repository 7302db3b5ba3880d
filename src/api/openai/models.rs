//! `GET /v1/models` and `GET /v1/models/{model}`

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::auth::Authenticated;
use crate::api::error::ApiError;
use crate::api::path::Path;
use crate::api::{Api, Shared};
use crate::{gateway, router};

#[derive(Serialize, ToSchema)]
#[schema(as = ListModelsResponse)]
pub(in crate::api) struct List {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct Model {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

/// The models that a key may ask.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "Models",
    operation_id = "listModels",
    responses((status = 200, body = List, description = "The models and aliases that this key may ask")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Authenticated(access): Authenticated,
) -> Json<List> {
    let data = api
        .gateway
        .router
        .names()
        .iter()
        .filter(|name| api.gateway.allows(&access, name))
        .map(|name| model(&api, name))
        .collect();
    Json(List {
        object: "list",
        data,
    })
}

/// One of them.
#[utoipa::path(
    get,
    path = "/v1/models/{*model}",
    tag = "Models",
    operation_id = "retrieveModel",
    params(("model" = String, Path, description = "May have slashes in it")),
    responses((status = 200, body = Model, description = "The model")),
)]
pub(in crate::api) async fn retrieve(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(name): Path<String>,
) -> Result<Json<Model>, ApiError> {
    if api.gateway.allows(&access, &name) && api.gateway.router.knows(&name) {
        return Ok(Json(model(&api, &name)));
    }
    Err(gateway::Error::from(router::Error::UnknownModel(name)).into())
}

fn model(api: &Api, name: &str) -> Model {
    Model {
        id: name.to_owned(),
        object: "model",
        created: api.started.as_second(),
        owned_by: "forebay",
    }
}
