//! Sums of the ledger.

use jiff::Timestamp;
use sqlx::{FromRow, Pool, QueryBuilder};

use super::Db;
use crate::types::{
    ChargeRow, Class, Dimension, Endpoint, Money, Page, Scope, Spender, Spent, StoreError,
    UsageQuery, UsageRow,
};

/// Each dimension in its place: what it is summed by, and as what it is shown. Not asked for, it is null.
const COLUMNS: [(Dimension, &str); 9] = [
    (Dimension::Project, "c.project_id"),
    (Dimension::Key, "c.key_id"),
    (Dimension::User, "c.end_user"),
    (Dimension::Model, "c.model"),
    (
        Dimension::Batch,
        "CASE WHEN c.class = 'batch' THEN 'batch' ELSE '' END",
    ),
    (Dimension::Endpoint, "c.endpoint"),
    (Dimension::Replica, "c.replica"),
    (Dimension::State, "c.state"),
    (Dimension::Price, "c.price_version"),
];

pub(super) async fn sums(pool: &Pool<Db>, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
    let mut sql = QueryBuilder::<Db>::new("SELECT ");
    match query.bucket_ms {
        Some(width) => {
            sql.push("c.ended_ms - c.ended_ms % CAST(");
            sql.push_bind(width);
            sql.push(" AS BIGINT) AS bucket_ms");
        }
        None => {
            sql.push("CAST(NULL AS BIGINT) AS bucket_ms");
        }
    }
    for (number, (dimension, column)) in COLUMNS.iter().enumerate() {
        let shown = if query.group_by.contains(dimension) {
            column
        } else {
            "CAST(NULL AS TEXT)"
        };
        sql.push(format_args!(", {shown} AS d{number}"));
    }
    // A sum of 64-bit amounts could overflow: the halves are summed apart and joined in i128.
    sql.push(
        ", count(*) AS requests, CAST(sum(c.prompt_tokens) AS BIGINT) AS prompt_tokens,
         CAST(sum(c.cached_tokens) AS BIGINT) AS cached_tokens,
         CAST(sum(c.completion_tokens) AS BIGINT) AS completion_tokens,
         CAST(sum(c.amount_pico >> 32) AS BIGINT) AS high,
         CAST(sum(c.amount_pico & 4294967295) AS BIGINT) AS low
         FROM charge c WHERE 1 = 1",
    );
    filter(&mut sql, query);
    sql.push(" GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10");
    let rows: Vec<Sums> = sql.build_query_as().fetch_all(pool).await?;
    let mut rows: Vec<_> = rows.into_iter().map(UsageRow::from).collect();
    if query.group_by.contains(&Dimension::Project) {
        name_projects(pool, &mut rows).await?;
    }
    Ok(rows)
}

fn filter(sql: &mut QueryBuilder<Db>, query: &UsageQuery) {
    if !query.absorbed {
        sql.push(" AND c.state <> 'absorbed'");
    }
    if let Some(from) = query.from {
        sql.push(" AND c.ended_ms >= ");
        sql.push_bind(from.as_millisecond());
    }
    if let Some(to) = query.to {
        sql.push(" AND c.ended_ms < ");
        sql.push_bind(to.as_millisecond());
    }
    match query.batch {
        Some(true) => sql.push(" AND c.class = 'batch'"),
        Some(false) => sql.push(" AND c.class <> 'batch'"),
        None => sql,
    };
    let endpoints: Vec<_> = query
        .endpoints
        .iter()
        .copied()
        .map(Endpoint::as_str)
        .collect();
    one_of(sql, "c.endpoint", endpoints);
    one_of(sql, "c.project_id", query.projects.clone());
    one_of(sql, "c.key_id", query.keys.clone());
    one_of(sql, "c.end_user", query.users.clone());
    one_of(sql, "c.model", query.models.clone());
    one_of(sql, "c.replica", query.replica.iter().cloned().collect());
}

fn one_of<T>(sql: &mut QueryBuilder<Db>, column: &str, values: Vec<T>)
where
    T: for<'q> sqlx::Encode<'q, Db> + sqlx::Type<Db>,
{
    if values.is_empty() {
        return;
    }
    sql.push(format_args!(" AND {column} IN ("));
    let mut list = sql.separated(", ");
    for value in values {
        list.push_bind(value);
    }
    sql.push(")");
}

pub(super) async fn charges(
    pool: &Pool<Db>,
    query: &UsageQuery,
    page: &Page,
) -> Result<Vec<ChargeRow>, StoreError> {
    let mut sql = QueryBuilder::<Db>::new(
        "SELECT c.event_id, c.request_id, c.attempt, c.project_id, c.key_id, c.end_user, c.model, c.revision,
            c.worker, c.endpoint, c.class, c.state, c.outcome, c.prompt_tokens, c.cached_tokens,
            c.completion_tokens, c.price_version, c.amount_pico, c.started_ms, c.ended_ms, c.corrects,
            c.route
         FROM charge c WHERE c.event_id > ",
    );
    sql.push_bind(page.after.clone().unwrap_or_default());
    filter(&mut sql, query);
    sql.push(" ORDER BY c.event_id LIMIT ");
    sql.push_bind(i64::from(page.limit));
    let rows: Vec<Columns> = sql.build_query_as().fetch_all(pool).await?;
    Ok(rows.into_iter().map(ChargeRow::from).collect())
}

