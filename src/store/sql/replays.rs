//! Answers that are kept for clients that ask twice.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::batches::is_paid;
use super::rows::{foreign, milliseconds, ms};
use super::{BEGIN, Backend, lock};
use crate::types::{Repeatable, Repeated, Replay, ReplayStore, RequestId, StoreError};

#[async_trait]
impl ReplayStore for Backend {
    async fn take_key(&self, one: &Repeatable, hold: Duration) -> Result<Repeated, StoreError> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        lock(
            &mut transaction,
            &format!("key {} of {}", one.key, one.project),
        )
        .await?;
        let row: Option<KeyRow> = sqlx::query_as(concat!(
            "SELECT fingerprint, request_id, first_id, kind, body, paid, CASE WHEN held_until_ms > ",
            now_ms!(),
            " THEN CAST(1 AS BIGINT) ELSE CAST(0 AS BIGINT) END AS held FROM repeatable
             WHERE project_id = $1 AND key = $2"
        ))
        .bind(one.project.as_str())
        .bind(&one.key)
        .fetch_optional(&mut *transaction)
        .await?;
        let lost = match row {
            None => None,
            Some(row) if row.fingerprint != hex::encode(one.fingerprint) => {
                return Ok(Repeated::Another);
            }
            Some(KeyRow {
                kind: Some(kind),
                body: Some(body),
                ..
            }) => return Ok(Repeated::Answered(Replay { kind, body })),
            Some(row) if row.held != 0 => return Ok(Repeated::Runs),
            Some(row) => {
                let paid = row.paid != 0 || is_paid(&mut transaction, &row.request_id).await?;
                let first = RequestId::parse(row.first_id.trim_start_matches("req_"));
                Some((paid, first.ok_or_else(|| foreign("id of a request"))?))
            }
        };
        sqlx::query(concat!(
            "INSERT INTO repeatable (project_id, key, fingerprint, request_id, first_id, created_ms, paid,
                held_until_ms)
             VALUES ($1, $2, $3, $4, $4, $5, $6, ",
            now_ms!(),
            " + $7) ON CONFLICT (project_id, key) DO UPDATE SET request_id = excluded.request_id,
                held_until_ms = excluded.held_until_ms, paid = excluded.paid"
        ))
        .bind(one.project.as_str())
        .bind(&one.key)
        .bind(hex::encode(one.fingerprint))
        .bind(one.request.to_string())
        .bind(ms(Timestamp::now()))
        .bind(i64::from(lost.is_some_and(|(paid, _)| paid)))
        .bind(milliseconds(hold))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(lost.map_or(Repeated::New, |(paid, first)| Repeated::Lost {
            paid,
            first,
        }))
    }

    async fn hold_key(&self, one: &Repeatable, hold: Duration) -> Result<(), StoreError> {
        sqlx::query(concat!(
            "UPDATE repeatable SET held_until_ms = ",
            now_ms!(),
            " + $4 WHERE project_id = $1 AND key = $2 AND request_id = $3"
        ))
        .bind(one.project.as_str())
        .bind(&one.key)
        .bind(one.request.to_string())
        .bind(milliseconds(hold))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn keep_answer(&self, one: &Repeatable, answer: &Replay) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE repeatable SET kind = $4, body = $5
             WHERE project_id = $1 AND key = $2 AND request_id = $3",
        )
        .bind(one.project.as_str())
        .bind(&one.key)
        .bind(one.request.to_string())
        .bind(&answer.kind)
        .bind(&answer.body)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn lose_key(&self, one: &Repeatable) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE repeatable SET held_until_ms = 0
             WHERE project_id = $1 AND key = $2 AND request_id = $3 AND body IS NULL",
        )
        .bind(one.project.as_str())
        .bind(&one.key)
        .bind(one.request.to_string())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn free_key(&self, one: &Repeatable) -> Result<(), StoreError> {
        // One that was paid for stays, so that the next try costs nothing either.
        self.lose_key(one).await?;
        sqlx::query(
            "DELETE FROM repeatable
             WHERE project_id = $1 AND key = $2 AND request_id = $3 AND body IS NULL AND paid = 0",
        )
        .bind(one.project.as_str())
        .bind(&one.key)
        .bind(one.request.to_string())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn lose_keys(&self) -> Result<(), StoreError> {
        sqlx::query("UPDATE repeatable SET held_until_ms = 0 WHERE body IS NULL")
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn forget_answers(&self, before: Timestamp) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM repeatable WHERE created_ms < $1")
            .bind(ms(before))
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    fingerprint: String,
    request_id: String,
    first_id: String,
    kind: Option<String>,
    body: Option<Vec<u8>>,
    held: i64,
    paid: i64,
}
