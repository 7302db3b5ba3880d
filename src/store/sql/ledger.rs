//! Charges, and what is in flight.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::commit::{Day, New, day_of, push_spent};
use super::{BEGIN, Backend, Connection, Db};
use crate::types::{
    Charge, ChargeRow, Class, Ledger, LedgerBatch, Money, Outcome, Page, Price, Recovered, Replica,
    ReplicaId, Slice, SliceWish, Source, Spender, Spent, State, StoreError, Usage, UsageQuery,
    UsageRow,
};

#[async_trait]
impl Ledger for Backend {
    async fn join(&self, replica: &Replica) -> Result<(), StoreError> {
        sqlx::query(concat!(
            "INSERT INTO replica (id, name, started_ms, seen_ms) VALUES ($1, $2, ",
            now_ms!(),
            ", ",
            now_ms!(),
            ") ON CONFLICT (id) DO NOTHING"
        ))
        .bind(replica.id.as_str())
        .bind(&replica.name)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM replica WHERE id = $1")
            .bind(replica.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn commit(
        &self,
        replica: &Replica,
        batch: &LedgerBatch,
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut others = Vec::new();
        if !super::commit_at_once(self, replica, batch).await? {
            others = self.commit_step_by_step(replica, batch).await?;
        }
        self.committed(batch);
        Ok(others)
    }

    fn keep(&self, charge: &Charge) -> bool {
        self.append(charge)
    }

    async fn recover(
        &self,
        replica: &Replica,
        silent_for: Duration,
    ) -> Result<Vec<Recovered>, StoreError> {
        self.commit_kept(replica).await?;
        let silent_ms = i64::try_from(silent_for.as_millis()).unwrap_or(i64::MAX / 2);
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        sqlx::query(concat!(
            "DELETE FROM replica WHERE id <> $1 AND seen_ms <= ",
            now_ms!(),
            " - $2"
        ))
        .bind(replica.id.as_str())
        .bind(silent_ms)
        .execute(&mut *transaction)
        .await?;
        let rows: Vec<Leftover> = sqlx::query_as(
            "SELECT request_id, attempt, project_id, key_id, model, class, checkpoint_ms, prompt_tokens, cached_tokens, completion_tokens,
                    price_version, prompt_pico, cached_pico, completion_pico, request_pico
             FROM in_flight WHERE replica_id NOT IN (SELECT id FROM replica)",
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut recovered = Vec::with_capacity(rows.len());
        for row in rows {
            recovered.extend(book_leftover(&mut transaction, &replica.name, row).await?);
        }
        super::slices::free(&mut transaction).await?;
        transaction.commit().await?;
        Ok(recovered)
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        super::usage::sums(&self.readers, query).await
    }

    async fn charges(&self, query: &UsageQuery, page: &Page) -> Result<Vec<ChargeRow>, StoreError> {
        super::usage::charges(&self.readers, query, page).await
    }

    async fn charged(&self, replica: Option<&str>) -> Result<Money, StoreError> {
        let (high, low): (i64, i64) = sqlx::query_as(
            "SELECT CAST(coalesce(sum(high), 0) AS BIGINT), CAST(coalesce(sum(low), 0) AS BIGINT)
             FROM spent WHERE $1 = '' OR replica = $1",
        )
        .bind(replica.unwrap_or_default())
        .fetch_one(&self.readers)
        .await?;
        Ok(Money((i128::from(high) << 32) + i128::from(low)))
    }

    async fn spent(&self, by: &Spender, since: Timestamp) -> Result<Spent, StoreError> {
        super::usage::spent(&self.readers, by, since).await
    }

    async fn slice(&self, replica: &ReplicaId, wish: &SliceWish) -> Result<Slice, StoreError> {
        self.grant(replica, wish).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }
}

impl Backend {
    async fn commit_step_by_step(
        &self,
        replica: &Replica,
        batch: &LedgerBatch,
    ) -> Result<Vec<Uuid>, StoreError> {
        // Nearly always all charges are new.
        for by in [New::Counted, New::Named] {
            let mut transaction = self.writer.begin_with(BEGIN).await?;
            super::loosen(&mut transaction, self).await?;
            let others = super::commit::all(&mut transaction, replica, batch, by).await?;
            if let Some(others) = others {
                transaction.commit().await?;
                return Ok(others);
            }
            transaction.rollback().await?;
        }
        Err(StoreError::Unavailable(
            "charges that stand already were not named".into(),
        ))
    }
}

#[derive(sqlx::FromRow)]
struct Leftover {
    request_id: String,
    attempt: i64,
    project_id: String,
    key_id: String,
    model: String,
    class: String,
    checkpoint_ms: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    price_version: String,
    prompt_pico: i64,
    cached_pico: i64,
    completion_pico: i64,
    request_pico: i64,
}

async fn delete_leftover(connection: &mut Connection, row: &Leftover) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM in_flight WHERE request_id = $1 AND attempt = $2")
        .bind(&row.request_id)
        .bind(row.attempt)
        .execute(connection)
        .await
        .map(drop)
}

/// The amount is computed here and not in SQL, so that there is one place where money is multiplied. None where
/// the attempt is booked already.
async fn book_leftover(
    connection: &mut Connection,
    replica: &str,
    row: Leftover,
) -> Result<Option<Recovered>, sqlx::Error> {
    let price = Price {
        version: row.price_version.clone(),
        prompt_pico: row.prompt_pico,
        cached_pico: row.cached_pico,
        completion_pico: row.completion_pico,
        request_pico: row.request_pico,
    };
    let tokens = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    let usage = Usage {
        prompt_tokens: tokens(row.prompt_tokens),
        cached_tokens: tokens(row.cached_tokens),
        completion_tokens: tokens(row.completion_tokens),
        reasoning_tokens: 0,
    };
    let amount = price.amount(&usage);
    // No worker had taken it on: nothing ran, as where a client goes that early.
    if usage == Usage::default() {
        delete_leftover(connection, &row).await?;
        return Ok(None);
    }
    let done = sqlx::query(
        "INSERT INTO charge (event_id, request_id, attempt, project_id, key_id, end_user, model,
            revision, worker, endpoint, class, state, source, outcome, prompt_tokens, cached_tokens,
            completion_tokens, price_version, amount_pico, started_ms, first_token_ms, ended_ms, route,
            replica)
         SELECT $1, request_id, attempt, project_id, key_id, end_user, model, revision, worker,
            endpoint, class, $2, $3, $4, prompt_tokens, cached_tokens, completion_tokens, price_version,
            $5, started_ms, first_token_ms, checkpoint_ms, route, $6
         FROM in_flight WHERE request_id = $7 AND attempt = $8
         ON CONFLICT DO NOTHING",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(State::Recovered.as_str())
    .bind(Source::Recovered.as_str())
    .bind(Outcome::Lost.as_str())
    .bind(amount.row())
    .bind(replica)
    .bind(&row.request_id)
    .bind(row.attempt)
    .execute(&mut *connection)
    .await?;
    delete_leftover(connection, &row).await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let mut day = Day::default();
    day.add(&usage, row.class == Class::Batch.as_str(), amount.row());
    let whose = (
        row.project_id.as_str(),
        day_of(row.checkpoint_ms),
        row.key_id.as_str(),
        row.model.as_str(),
    );
    let mut query = QueryBuilder::<Db>::new("");
    push_spent(&mut query, replica, whose, &day);
    query.build().execute(connection).await?;
    Ok(Some(Recovered {
        model: row.model,
        usage,
        amount,
    }))
}
