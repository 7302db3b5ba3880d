//! Charges, and what is in flight.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::rows::ms;
use super::{BEGIN, Backend, Connection, Db};
use crate::types::{
    Charge, ChargeRow, Checkpoint, Class, Ledger, LedgerBatch, Money, Outcome, Page, Price,
    Recovered, Replica, ReplicaId, RequestId, Slice, SliceWish, Source, Spender, Spent, State,
    StoreError, Usage, UsageQuery, UsageRow,
};

/// SQLite takes 32,766 values in one statement, PostgreSQL 65,535; a row of either table has at most 25.
const ROWS_PER_STATEMENT: usize = 1000;
const DAY_MS: i64 = 86_400_000;

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
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        super::loosen(&mut transaction, self).await?;
        // The row is locked until the end: a recovery waits for it, and then finds that we live.
        let seen = sqlx::query(concat!(
            "UPDATE replica SET seen_ms = ",
            now_ms!(),
            " WHERE id = $1"
        ))
        .bind(replica.id.as_str())
        .execute(&mut *transaction)
        .await?;
        if seen.rows_affected() == 0 {
            return Err(StoreError::Fenced);
        }
        for rows in batch.checkpoints.chunks(ROWS_PER_STATEMENT) {
            upsert_checkpoints(&mut transaction, &replica.id, rows).await?;
        }
        let mut others = Vec::new();
        for rows in batch.charges.chunks(ROWS_PER_STATEMENT) {
            let new = insert_charges(&mut transaction, replica, rows).await?;
            let (new, old): (Vec<_>, Vec<_>) = rows
                .iter()
                .partition(|charge| new.contains(&charge.event_id.to_string()));
            add_spent(&mut transaction, &replica.name, &new).await?;
            others.extend(booked_by_others(&mut transaction, &old).await?);
        }
        let ended: Vec<_> = batch
            .charges
            .iter()
            .map(|charge| (charge.flown.request, charge.flown.attempt))
            .chain(batch.voids.iter().copied())
            .collect();
        for rows in ended.chunks(ROWS_PER_STATEMENT) {
            delete_in_flight(&mut transaction, rows).await?;
        }
        super::slices::release(&mut transaction, &batch.releases).await?;
        transaction.commit().await?;
        if let Some(syncer) = &self.syncer {
            syncer.mark();
        }
        Ok(others)
    }

    async fn recover(
        &self,
        replica: &Replica,
        silent_for: Duration,
    ) -> Result<Vec<Recovered>, StoreError> {
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

async fn upsert_checkpoints(
    connection: &mut Connection,
    replica: &ReplicaId,
    rows: &[Checkpoint],
) -> Result<(), sqlx::Error> {
    let now = ms(Timestamp::now());
    let mut query = QueryBuilder::<Db>::new(
        "INSERT INTO in_flight (request_id, attempt, project_id, key_id, end_user, model, revision,
            worker, endpoint, class, prompt_tokens, cached_tokens, completion_tokens, price_version,
            prompt_pico, cached_pico, completion_pico, request_pico, started_ms, first_token_ms, checkpoint_ms,
            replica_id) ",
    );
    query.push_values(rows, |mut row, checkpoint| {
        let (flown, usage) = (&checkpoint.flown, &checkpoint.usage);
        row.push_bind(flown.request.to_string())
            .push_bind(i64::from(flown.attempt))
            .push_bind(flown.caller.project.as_str())
            .push_bind(flown.caller.key.as_str())
            .push_bind(flown.end_user.as_deref())
            .push_bind(&*flown.model)
            .push_bind(&*flown.revision)
            .push_bind(&*flown.worker)
            .push_bind(flown.endpoint.as_str())
            .push_bind(flown.class.as_str())
            .push_bind(i64::from(usage.prompt_tokens))
            .push_bind(i64::from(usage.cached_tokens))
            .push_bind(i64::from(usage.completion_tokens))
            .push_bind(&flown.price.version)
            .push_bind(flown.price.prompt_pico)
            .push_bind(flown.price.cached_pico)
            .push_bind(flown.price.completion_pico)
            .push_bind(flown.price.request_pico)
            .push_bind(ms(flown.started))
            .push_bind(checkpoint.first_token.map(ms))
            .push_bind(now)
            .push_bind(replica.as_str());
    });
    query.push(
        " ON CONFLICT (request_id, attempt) DO UPDATE SET
            prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
            completion_tokens = excluded.completion_tokens, first_token_ms = excluded.first_token_ms,
            checkpoint_ms = excluded.checkpoint_ms, replica_id = excluded.replica_id",
    );
    query.build().execute(connection).await.map(drop)
}

