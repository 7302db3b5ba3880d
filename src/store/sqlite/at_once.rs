//! A commit in one text: each statement by itself would cross over to SQLite's thread and back.

use futures_util::TryStreamExt;
use sqlx::{Executor, QueryBuilder};

use super::commit::{days, push_beat, push_charges, push_checkpoints, push_deletes, push_spent};
use super::{BEGIN, Db, Sqlite};
use crate::types::{LedgerBatch, Replica, StoreError};

/// Each statement of a text is given the values of all, so many small batches gain by it and a large one does not.
const MOST: usize = 16;

/// Commits a small batch. False where it is not small, or where something of it stood already, which has to be looked at step
/// by step; then nothing was done.
pub(super) async fn commit_at_once(
    store: &Sqlite,
    replica: &Replica,
    batch: &LedgerBatch,
) -> Result<bool, StoreError> {
    let rows = batch.checkpoints.len() + batch.charges.len() + batch.ended.len();
    if rows > MOST || !batch.releases.is_empty() {
        return Ok(false);
    }
    // Others are of too many shapes to be kept prepared.
    let is_usual = rows <= 2 || rows == batch.charges.len();
    let mut query = QueryBuilder::<Db>::new("");
    push_beat(&mut query, &replica.id);
    if !batch.checkpoints.is_empty() {
        push_checkpoints(query.push("; "), &replica.id, &batch.checkpoints);
    }
    if !batch.charges.is_empty() {
        push_charges(query.push("; "), replica, &batch.charges);
    }
    for (whose, sums) in days(batch.charges.iter()) {
        push_spent(query.push("; "), &replica.name, whose, &sums);
    }
    if !batch.ended.is_empty() {
        push_deletes(query.push("; "), &batch.ended);
    }
    let mut transaction = store.writer.begin_with(BEGIN).await?;
    let mut written = Vec::with_capacity(8);
    {
        let mut results = (&mut *transaction).fetch_many(query.build().persistent(is_usual));
        while let Some(result) = results.try_next().await? {
            written.extend(result.left().map(|done| done.rows_affected()));
        }
    }
    // The first statement is the replica's own, and the charges follow the checkpoints.
    let rows_of = |statement: usize| written.get(statement).copied().unwrap_or(0);
    if rows_of(0) == 0 {
        return Err(StoreError::Fenced);
    }
    let of_charges = 1 + usize::from(!batch.checkpoints.is_empty());
    if !batch.charges.is_empty() && rows_of(of_charges) < batch.charges.len() as u64 {
        transaction.rollback().await?;
        return Ok(false);
    }
    transaction.commit().await?;
    Ok(true)
}
