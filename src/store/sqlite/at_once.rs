//! A commit in one text: each statement by itself would cross over to SQLite's thread and back.

use futures_util::TryStreamExt;
use sqlx::{Either, Executor, QueryBuilder};

use super::commit::{
    days, ended, push_beat, push_charges, push_checkpoints, push_deletes, push_spent, recurs,
};
use super::{BEGIN, Db, ROWS_PER_STATEMENT, Sqlite};
use crate::types::{LedgerBatch, Replica, StoreError};

/// Each statement of a text is given the values of all, so many small batches gain by it and a large one does not.
const MOST: usize = ROWS_PER_STATEMENT;

/// Commits a small batch. False where it is not small, or where something of it stood already, which has to be looked at step
/// by step; then nothing was done.
pub(super) async fn commit_at_once(
    store: &Sqlite,
    replica: &Replica,
    batch: &LedgerBatch,
) -> Result<bool, StoreError> {
    let ended = ended(batch);
    let rows = batch.checkpoints.len() + ended.len();
    if rows > MOST || !batch.releases.is_empty() {
        return Ok(false);
    }
    let few = rows < MOST && recurs(rows);
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
    if !ended.is_empty() {
        push_deletes(query.push("; "), &ended);
    }
    let mut transaction = store.writer.begin_with(BEGIN).await?;
    let (mut lives, mut new) = (None, 0);
    {
        let mut results = (&mut *transaction).fetch_many(query.build().persistent(few));
        while let Some(result) = results.try_next().await? {
            match result {
                // The first statement is the replica's own.
                Either::Left(done) => {
                    lives.get_or_insert(done.rows_affected() > 0);
                }
                Either::Right(_) => new += 1,
            }
        }
    }
    if lives != Some(true) {
        return Err(StoreError::Fenced);
    }
    if new < batch.charges.len() {
        transaction.rollback().await?;
        return Ok(false);
    }
    transaction.commit().await?;
    Ok(true)
}
