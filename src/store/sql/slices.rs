//! Slices of limits, which replicas use up on their own.

use std::collections::BTreeMap;

use sqlx::{QueryBuilder, Row};

use super::usage::sum_of_spent;
use super::{BEGIN, Backend, Connection, Db, lock};
use crate::types::{
    Counted, Money, Release, ReplicaId, Slice, SliceId, SliceWish, Spent, StoreError,
};

/// What a replica that died used of a minute counts that much longer.
const MINUTE_MS: i64 = 60_000;

impl Backend {
    pub(super) async fn grant(
        &self,
        replica: &ReplicaId,
        wish: &SliceWish,
    ) -> Result<Slice, StoreError> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        lock(&mut transaction, &wish.slice.bucket).await?;
        let elsewhere = elsewhere(&mut transaction, replica, wish).await?;
        let left = (wish.limit - elsewhere).max(wish.held);
        let wanted = wish.held + wish.need;
        let spare = wish.spare.min((left - wanted).max(0) / 4);
        let granted = (wanted + spare).min(left);
        sqlx::query("DELETE FROM slice WHERE bucket = $1 AND replica_id = $2 AND window_ms <> $3")
            .bind(&wish.slice.bucket)
            .bind(replica.as_str())
            .bind(wish.slice.window_ms)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO slice (bucket, window_ms, replica_id, granted) VALUES ($1, $2, $3, $4)
             ON CONFLICT (bucket, window_ms, replica_id) DO UPDATE SET granted = excluded.granted",
        )
        .bind(&wish.slice.bucket)
        .bind(wish.slice.window_ms)
        .bind(replica.as_str())
        .bind(Money(granted).row())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Slice { granted, elsewhere })
    }
}

/// What is booked, and what others hold. Both by one statement, which sees one state of the books: a charge that
/// commits meanwhile moves from the one to the other.
async fn elsewhere(
    connection: &mut Connection,
    replica: &ReplicaId,
    wish: &SliceWish,
) -> Result<i128, StoreError> {
    let mut sql = QueryBuilder::<Db>::new(
        "SELECT held.high AS held_high, held.low AS held_low, booked.* FROM
            (SELECT CAST(coalesce(sum(s.granted >> 32), 0) AS BIGINT) AS high,
                CAST(coalesce(sum(s.granted & 4294967295), 0) AS BIGINT) AS low
             FROM slice s WHERE s.bucket = ",
    );
    sql.push_bind(wish.slice.bucket.clone());
    sql.push(" AND s.window_ms = ");
    sql.push_bind(wish.slice.window_ms);
    sql.push(" AND s.replica_id <> ");
    sql.push_bind(replica.as_str().to_owned());
    sql.push(concat!(
        " AND (s.replica_id IN (SELECT id FROM replica) OR s.until_ms > ",
        now_ms!(),
        ")) held, ("
    ));
    sum_of_spent(&mut sql, &wish.spender, wish.slice.window_ms);
    sql.push(") booked");
    let row = sql.build().fetch_one(connection).await?;
    let number = |name: &str| row.try_get::<i64, _>(name);
    let held = (i128::from(number("held_high")?) << 32) + i128::from(number("held_low")?);
    let spent = Spent {
        requests: number("requests")?.unsigned_abs(),
        tokens: number("tokens")?.unsigned_abs(),
        batch_tokens: number("batch_tokens")?.unsigned_abs(),
        amount: Money((i128::from(number("high")?) << 32) + i128::from(number("low")?)),
    };
    Ok(held
        + match wish.counted {
            Counted::Requests => spent.requests.into(),
            Counted::Tokens => spent.tokens.into(),
            Counted::BatchTokens => spent.batch_tokens.into(),
            Counted::Money => spent.amount.0,
            Counted::Nothing => 0,
        })
}

/// What is booked now is no longer held: in the same transaction, or it would count twice or not at all.
pub(super) async fn release(
    connection: &mut Connection,
    releases: impl Iterator<Item = &Release>,
) -> Result<(), sqlx::Error> {
    let mut sums = BTreeMap::<(&SliceId, &ReplicaId), i128>::new();
    for release in releases {
        *sums.entry((&release.slice, &release.replica)).or_default() += release.amount;
    }
    for ((slice, replica), amount) in sums {
        sqlx::query(
            "UPDATE slice SET granted = CASE WHEN granted > $4 THEN granted - $4 ELSE 0 END
             WHERE bucket = $1 AND window_ms = $2 AND replica_id = $3",
        )
        .bind(&slice.bucket)
        .bind(slice.window_ms)
        .bind(replica.as_str())
        .bind(Money(amount).row())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The slices of replicas that are gone. What they held is free, and what they used is booked by now; but of what
/// they used in the last minute nobody else knows.
pub(super) async fn free(connection: &mut Connection) -> Result<(), sqlx::Error> {
    sqlx::query(concat!(
        "UPDATE slice SET until_ms = ",
        now_ms!(),
        " + $1 WHERE until_ms IS NULL AND bucket LIKE '%_per_minute'
            AND replica_id NOT IN (SELECT id FROM replica)"
    ))
    .bind(MINUTE_MS)
    .execute(&mut *connection)
    .await?;
    sqlx::query(concat!(
        "DELETE FROM slice WHERE replica_id NOT IN (SELECT id FROM replica)
            AND (until_ms IS NULL OR until_ms <= ",
        now_ms!(),
        ")"
    ))
    .execute(connection)
    .await
    .map(drop)
}
