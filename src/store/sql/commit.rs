//! What one commit of the ledger writes.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::rows::ms;
use super::{Connection, Db, pieces, recurs};
use crate::types::{
    Charge, Checkpoint, Class, LedgerBatch, Replica, ReplicaId, RequestId, State, StoreError, Usage,
};

const DAY_MS: i64 = 86_400_000;

/// How it is known which charges of a batch are new.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum New {
    /// By their number: all, or it isn't known.
    Counted,
    /// Each is named.
    Named,
}

/// Writes a batch, statement by statement. Gives the charges in whose place another row stands; `None` where some stood, and
/// they were only counted: then the transaction is of no use.
pub(super) async fn all(
    connection: &mut Connection,
    replica: &Replica,
    batch: &LedgerBatch,
    by: New,
) -> Result<Option<Vec<Uuid>>, StoreError> {
    // The row is locked until the end: a recovery waits for it, and then finds that we live.
    let mut query = QueryBuilder::<Db>::new("");
    push_beat(&mut query, &replica.id);
    let seen = query.build().execute(&mut *connection).await?;
    if seen.rows_affected() == 0 {
        return Err(StoreError::Fenced);
    }
    for rows in pieces(&batch.checkpoints) {
        let mut query = QueryBuilder::<Db>::new("");
        push_checkpoints(&mut query, &replica.id, rows);
        let query = query.build().persistent(recurs(rows.len()));
        query.execute(&mut *connection).await?;
    }
    let mut new: Vec<&Charge> = Vec::with_capacity(batch.charges.len());
    let mut others = Vec::new();
    for rows in pieces(&batch.charges) {
        let mut query = QueryBuilder::<Db>::new("");
        push_charges(&mut query, replica, rows);
        if by == New::Counted {
            let query = query.build().persistent(recurs(rows.len()));
            let done = query.execute(&mut *connection).await?;
            if done.rows_affected() < rows.len() as u64 {
                return Ok(None);
            }
            new.extend(rows);
            continue;
        }
        query.push(" RETURNING event_id");
        let names = query.build_query_scalar().persistent(false);
        let names: Vec<String> = names.fetch_all(&mut *connection).await?;
        let names: HashSet<_> = names.into_iter().collect();
        let is_new = |charge: &&Charge| names.contains(&charge.event_id.to_string());
        let (fresh, old): (Vec<_>, Vec<_>) = rows.iter().partition(is_new);
        new.extend(fresh);
        others.extend(booked_by_others(&mut *connection, &old).await?);
    }
    for (whose, sums) in days(new.iter().copied()) {
        let mut query = QueryBuilder::<Db>::new("");
        push_spent(&mut query, &replica.name, whose, &sums);
        query.build().execute(&mut *connection).await?;
    }
    for rows in pieces(&batch.ended) {
        let mut query = QueryBuilder::<Db>::new("");
        push_deletes(&mut query, rows);
        let query = query.build().persistent(recurs(rows.len()));
        query.execute(&mut *connection).await?;
    }
    if !batch.releases.is_empty() {
        // What stood already took its own with it, and what costs nothing takes none.
        let paid = new.iter().filter(|charge| charge.state != State::Absorbed);
        let paid: HashSet<_> = paid.map(|charge| charge.event_id).collect();
        let releases = batch.releases.iter();
        let releases = releases.filter(|(event, _)| paid.contains(event));
        super::slices::release(connection, releases.map(|(_, release)| release)).await?;
    }
    Ok(Some(others))
}

/// Says that the replica lives; no row where others took it for dead.
pub(super) fn push_beat(query: &mut QueryBuilder<Db>, replica: &ReplicaId) {
    query
        .push(concat!(
            "UPDATE replica SET seen_ms = ",
            now_ms!(),
            " WHERE id = "
        ))
        .push_bind(replica.as_str().to_owned());
}