pub(super) async fn spent(
    pool: &Pool<Db>,
    by: &Spender,
    since: Timestamp,
) -> Result<Spent, StoreError> {
    let mut sql = QueryBuilder::<Db>::new("");
    sum_of_spent(&mut sql, by, since.as_millisecond());
    let sums: (i64, i64, i64, i64, i64) = sql.build_query_as().fetch_one(pool).await?;
    Ok(Spent {
        requests: sums.0.unsigned_abs(),
        tokens: sums.1.unsigned_abs(),
        batch_tokens: sums.2.unsigned_abs(),
        amount: Money((i128::from(sums.3) << 32) + i128::from(sums.4)),
    })
}

/// The query for the columns requests, tokens, batch_tokens, high and low.
pub(super) fn sum_of_spent(sql: &mut QueryBuilder<Db>, by: &Spender, since_ms: i64) {
    let sums = ["requests", "tokens", "batch_tokens", "high", "low"]
        .map(|column| format!("CAST(coalesce(sum({column}), 0) AS BIGINT) AS {column}"));
    sql.push(format_args!(
        "SELECT {} FROM spent WHERE day_ms >= ",
        sums.join(", ")
    ));
    sql.push_bind(since_ms);
    sql.push(match by.scope {
        Scope::Organisation => {
            " AND project_id IN (SELECT id FROM project WHERE organisation_id = "
        }
        Scope::Project => " AND project_id IN (",
        Scope::Key => " AND key_id IN (",
    });
    sql.push_bind(by.id.to_string());
    sql.push(")");
    if let Some(model) = &by.model {
        sql.push(" AND model = ");
        sql.push_bind(model.to_string());
    }
}

/// The bootstrap project of an older store may be in no list.
async fn name_projects(pool: &Pool<Db>, rows: &mut [UsageRow]) -> Result<(), StoreError> {
    let names: Vec<(String, String)> = sqlx::query_as("SELECT id, name FROM project")
        .fetch_all(pool)
        .await?;
    let names: std::collections::HashMap<_, _> = names.into_iter().collect();
    for row in rows {
        row.project_name = row
            .project
            .as_ref()
            .map(|id| names.get(id).unwrap_or(id).clone());
    }
    Ok(())
}

#[derive(FromRow)]
struct Sums {
    bucket_ms: Option<i64>,
    d0: Option<String>,
    d1: Option<String>,
    d2: Option<String>,
    d3: Option<String>,
    d4: Option<String>,
    d5: Option<String>,
    d6: Option<String>,
    d7: Option<String>,
    d8: Option<String>,
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
            bucket_ms: sums.bucket_ms,
            project: sums.d0,
            project_name: None,
            key: sums.d1,
            user: sums.d2,
            model: sums.d3,
            batch: sums.d4.map(|class| class == Class::Batch.as_str()),
            endpoint: sums.d5,
            replica: sums.d6,
            state: sums.d7,
            price: sums.d8,
            requests: sums.requests,
            prompt_tokens: sums.prompt_tokens,
            cached_tokens: sums.cached_tokens,
            completion_tokens: sums.completion_tokens,
            amount: Money((i128::from(sums.high) << 32) + i128::from(sums.low)),
        }
    }
}

#[derive(FromRow)]
struct Columns {
    event_id: String,
    request_id: String,
    attempt: i64,
    project_id: String,
    key_id: String,
    end_user: Option<String>,
    model: String,
    revision: String,
    worker: String,
    endpoint: String,
    class: String,
    state: String,
    outcome: String,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    price_version: String,
    amount_pico: i64,
    started_ms: i64,
    ended_ms: i64,
    corrects: Option<String>,
    route: Option<String>,
}

impl From<Columns> for ChargeRow {
    fn from(row: Columns) -> Self {
        Self {
            event_id: row.event_id,
            request_id: row.request_id,
            attempt: row.attempt,
            project: row.project_id,
            key: row.key_id,
            user: row.end_user,
            model: row.model,
            revision: row.revision,
            worker: row.worker,
            endpoint: row.endpoint,
            class: row.class,
            state: row.state,
            outcome: row.outcome,
            prompt_tokens: row.prompt_tokens,
            cached_tokens: row.cached_tokens,
            completion_tokens: row.completion_tokens,
            price_version: row.price_version,
            amount: Money(row.amount_pico.into()),
            started_ms: row.started_ms,
            ended_ms: row.ended_ms,
            corrects: row.corrects,
            route: row.route,
        }
    }
}
