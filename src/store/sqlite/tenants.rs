use async_trait::async_trait;
use jiff::Timestamp;

use super::Sqlite;
use crate::types::{
    KeyId, KeyRow, NewKey, Project, ProjectId, SecretHash, StoreError, TenantStore,
};

#[async_trait]
impl TenantStore for Sqlite {
    async fn create_project(&self, project: &Project) -> Result<(), StoreError> {
        let done = sqlx::query("INSERT INTO project (id, name, created_ms) VALUES (?, ?, ?)")
            .bind(project.id.as_str())
            .bind(&project.name)
            .bind(project.created_s * 1000)
            .execute(&self.writer)
            .await;
        match done {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Err(StoreError::Exists(format!("project {}", project.name)))
            }
            other => Ok(other.map(drop)?),
        }
    }

    async fn find_project(&self, id_or_name: &str) -> Result<Project, StoreError> {
        let row: Option<(String, String, i64)> = sqlx::query_as(
            "SELECT id, name, created_ms FROM project WHERE id = ?1 OR name = ?1
             ORDER BY id = ?1 DESC LIMIT 1",
        )
        .bind(id_or_name)
        .fetch_optional(&self.readers)
        .await?;
        row.map(project)
            .ok_or_else(|| StoreError::NotFound(format!("project {id_or_name:?}")))
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        let rows = sqlx::query_as("SELECT id, name, created_ms FROM project ORDER BY name")
            .fetch_all(&self.readers)
            .await?;
        Ok(rows.into_iter().map(project).collect())
    }

    async fn create_key(&self, key: &NewKey) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO api_key (id, project_id, secret_hash, hint, created_ms) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(key.id.as_str())
        .bind(key.project.as_str())
        .bind(key.hash.as_slice())
        .bind(&key.hint)
        .bind(Timestamp::now().as_millisecond())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn find_key(&self, hash: &SecretHash) -> Result<Option<(KeyId, ProjectId)>, StoreError> {
        let row: Option<(String, String)> =
            sqlx::query_as("SELECT id, project_id FROM api_key WHERE secret_hash = ?")
                .bind(hash.as_slice())
                .fetch_optional(&self.readers)
                .await?;
        Ok(row.map(|(id, project)| (id.into(), project.into())))
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT k.id, p.name, k.hint, k.created_ms
             FROM api_key k JOIN project p ON p.id = k.project_id ORDER BY k.id",
        )
        .fetch_all(&self.readers)
        .await?;
        let row = |(id, project, hint, created_ms): (String, String, String, i64)| KeyRow {
            id: id.into(),
            project,
            hint,
            created_s: created_ms / 1000,
        };
        Ok(rows.into_iter().map(row).collect())
    }
}

fn project((id, name, created_ms): (String, String, i64)) -> Project {
    Project {
        id: id.into(),
        name,
        created_s: created_ms / 1000,
    }
}