pub(super) fn push_checkpoints(
    query: &mut QueryBuilder<Db>,
    replica: &ReplicaId,
    rows: &[Checkpoint],
) {
    let now = ms(Timestamp::now());
    query.push(
        "INSERT INTO in_flight (request_id, attempt, project_id, key_id, end_user, model, revision,
            worker, endpoint, class, prompt_tokens, cached_tokens, completion_tokens, price_version,
            prompt_pico, cached_pico, completion_pico, request_pico, started_ms, first_token_ms, checkpoint_ms,
            route, replica_id) ",
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
            .push_bind(flown.route.as_deref())
            .push_bind(replica.as_str());
    });
    query.push(
        " ON CONFLICT (request_id, attempt) DO UPDATE SET
            prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
            completion_tokens = excluded.completion_tokens, first_token_ms = excluded.first_token_ms,
            checkpoint_ms = excluded.checkpoint_ms, replica_id = excluded.replica_id",
    );
}

/// Those that are there already stay as they are.
pub(super) fn push_charges(query: &mut QueryBuilder<Db>, replica: &Replica, rows: &[Charge]) {
    query.push(
        "INSERT INTO charge (event_id, request_id, attempt, project_id, key_id, end_user, model,
            revision, worker, endpoint, class, state, source, outcome, prompt_tokens, cached_tokens,
            completion_tokens, price_version, amount_pico, started_ms, first_token_ms, ended_ms, route,
            replica) ",
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
            .push_bind(flown.route.as_deref())
            .push_bind(&replica.name);
    });
    // The outcome of an earlier try of the same batch may be unknown: what stands, stands.
    query.push(" ON CONFLICT DO NOTHING");
}

/// What the sums of days grow by with rows that are new.
pub(super) fn days<'a>(rows: impl Iterator<Item = &'a Charge>) -> BTreeMap<Whose<'a>, Day> {
    let mut days = BTreeMap::<_, Day>::new();
    for charge in rows.filter(|charge| charge.state != State::Absorbed) {
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
    days
}

/// Project, day, key and model.
pub(super) type Whose<'a> = (&'a str, i64, &'a str, &'a str);

pub(super) fn day_of(ms: i64) -> i64 {
    ms - ms.rem_euclid(DAY_MS)
}

/// What one row of `spent` grows by.
#[derive(Default)]
pub(super) struct Day {
    requests: i64,
    tokens: i64,
    batch_tokens: i64,
    high: i64,
    low: i64,
}

impl Day {
    pub(super) fn add(&mut self, usage: &Usage, batch: bool, amount_pico: i64) {
        let tokens = i64::from(usage.prompt_tokens) + i64::from(usage.completion_tokens);
        self.requests += 1;
        self.tokens += tokens;
        self.batch_tokens += if batch { tokens } else { 0 };
        self.high += amount_pico >> 32;
        self.low += amount_pico & 0xffff_ffff;
    }
}

pub(super) fn push_spent(
    query: &mut QueryBuilder<Db>,
    replica: &str,
    (project, day, key, model): Whose<'_>,
    sums: &Day,
) {
    query.push(
        "INSERT INTO spent (project_id, day_ms, key_id, model, replica, requests, tokens, batch_tokens, high, low) ",
    );
    query.push_values([sums], |mut row, sums| {
        row.push_bind(project.to_owned())
            .push_bind(day)
            .push_bind(key.to_owned())
            .push_bind(model.to_owned())
            .push_bind(replica.to_owned())
            .push_bind(sums.requests)
            .push_bind(sums.tokens)
            .push_bind(sums.batch_tokens)
            .push_bind(sums.high)
            .push_bind(sums.low);
    });
    query.push(
        " ON CONFLICT (project_id, day_ms, key_id, model, replica) DO UPDATE SET
            requests = spent.requests + excluded.requests, tokens = spent.tokens + excluded.tokens,
            batch_tokens = spent.batch_tokens + excluded.batch_tokens,
            high = spent.high + excluded.high, low = spent.low + excluded.low",
    );
}

pub(super) fn push_deletes(query: &mut QueryBuilder<Db>, rows: &[(RequestId, u32)]) {
    query.push("DELETE FROM in_flight WHERE (request_id, attempt) IN (");
    query.push_values(rows, |mut row, (request, attempt)| {
        row.push_bind(request.to_string())
            .push_bind(i64::from(*attempt));
    });
    query.push(")");
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
    let ours = query.build_query_scalar().persistent(false);
    let ours: Vec<String> = ours.fetch_all(connection).await?;
    let ours: HashSet<_> = ours.into_iter().collect();
    let events = rows.iter().map(|charge| charge.event_id);
    Ok(events
        .filter(|event| !ours.contains(&event.to_string()))
        .collect())
}
