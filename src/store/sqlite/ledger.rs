use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite as Db, SqliteConnection};
use uuid::Uuid;

use super::Sqlite;
use crate::types::{
    Charge, Checkpoint, Ledger, LedgerBatch, Money, Outcome, Price, RequestId, Source, State,
    StoreError, Usage, UsageRow,
};

/// SQLite takes 32,766 values in one statement; a row of either table has at most 23.
const ROWS_PER_STATEMENT: usize = 1000;

#[async_trait]
impl Ledger for Sqlite {
    async fn commit(&self, batch: &LedgerBatch) -> Result<(), StoreError> {
        // IMMEDIATE: the lock is taken at the start, so a commit can't fail for having read first.
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        for rows in batch.checkpoints.chunks(ROWS_PER_STATEMENT) {
            upsert_checkpoints(&mut transaction, rows).await?;
        }
        for rows in batch.charges.chunks(ROWS_PER_STATEMENT) {
            insert_charges(&mut transaction, rows).await?;
        }
        let ended = batch
            .charges
            .iter()
            .map(|charge| (charge.flown.request, charge.flown.attempt))
            .chain(batch.voids.iter().copied());
        for (request, attempt) in ended {
            delete_in_flight(&mut transaction, request, attempt).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn recover(&self) -> Result<u64, StoreError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let rows: Vec<Leftover> = sqlx::query_as(
            "SELECT request_id, attempt, prompt_tokens, cached_tokens, completion_tokens,
                    price_version, prompt_pico, cached_pico, completion_pico
             FROM in_flight",
        )
        .fetch_all(&mut *transaction)
        .await?;
        for row in &rows {
            book_leftover(&mut transaction, row).await?;
        }
        sqlx::query("DELETE FROM in_flight")
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(rows.len() as u64)
    }

    async fn usage(&self) -> Result<Vec<UsageRow>, StoreError> {
        // SUM over 64-bit amounts could overflow: the halves are summed apart and joined in i128.
        let rows: Vec<Sums> = sqlx::query_as(
            "SELECT coalesce(p.name, c.project_id) AS project, c.model, count(*) AS requests,
                    sum(c.prompt_tokens) AS prompt_tokens, sum(c.cached_tokens) AS cached_tokens,
                    sum(c.completion_tokens) AS completion_tokens,
                    sum(c.amount_pico >> 32) AS high, sum(c.amount_pico & 4294967295) AS low
             FROM charge c LEFT JOIN project p ON p.id = c.project_id
             WHERE c.state <> 'absorbed'
             GROUP BY c.project_id, c.model ORDER BY project, c.model",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(UsageRow::from).collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }
}

async fn upsert_checkpoints(
    connection: &mut SqliteConnection,
    rows: &[Checkpoint],
) -> Result<(), sqlx::Error> {
    let now = Timestamp::now().as_millisecond();
    let mut query = QueryBuilder::<Db>::new(
        "INSERT INTO in_flight (request_id, attempt, project_id, key_id, end_user, model, revision,
            worker, endpoint, class, prompt_tokens, cached_tokens, completion_tokens, price_version,
            prompt_pico, cached_pico, completion_pico, started_ms, first_token_ms, checkpoint_ms) ",
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
            .push_bind(flown.started.as_millisecond())
            .push_bind(checkpoint.first_token.map(Timestamp::as_millisecond))
            .push_bind(now);
    });
    query.push(
        " ON CONFLICT (request_id, attempt) DO UPDATE SET
            prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
            completion_tokens = excluded.completion_tokens, first_token_ms = excluded.first_token_ms,
            checkpoint_ms = excluded.checkpoint_ms",
    );
    query.build().execute(connection).await.map(drop)
}

async fn insert_charges(
    connection: &mut SqliteConnection,
    rows: &[Charge],
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Db>::new(
        "INSERT INTO charge (event_id, request_id, attempt, project_id, key_id, end_user, model,
            revision, worker, endpoint, class, state, source, outcome, prompt_tokens, cached_tokens,
            completion_tokens, price_version, amount_pico, started_ms, first_token_ms, ended_ms) ",
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
            .push_bind(flown.started.as_millisecond())
            .push_bind(charge.first_token.map(Timestamp::as_millisecond))
            .push_bind(charge.ended.as_millisecond());
    });
    // The outcome of an earlier try of the same batch may be unknown: what stands, stands.
    query.push(" ON CONFLICT (request_id, attempt) DO NOTHING");
    query.build().execute(connection).await.map(drop)
}

async fn delete_in_flight(
    connection: &mut SqliteConnection,
    request: RequestId,
    attempt: u32,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM in_flight WHERE request_id = ? AND attempt = ?")
        .bind(request.to_string())
        .bind(i64::from(attempt))
        .execute(connection)
        .await
        .map(drop)
}

#[derive(sqlx::FromRow)]
struct Leftover {
    request_id: String,
    attempt: i64,
    prompt_tokens: u32,
    cached_tokens: u32,
    completion_tokens: u32,
    price_version: String,
    prompt_pico: i64,
    cached_pico: i64,
    completion_pico: i64,
}

/// The amount is computed here and not in SQL, so that there is one place where money is multiplied.
async fn book_leftover(
    connection: &mut SqliteConnection,
    row: &Leftover,
) -> Result<(), sqlx::Error> {
    let price = Price {
        version: row.price_version.clone(),
        prompt_pico: row.prompt_pico,
        cached_pico: row.cached_pico,
        completion_pico: row.completion_pico,
    };
    let amount = price.amount(&Usage {
        prompt_tokens: row.prompt_tokens,
        cached_tokens: row.cached_tokens,
        completion_tokens: row.completion_tokens,
    });
    sqlx::query(
        "INSERT INTO charge (event_id, request_id, attempt, project_id, key_id, end_user, model,
            revision, worker, endpoint, class, state, source, outcome, prompt_tokens, cached_tokens,
            completion_tokens, price_version, amount_pico, started_ms, first_token_ms, ended_ms)
         SELECT ?, request_id, attempt, project_id, key_id, end_user, model, revision, worker,
            endpoint, class, ?, ?, ?, prompt_tokens, cached_tokens, completion_tokens, price_version,
            ?, started_ms, first_token_ms, checkpoint_ms
         FROM in_flight WHERE request_id = ? AND attempt = ?
         ON CONFLICT (request_id, attempt) DO NOTHING",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(State::Recovered.as_str())
    .bind(Source::Recovered.as_str())
    .bind(Outcome::Lost.as_str())
    .bind(amount.row())
    .bind(&row.request_id)
    .bind(row.attempt)
    .execute(connection)
    .await
    .map(drop)
}

#[derive(sqlx::FromRow)]
struct Sums {
    project: String,
    model: String,
    requests: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    high: i64,
    low: i64,
}

impl From<Sums> for UsageRow {
    fn from(sums: Sums) -> Self {
        Self {
            project: sums.project,
            model: sums.model,
            requests: sums.requests,
            prompt_tokens: sums.prompt_tokens,
            cached_tokens: sums.cached_tokens,
            completion_tokens: sums.completion_tokens,
            amount: Money((i128::from(sums.high) << 32) + i128::from(sums.low)),
        }
    }
}
