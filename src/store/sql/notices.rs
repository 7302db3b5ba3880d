//! What operators are to be told, until they are.

use std::time::Duration;

use async_trait::async_trait;

use super::Backend;
use super::rows::{LimitRow, milliseconds};
use crate::types::{LimitSet, Notice, Outbox, Sent, StoreError};

#[async_trait]
impl Outbox for Backend {
    async fn warned_limits(&self) -> Result<Vec<LimitSet>, StoreError> {
        let rows: Vec<LimitRow> = sqlx::query_as(
            "SELECT scope, scope_id, model, limits FROM limit_set WHERE limits LIKE '%\"warn_per_%'",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(LimitSet::try_from).collect()
    }

    async fn post(&self, subject: &str, id: &str, body: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(concat!(
            "INSERT INTO notice (id, subject, body, created_ms, tries, next_ms) VALUES ($1, $2, $3, ",
            now_ms!(),
            ", 0, ",
            now_ms!(),
            ") ON CONFLICT (subject) DO NOTHING"
        ))
        .bind(id)
        .bind(subject)
        .bind(body)
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn is_posted(&self, subject: &str) -> Result<bool, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notice WHERE subject = $1")
            .bind(subject)
            .fetch_one(&self.readers)
            .await?;
        Ok(count > 0)
    }

    async fn take_notice(&self, hold: Duration) -> Result<Option<Notice>, StoreError> {
        let due: Option<(String,)> = sqlx::query_as(concat!(
            "SELECT id FROM notice WHERE next_ms <= ",
            now_ms!(),
            " ORDER BY next_ms LIMIT 1"
        ))
        .fetch_optional(&self.readers)
        .await?;
        let Some((id,)) = due else {
            return Ok(None);
        };
        // Another replica may have been faster: then it is not due any more.
        let taken: Option<(String, i64)> = sqlx::query_as(concat!(
            "UPDATE notice SET tries = tries + 1, next_ms = ",
            now_ms!(),
            " + $2 WHERE id = $1 AND next_ms <= ",
            now_ms!(),
            " RETURNING body, tries"
        ))
        .bind(&id)
        .bind(milliseconds(hold))
        .fetch_optional(&self.writer)
        .await?;
        Ok(taken.map(|(body, tries)| Notice {
            id,
            body,
            tries: u32::try_from(tries).unwrap_or(u32::MAX),
        }))
    }

    async fn sent(&self, id: &str, sent: Sent) -> Result<(), StoreError> {
        let again = match sent {
            Sent::Again(pause) => Some(milliseconds(pause)),
            Sent::Taken | Sent::Never => None,
        };
        // Nothing plus a time is nothing.
        sqlx::query(concat!(
            "UPDATE notice SET next_ms = ",
            now_ms!(),
            " + $2 WHERE id = $1"
        ))
        .bind(id)
        .bind(again)
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}