/// Gives the events that were not there before.
async fn insert_charges(
    connection: &mut Connection,
    replica: &Replica,
    rows: &[Charge],
) -> Result<HashSet<String>, sqlx::Error> {
    let mut query = QueryBuilder::<Db>::new(
        "INSERT INTO charge (event_id, request_id, attempt, project_id, key_id, end_user, model,
            revision, worker, endpoint, class, state, source, outcome, prompt_tokens, cached_tokens,
            completion_tokens, price_version, amount_pico, started_ms, first_token_ms, ended_ms, replica) ",
    );
    query.push_values(rows, |mut row, charge| {
        let (flown, usage) = (&charge.flown, &charge.usage);
        row.push_bind(charge.event_id.to_string())
            .push_bind(flown.request.to_string())
            .push_bind(i64::from(flown.attempt))
            .push_bind(flown.caller.project.as_str())
            .push_bind(flown.caller.key.as_str())
            .push_bind(flown.end_user.as_deref())
            .push_bind(&*flown.model)
            .push_bind(&*flown.revision)
            .push_bind(&*flown.worker)
            .push_bind(flown.endpoint.as_str())
            .push_bind(flown.class.as_str())
            .push_bind(charge.state.as_str())
            .push_bind(charge.source.as_str())
            .push_bind(charge.outcome.as_str())
            .push_bind(i64::from(usage.prompt_tokens))
            .push_bind(i64::from(usage.cached_tokens))
            .push_bind(i64::from(usage.completion_tokens))
            .push_bind(&flown.price.version)
            .push_bind(charge.amount.row())
            .push_bind(ms(flown.started))
            .push_bind(charge.first_token.map(ms))
            .push_bind(ms(charge.ended))
            .push_bind(&replica.name);
    });
    // The outcome of an earlier try of the same batch may be unknown: what stands, stands.
    query.push(" ON CONFLICT DO NOTHING RETURNING event_id");
    let new: Vec<String> = query.build_query_scalar().fetch_all(connection).await?;
    Ok(new.into_iter().collect())
}

/// Those of the charges in whose place another row stands. The rest stood already, from an earlier try.
async fn booked_by_others(
    connection: &mut Connection,
    rows: &[&Charge],
) -> Result<Vec<Uuid>, sqlx::Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::<Db>::new("SELECT event_id FROM charge WHERE event_id IN (");
    let mut ids = query.separated(", ");
    for charge in rows {
        ids.push_bind(charge.event_id.to_string());
    }
    query.push(")");
    let ours: Vec<String> = query.build_query_scalar().fetch_all(connection).await?;
    let ours: HashSet<_> = ours.into_iter().collect();
    let events = rows.iter().map(|charge| charge.event_id);
    Ok(events
        .filter(|event| !ours.contains(&event.to_string()))
        .collect())
}

/// Brings the sums of days in step with rows that are new.
async fn add_spent(
    connection: &mut Connection,
    replica: &str,
    rows: &[&Charge],
) -> Result<(), sqlx::Error> {
    let mut days = BTreeMap::<_, Day>::new();
    for charge in rows.iter().filter(|charge| charge.state != State::Absorbed) {
        let caller = &charge.flown.caller;
        let day = days
            .entry((
                caller.project.as_str(),
                day_of(ms(charge.ended)),
                caller.key.as_str(),
                &*charge.flown.model,
            ))
            .or_default();
        let batch = charge.flown.class == Class::Batch;
        day.add(&charge.usage, batch, charge.amount.row());
    }
    for ((project, day, key, model), sums) in days {
        upsert_spent(connection, replica, (project, day, key, model), &sums).await?;
    }
    Ok(())
}

fn day_of(ms: i64) -> i64 {
    ms - ms.rem_euclid(DAY_MS)
}

/// What one row of `spent` grows by.
#[derive(Default)]
struct Day {
    requests: i64,
    tokens: i64,
    batch_tokens: i64,
    high: i64,
    low: i64,
}

impl Day {
    fn add(&mut self, usage: &Usage, batch: bool, amount_pico: i64) {
        let tokens = i64::from(usage.prompt_tokens) + i64::from(usage.completion_tokens);
        self.requests += 1;
        self.tokens += tokens;
        self.batch_tokens += if batch { tokens } else { 0 };
        self.high += amount_pico >> 32;
        self.low += amount_pico & 0xffff_ffff;
    }
}

async fn upsert_spent(
    connection: &mut Connection,
    replica: &str,
    (project, day, key, model): (&str, i64, &str, &str),
    sums: &Day,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO spent (project_id, day_ms, key_id, model, replica, requests, tokens, batch_tokens, high, low)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (project_id, day_ms, key_id, model, replica) DO UPDATE SET
            requests = spent.requests + excluded.requests, tokens = spent.tokens + excluded.tokens,
            batch_tokens = spent.batch_tokens + excluded.batch_tokens,
            high = spent.high + excluded.high, low = spent.low + excluded.low",
    )
    .bind(project)
    .bind(day)
    .bind(key)
    .bind(model)
    .bind(replica)
    .bind(sums.requests)
    .bind(sums.tokens)
    .bind(sums.batch_tokens)
    .bind(sums.high)
    .bind(sums.low)
    .execute(connection)
    .await
    .map(drop)
}

async fn delete_in_flight(
    connection: &mut Connection,
    rows: &[(RequestId, u32)],
) -> Result<(), sqlx::Error> {
    let mut query =
        QueryBuilder::<Db>::new("DELETE FROM in_flight WHERE (request_id, attempt) IN (");
    query.push_values(rows, |mut row, (request, attempt)| {
        row.push_bind(request.to_string())
            .push_bind(i64::from(*attempt));
    });
    query.push(")");
    query.build().execute(connection).await.map(drop)
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
            completion_tokens, price_version, amount_pico, started_ms, first_token_ms, ended_ms, replica)
         SELECT $1, request_id, attempt, project_id, key_id, end_user, model, revision, worker,
            endpoint, class, $2, $3, $4, prompt_tokens, cached_tokens, completion_tokens, price_version,
            $5, started_ms, first_token_ms, checkpoint_ms, $6
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
    upsert_spent(connection, replica, whose, &day).await?;
    Ok(Some(Recovered {
        model: row.model,
        usage,
        amount,
    }))
}
