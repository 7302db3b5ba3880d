//! `/v1/organization/queue`: who waits for which model, why and for how long, and how the workers are. Not of OpenAI.

use axum::Json as Answer;
use axum::extract::State;
use serde_json::{Value, json};

use super::project;
use crate::api::auth::Administrating;
use crate::api::error::ApiError;
use crate::api::{Api, Shared};
use crate::scheduler::{QueueView, Standing, WaitingView};
use crate::tenancy::Administrator;

/// Who waits for which model, why and for how long, and how the workers are.
#[utoipa::path(
    get,
    path = "/v1/organization/queue",
    tag = "Queue",
    operation_id = "listQueue",
    responses((status = 200, body = Object, description = "A pool for each model")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Administrating(administrator): Administrating,
) -> Result<Answer<Value>, ApiError> {
    let mut pools = Vec::new();
    for view in api.gateway.scheduler.view() {
        pools.push(pool(&api, &administrator, view).await?);
    }
    Ok(Answer(json!({"object": "list", "data": pools})))
}

/// Other organisations' requests are a number.
async fn pool(
    api: &Api,
    administrator: &Administrator,
    view: QueueView,
) -> Result<Value, ApiError> {
    let (mut waiting, mut others) = (Vec::new(), 0);
    for row in view.waiting {
        match project(api, administrator, row.project.as_str()).await {
            Ok(_) => waiting.push(show(&row)),
            Err(error) if error.status == http::StatusCode::NOT_FOUND => others += row.requests,
            Err(error) => return Err(error),
        }
    }
    let workers: Vec<_> = view.workers.iter().map(worker).collect();
    Ok(json!({
        "object": "organization.queue",
        "model": &*view.pool,
        "waiting": waiting,
        "waiting_of_others": others,
        "workers": workers,
    }))
}

fn show(row: &WaitingView) -> Value {
    json!({
        "project_id": row.project,
        "class": row.class,
        "requests": row.requests,
        "longest_ms": u64::try_from(row.longest.as_millis()).unwrap_or(u64::MAX),
        "reason": row.reason,
    })
}

fn worker(standing: &Standing) -> Value {
    json!({
        "name": &*standing.worker,
        "state": standing.state,
        "places": standing.places,
        "places_taken": standing.taken,
        "requests": standing.requests,
        "outstanding_tokens": standing.tokens,
    })
}
