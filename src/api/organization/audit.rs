//! `/v1/organization/audit_logs`

use axum::Json as Answer;
use axum::extract::State;
use serde_json::{Value, json};

use crate::api::Shared;
use crate::api::auth::Administrating;
use crate::api::error::ApiError;
use crate::api::list::{List, PageParams, page};
use crate::api::query::Query;
use crate::types::AuditRow;

/// Who changed what, and when.
#[utoipa::path(
    get,
    path = "/v1/organization/audit_logs",
    tag = "Audit",
    operation_id = "listAuditLogs",
    params(PageParams),
    responses((status = 200, body = List<Object>, description = "Some of the entries, the newest first")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Administrating(administrator): Administrating,
    mut query: Query,
) -> Result<Answer<List<Value>>, ApiError> {
    let page = page(&mut query)?;
    let store = &api.gateway.store;
    let rows = store.audit(&administrator.organisation, &page).await?;
    let id = |row: &AuditRow| row.id.clone();
    Ok(Answer(List::of(rows, &page, id, show)))
}

/// An event's details stand under the event's type, as OpenAI has them.
fn show(row: AuditRow) -> Value {
    let mut detail = row.detail;
    detail["id"] = row.target.into();
    let actor = match row.actor.as_str() {
        // Whoever has the machine needs no key.
        "cli" | "server" => json!({"type": row.actor}),
        key => json!({"type": "api_key", "api_key": {"id": key, "type": "service_account"}}),
    };
    let mut event = json!({
        "object": "organization.audit_log",
        "id": row.id,
        "type": row.action,
        "effective_at": row.at.as_second(),
        "actor": actor,
    });
    event[row.action] = detail;
    event
}
