//! Organisations, projects, keys, limits, and the audit log of their changes.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::rows::{AuditColumns, KeyRow, LimitRow, OrganisationRow, ProjectRow, ms};
use super::{BEGIN, Backend, Connection, models};
use crate::types::{
    Act, Actor, ApiKey, AuditRow, Holder, KeyId, KeysOf, LimitSet, Limits, Organisation,
    OrganisationId, Page, Project, ProjectId, Scope, SecretHash, StoreError, TenantStore,
};

/// `last_used_ms` is kept to the minute: a key in use would else be written for each request.
const LAST_USED_MS: i64 = 60_000;

macro_rules! key_columns {
    () => {
        "id, organisation_id, project_id, name, hint, models, created_ms, expires_ms, revoked_ms, last_used_ms"
    };
}

#[async_trait]
impl TenantStore for Backend {
    async fn act(
        &self,
        actor: &Actor,
        organisation: &OrganisationId,
        act: &Act,
    ) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        carry_out(&mut transaction, act).await?;
        sqlx::query(
            "INSERT INTO audit (id, at_ms, organisation_id, actor, action, target, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(format!("audit_log-{}", Uuid::now_v7().simple()))
        .bind(ms(Timestamp::now()))
        .bind(organisation.as_str())
        .bind(actor.name())
        .bind(act.name())
        .bind(act.target())
        .bind(act.detail().to_string())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn find_organisation(&self, id_or_name: &str) -> Result<Organisation, StoreError> {
        let row: Option<OrganisationRow> = sqlx::query_as(
            "SELECT id, name, created_ms FROM organisation WHERE id = $1 OR name = $1
             ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1",
        )
        .bind(id_or_name)
        .fetch_optional(&self.readers)
        .await?;
        found(row, || format!("organisation {id_or_name:?}"))
    }

    async fn find_project(&self, id_or_name: &str) -> Result<Project, StoreError> {
        let row: Option<ProjectRow> = sqlx::query_as(
            "SELECT id, organisation_id, name, created_ms, archived_ms FROM project
             WHERE id = $1 OR name = $1 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1",
        )
        .bind(id_or_name)
        .fetch_optional(&self.readers)
        .await?;
        found(row, || format!("project {id_or_name:?}"))
    }

    async fn projects(
        &self,
        of: Option<&OrganisationId>,
        archived: bool,
        page: &Page,
    ) -> Result<Vec<Project>, StoreError> {
        let rows: Vec<ProjectRow> = sqlx::query_as(
            "SELECT id, organisation_id, name, created_ms, archived_ms FROM project
             WHERE id > $1 AND ($2 = 1 OR archived_ms IS NULL) AND ($3 = '' OR organisation_id = $3)
             ORDER BY id LIMIT $4",
        )
        .bind(page.after.as_deref().unwrap_or_default())
        .bind(i64::from(archived))
        .bind(of.map_or("", OrganisationId::as_str))
        .bind(i64::from(page.limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(Project::try_from).collect()
    }

    async fn find_key(&self, id: &KeyId) -> Result<ApiKey, StoreError> {
        let row: Option<KeyRow> = sqlx::query_as(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_key WHERE id = $1"
        ))
        .bind(id.as_str())
        .fetch_optional(&self.readers)
        .await?;
        found(row, || format!("key {:?}", id.as_str()))
    }

    async fn keys(&self, of: &KeysOf, page: &Page) -> Result<Vec<ApiKey>, StoreError> {
        let (all, project, organisation) = match of {
            KeysOf::All => (1, "", ""),
            KeysOf::Project(project) => (0, project.as_str(), ""),
            KeysOf::Administrators(organisation) => (0, "", organisation.as_str()),
        };
        let rows: Vec<KeyRow> = sqlx::query_as(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_key
             WHERE revoked_ms IS NULL AND id > $1 AND ($2 = 1 OR coalesce(project_id, '') = $3)
                AND ($4 = '' OR organisation_id = $4)
             ORDER BY id LIMIT $5"
        ))
        .bind(page.after.as_deref().unwrap_or_default())
        .bind(i64::from(all))
        .bind(project)
        .bind(organisation)
        .bind(i64::from(page.limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(ApiKey::try_from).collect()
    }

    async fn holder(&self, hash: &SecretHash) -> Result<Option<Holder>, StoreError> {
        let row: Option<KeyRow> = sqlx::query_as(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_key WHERE secret_hash = $1"
        ))
        .bind(hash.as_slice())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let key = ApiKey::try_from(row)?;
        let project = key.project.as_ref().map_or("", ProjectId::as_str);
        let of: Option<(String, Option<i64>)> =
            sqlx::query_as("SELECT name, archived_ms FROM project WHERE id = $1")
                .bind(project)
                .fetch_optional(&self.readers)
                .await?;
        let (project_name, archived) = of.unwrap_or_default();
        let limits = self
            .limit_sets(key.id.as_str(), project, key.organisation.as_str())
            .await?;
        Ok(Some(Holder {
            project_name,
            archived: archived.is_some(),
            limits,
            key,
        }))
    }

    async fn limits(&self, project: &ProjectId) -> Result<Vec<LimitSet>, StoreError> {
        let organisation = self.find_project(project.as_str()).await?.organisation;
        self.limit_sets("", project.as_str(), organisation.as_str())
            .await
    }

    async fn limits_of(&self, scope: Scope, id: &str) -> Result<Vec<LimitSet>, StoreError> {
        let rows: Vec<LimitRow> = sqlx::query_as(
            "SELECT scope, scope_id, model, limits FROM limit_set WHERE scope = $1 AND scope_id = $2
             ORDER BY model",
        )
        .bind(scope.as_str())
        .bind(id)
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(LimitSet::try_from).collect()
    }

    async fn used(&self, key: &KeyId) -> Result<(), StoreError> {
        let now = ms(Timestamp::now());
        sqlx::query(
            "UPDATE api_key SET last_used_ms = $2 WHERE id = $1 AND coalesce(last_used_ms, 0) <= $3",
        )
        .bind(key.as_str())
        .bind(now)
        .bind(now - LAST_USED_MS)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn audit(&self, of: &OrganisationId, page: &Page) -> Result<Vec<AuditRow>, StoreError> {
        let rows: Vec<AuditColumns> = sqlx::query_as(
            "SELECT id, at_ms, actor, action, target, detail FROM audit
             WHERE organisation_id = $1 AND ($2 = '' OR id < $2) ORDER BY id DESC LIMIT $3",
        )
        .bind(of.as_str())
        .bind(page.after.as_deref().unwrap_or_default())
        .bind(i64::from(page.limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(AuditRow::try_from).collect()
    }
}

impl Backend {
    async fn limit_sets(
        &self,
        key: &str,
        project: &str,
        organisation: &str,
    ) -> Result<Vec<LimitSet>, StoreError> {
        let rows: Vec<LimitRow> = sqlx::query_as(
            "SELECT scope, scope_id, model, limits FROM limit_set
             WHERE (scope = 'key' AND scope_id = $1) OR (scope = 'project' AND scope_id = $2)
                OR (scope = 'organisation' AND scope_id = $3)
             ORDER BY scope, model",
        )
        .bind(key)
        .bind(project)
        .bind(organisation)
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(LimitSet::try_from).collect()
    }
}

async fn carry_out(connection: &mut Connection, act: &Act) -> Result<(), StoreError> {
    match act {
        Act::CreateOrganisation(organisation) => {
            create_organisation(connection, organisation).await
        }
        Act::CreateProject { project, limits } => {
            create_project(connection, project).await?;
            first_limits(connection, Scope::Project, project.id.as_str(), limits).await
        }
        Act::RenameProject { project, name } => rename_project(connection, project, name).await,
        Act::ArchiveProject(project) => archive_project(connection, project).await,
        Act::CreateKey { key, hash, limits } => {
            create_key(connection, key, hash).await?;
            first_limits(connection, Scope::Key, key.id.as_str(), limits).await
        }
        Act::RevokeKey(key) => revoke_key(connection, key).await,
        Act::RotateKey {
            old,
            until,
            new,
            hash,
        } => {
            expire_key(connection, old, *until).await?;
            create_key(connection, new, hash).await?;
            copy_limits(connection, old, &new.id).await
        }
        Act::SetLimits(set) => set_limits(connection, set).await,
        Act::Serve { next, .. } => models::serve(connection, next).await,
    }
}

async fn create_organisation(
    connection: &mut Connection,
    organisation: &Organisation,
) -> Result<(), StoreError> {
    let done = sqlx::query("INSERT INTO organisation (id, name, created_ms) VALUES ($1, $2, $3)")
        .bind(organisation.id.as_str())
        .bind(&organisation.name)
        .bind(ms(organisation.created))
        .execute(connection)
        .await;
    unique(done.map(drop), || {
        format!("organisation {}", organisation.name)
    })
}

async fn create_project(connection: &mut Connection, project: &Project) -> Result<(), StoreError> {
    let done = sqlx::query(
        "INSERT INTO project (id, organisation_id, name, created_ms) VALUES ($1, $2, $3, $4)",
    )
    .bind(project.id.as_str())
    .bind(project.organisation.as_str())
    .bind(&project.name)
    .bind(ms(project.created))
    .execute(connection)
    .await;
    unique(done.map(drop), || format!("project {}", project.name))
}

async fn rename_project(
    connection: &mut Connection,
    project: &ProjectId,
    name: &str,
) -> Result<(), StoreError> {
    let done = sqlx::query("UPDATE project SET name = $2 WHERE id = $1")
        .bind(project.as_str())
        .bind(name)
        .execute(connection)
        .await;
    let changed = done.as_ref().map_or(0, |done| done.rows_affected());
    unique(done.map(drop), || format!("project {name}"))?;
    one(changed, || format!("project {:?}", project.as_str()))
}

async fn archive_project(
    connection: &mut Connection,
    project: &ProjectId,
) -> Result<(), StoreError> {
    let done =
        sqlx::query("UPDATE project SET archived_ms = coalesce(archived_ms, $2) WHERE id = $1")
            .bind(project.as_str())
            .bind(ms(Timestamp::now()))
            .execute(connection)
            .await?;
    one(done.rows_affected(), || {
        format!("project {:?}", project.as_str())
    })
}

async fn create_key(
    connection: &mut Connection,
    key: &ApiKey,
    hash: &SecretHash,
) -> Result<(), StoreError> {
    let models = key
        .models
        .as_ref()
        .map(|list| serde_json::json!(list).to_string());
    sqlx::query(
        "INSERT INTO api_key (id, organisation_id, project_id, name, secret_hash, hint, models, created_ms, expires_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(key.id.as_str())
    .bind(key.organisation.as_str())
    .bind(key.project.as_ref().map(ProjectId::as_str))
    .bind(&key.name)
    .bind(hash.as_slice())
    .bind(&key.hint)
    .bind(models)
    .bind(ms(key.created))
    .bind(key.expires.map(ms))
    .execute(connection)
    .await?;
    Ok(())
}

async fn revoke_key(connection: &mut Connection, key: &KeyId) -> Result<(), StoreError> {
    let done =
        sqlx::query("UPDATE api_key SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL")
            .bind(key.as_str())
            .bind(ms(Timestamp::now()))
            .execute(connection)
            .await?;
    one(done.rows_affected(), || format!("key {:?}", key.as_str()))
}

/// It may end sooner by itself, and never later than it was to.
async fn expire_key(
    connection: &mut Connection,
    key: &KeyId,
    until: Timestamp,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "UPDATE api_key SET expires_ms = CASE WHEN expires_ms < $2 THEN expires_ms ELSE $2 END
         WHERE id = $1 AND revoked_ms IS NULL",
    )
    .bind(key.as_str())
    .bind(ms(until))
    .execute(connection)
    .await?;
    one(done.rows_affected(), || format!("key {:?}", key.as_str()))
}

async fn copy_limits(
    connection: &mut Connection,
    from: &KeyId,
    to: &KeyId,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO limit_set (scope, scope_id, model, limits)
         SELECT scope, $2, model, limits FROM limit_set WHERE scope = 'key' AND scope_id = $1",
    )
    .bind(from.as_str())
    .bind(to.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

async fn first_limits(
    connection: &mut Connection,
    scope: Scope,
    id: &str,
    limits: &Limits,
) -> Result<(), StoreError> {
    if limits.is_empty() {
        return Ok(());
    }
    let set = LimitSet {
        scope,
        id: id.into(),
        model: None,
        limits: limits.clone(),
    };
    set_limits(connection, &set).await
}

async fn set_limits(connection: &mut Connection, set: &LimitSet) -> Result<(), StoreError> {
    let there: i64 = sqlx::query_scalar(match set.scope {
        Scope::Organisation => "SELECT count(*) FROM organisation WHERE id = $1",
        Scope::Project => "SELECT count(*) FROM project WHERE id = $1",
        Scope::Key => "SELECT count(*) FROM api_key WHERE id = $1",
    })
    .bind(&*set.id)
    .fetch_one(&mut *connection)
    .await?;
    one(there.unsigned_abs(), || {
        format!("{} {:?}", set.scope.as_str(), set.id)
    })?;
    let model = set.model.as_deref().unwrap_or_default();
    if set.limits.is_empty() {
        sqlx::query("DELETE FROM limit_set WHERE scope = $1 AND scope_id = $2 AND model = $3")
            .bind(set.scope.as_str())
            .bind(&*set.id)
            .bind(model)
            .execute(connection)
            .await?;
        return Ok(());
    }
    let limits = serde_json::to_string(&set.limits)
        .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
    sqlx::query(
        "INSERT INTO limit_set (scope, scope_id, model, limits) VALUES ($1, $2, $3, $4)
         ON CONFLICT (scope, scope_id, model) DO UPDATE SET limits = excluded.limits",
    )
    .bind(set.scope.as_str())
    .bind(&*set.id)
    .bind(model)
    .bind(limits)
    .execute(connection)
    .await?;
    Ok(())
}

fn found<R, T: TryFrom<R, Error = StoreError>>(
    row: Option<R>,
    what: impl FnOnce() -> String,
) -> Result<T, StoreError> {
    row.ok_or_else(|| StoreError::NotFound(what()))?.try_into()
}

fn one(rows: u64, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    if rows == 0 {
        return Err(StoreError::NotFound(what()));
    }
    Ok(())
}

fn unique(done: Result<(), sqlx::Error>, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    match done {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Err(StoreError::Exists(what()))
        }
        other => Ok(other?),
    }
}
