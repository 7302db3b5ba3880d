//! Columns to words and back.

use std::time::Duration;

use jiff::Timestamp;

use super::super::unusable;
use crate::types::{ApiKey, AuditRow, LimitSet, Organisation, Project, Scope, StoreError};

pub(super) fn ms(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A time that is added to one, and so is no more than half of what there is.
pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}

/// A row that no version of this program wrote.
pub(super) fn foreign(what: &str) -> StoreError {
    unusable(format!("the store holds a malformed {what}"))
}

pub(super) fn time(milliseconds: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(milliseconds).map_err(|_| foreign("time"))
}

#[derive(sqlx::FromRow)]
pub(super) struct OrganisationRow {
    id: String,
    name: String,
    created_ms: i64,
}

impl TryFrom<OrganisationRow> for Organisation {
    type Error = StoreError;

    fn try_from(row: OrganisationRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            name: row.name,
            created: time(row.created_ms)?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct ProjectRow {
    id: String,
    organisation_id: String,
    name: String,
    created_ms: i64,
    archived_ms: Option<i64>,
}

impl TryFrom<ProjectRow> for Project {
    type Error = StoreError;

    fn try_from(row: ProjectRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            organisation: row.organisation_id.into(),
            name: row.name,
            created: time(row.created_ms)?,
            archived: row.archived_ms.map(time).transpose()?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct KeyRow {
    id: String,
    organisation_id: String,
    project_id: Option<String>,
    name: String,
    hint: String,
    models: Option<String>,
    created_ms: i64,
    expires_ms: Option<i64>,
    revoked_ms: Option<i64>,
    last_used_ms: Option<i64>,
}

impl TryFrom<KeyRow> for ApiKey {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, StoreError> {
        let models = row.models.as_deref().map(serde_json::from_str);
        Ok(Self {
            id: row.id.into(),
            organisation: row.organisation_id.into(),
            project: row.project_id.map(Into::into),
            name: row.name,
            hint: row.hint,
            models: models.transpose().map_err(|_| foreign("list of models"))?,
            created: time(row.created_ms)?,
            expires: row.expires_ms.map(time).transpose()?,
            revoked: row.revoked_ms.map(time).transpose()?,
            last_used: row.last_used_ms.map(time).transpose()?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct LimitRow {
    scope: String,
    scope_id: String,
    model: String,
    limits: String,
}

impl TryFrom<LimitRow> for LimitSet {
    type Error = StoreError;

    fn try_from(row: LimitRow) -> Result<Self, StoreError> {
        Ok(Self {
            scope: Scope::named(&row.scope).ok_or_else(|| foreign("scope"))?,
            id: row.scope_id.into(),
            model: Some(row.model).filter(|model| !model.is_empty()),
            limits: serde_json::from_str(&row.limits).map_err(|_| foreign("set of limits"))?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct AuditColumns {
    id: String,
    at_ms: i64,
    actor: String,
    action: String,
    target: String,
    detail: String,
}

impl TryFrom<AuditColumns> for AuditRow {
    type Error = StoreError;

    fn try_from(row: AuditColumns) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            at: time(row.at_ms)?,
            actor: row.actor,
            action: row.action,
            target: row.target,
            detail: serde_json::from_str(&row.detail)
                .map_err(|_| foreign("line of the audit log"))?,
        })
    }
}
