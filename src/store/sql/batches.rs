//! Batches, and how far each line of them has come.

use async_trait::async_trait;
use jiff::Timestamp;

use super::rows::{foreign, milliseconds, ms, time};
use super::{BEGIN, Backend, Connection, lock};
use crate::types::{
    Batch, BatchCounts, BatchHold, BatchId, BatchLine, BatchStatus, BatchStep, BatchStore,
    BatchTimes, Caller, Endpoint, LineOutcome, Page, ProjectId, ReplicaId, RequestId, StoreError,
};

/// Lines that are forgotten at once.
const FORGOTTEN: i64 = 500;

macro_rules! batch_columns {
    () => {
        "id, organisation_id, project_id, key_id, endpoint, input_id, output_id, errors_id, metadata, keep_s, \
         status, faults, lines, completed, failed, created_ms, expires_ms, in_progress_ms, finalizing_ms, \
         ended_ms, cancelling_ms"
    };
}

#[async_trait]
impl BatchStore for Backend {
    async fn create_batch(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        // Nobody removes the file in between.
        lock(&mut transaction, &format!("file {}", batch.input)).await?;
        let done = sqlx::query(
            "INSERT INTO batch (id, organisation_id, project_id, key_id, endpoint, input_id, metadata, keep_s,
                status, faults, lines, completed, failed, created_ms, expires_ms)
             SELECT $1, $2, $3, $4, $5, id, $7, $8, $9, '[]', 0, 0, 0, $10, $11
             FROM file WHERE id = $6 AND project_id = $3 AND state = 'ready'",
        )
        .bind(batch.id.as_str())
        .bind(batch.caller.organisation.as_str())
        .bind(batch.caller.project.as_str())
        .bind(batch.caller.key.as_str())
        .bind(batch.endpoint.path())
        .bind(batch.input.as_str())
        .bind(batch.metadata.as_ref().map(ToString::to_string))
        .bind(batch.keep_s.map(i64::from))
        .bind(batch.status.as_str())
        .bind(ms(batch.created))
        .bind(ms(batch.expires))
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("file {:?}", batch.input)));
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn find_batch(&self, project: &ProjectId, id: &str) -> Result<Batch, StoreError> {
        let row: Option<BatchRow> = sqlx::query_as(concat!(
            "SELECT ",
            batch_columns!(),
            " FROM batch WHERE id = $1 AND project_id = $2"
        ))
        .bind(id)
        .bind(project.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let missing = || StoreError::NotFound(format!("batch {id:?}"));
        row.ok_or_else(missing)?.try_into()
    }

    async fn batches(&self, project: &ProjectId, page: &Page) -> Result<Vec<Batch>, StoreError> {
        let rows: Vec<BatchRow> = sqlx::query_as(concat!(
            "SELECT ",
            batch_columns!(),
            " FROM batch WHERE project_id = $1 AND ($2 = '' OR id < $2) ORDER BY id DESC LIMIT $3"
        ))
        .bind(project.as_str())
        .bind(page.after.as_deref().unwrap_or_default())
        .bind(i64::from(page.limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(Batch::try_from).collect()
    }

    async fn take_batch(&self, hold: &BatchHold) -> Result<Option<Batch>, StoreError> {
        let free: Option<String> = sqlx::query_scalar(concat!(
            "SELECT b.id FROM batch b WHERE b.ended_ms IS NULL AND b.held_by <> $1
                AND (b.held_until_ms <= ",
            now_ms!(),
            " OR $2 = 1) ORDER BY (SELECT count(*) FROM batch h WHERE h.project_id = b.project_id
                AND h.ended_ms IS NULL AND h.held_by = $1), b.id LIMIT 1"
        ))
        .bind(hold.replica.as_str())
        .bind(i64::from(hold.alone))
        .fetch_optional(&self.readers)
        .await?;
        let Some(free) = free else {
            return Ok(None);
        };
        // Another replica may have been faster.
        let row: Option<BatchRow> = sqlx::query_as(concat!(
            "UPDATE batch SET held_by = $1, held_until_ms = ",
            now_ms!(),
            " + $3 WHERE id = $4 AND ended_ms IS NULL AND (held_until_ms <= ",
            now_ms!(),
            " OR $2 = 1) RETURNING ",
            batch_columns!()
        ))
        .bind(hold.replica.as_str())
        .bind(i64::from(hold.alone))
        .bind(milliseconds(hold.lasts))
        .bind(free)
        .fetch_optional(&self.writer)
        .await?;
        row.map(Batch::try_from).transpose()
    }

    async fn hold_batch(
        &self,
        id: &BatchId,
        hold: &BatchHold,
    ) -> Result<Option<Batch>, StoreError> {
        let row: Option<BatchRow> = sqlx::query_as(concat!(
            "UPDATE batch SET held_until_ms = ",
            now_ms!(),
            " + $3 WHERE id = $1 AND held_by = $2 RETURNING ",
            batch_columns!()
        ))
        .bind(id.as_str())
        .bind(hold.replica.as_str())
        .bind(milliseconds(hold.lasts))
        .fetch_optional(&self.writer)
        .await?;
        row.map(Batch::try_from).transpose()
    }

    async fn leave_batch(&self, id: &BatchId, replica: &ReplicaId) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE batch SET held_by = '', held_until_ms = 0 WHERE id = $1 AND held_by = $2",
        )
        .bind(id.as_str())
        .bind(replica.as_str())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn step_batch(&self, id: &BatchId, step: &BatchStep) -> Result<bool, StoreError> {
        let now = Timestamp::now();
        let from: Vec<_> = step.from.iter().map(|status| status.as_str()).collect();
        let (output, errors) = &step.files;
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let row: Option<(Option<i64>,)> = sqlx::query_as(
            "UPDATE batch SET status = coalesce($3, status), faults = CASE WHEN $4 = '[]' THEN faults ELSE $4 END,
                lines = coalesce($5, lines), output_id = coalesce($6, output_id), errors_id = coalesce($7, errors_id),
                in_progress_ms = CASE WHEN $3 = 'in_progress' THEN $8 ELSE in_progress_ms END,
                finalizing_ms = CASE WHEN $3 = 'finalizing' THEN $8 ELSE finalizing_ms END,
                cancelling_ms = CASE WHEN $3 = 'cancelling' THEN $8 ELSE cancelling_ms END,
                ended_ms = CASE WHEN $3 IN ('completed', 'failed', 'expired', 'cancelled') THEN $8 ELSE ended_ms END
             WHERE id = $1 AND $2 LIKE '%' || status || ',%' RETURNING keep_s",
        )
        .bind(id.as_str())
        .bind(format!("{},", from.join(",")))
        .bind(step.to.map(BatchStatus::as_str))
        .bind(serde_json::to_string(&step.faults).unwrap_or_default())
        .bind(step.total.map(u64::cast_signed))
        .bind(output.as_ref().map(|file| file.as_str()))
        .bind(errors.as_ref().map(|file| file.as_str()))
        .bind(ms(now))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((keep_s,)) = row else {
            return Ok(false);
        };
        let until = keep_s.map(|seconds| ms(now) + seconds * 1000);
        for file in [output, errors].into_iter().flatten() {
            sqlx::query("UPDATE file SET state = 'ready', expires_ms = $2 WHERE id = $1")
                .bind(file.as_str())
                .bind(until)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    async fn begin_line(
        &self,
        id: &BatchId,
        replica: &ReplicaId,
        line: &BatchLine,
    ) -> Result<Option<bool>, StoreError> {
        let paid: Option<i64> = sqlx::query_scalar(
            "INSERT INTO batch_line (batch_id, line, request_id, custom_id, paid)
             SELECT id, $3, $4, $5, $6 FROM batch WHERE id = $1 AND held_by = $2 AND ended_ms IS NULL
             ON CONFLICT (batch_id, line) DO UPDATE SET request_id = excluded.request_id,
                paid = CASE WHEN batch_line.paid = 1 OR EXISTS (SELECT 1 FROM charge c
                    WHERE c.request_id = batch_line.request_id AND c.state <> 'absorbed') THEN 1 ELSE 0 END
                WHERE batch_line.status IS NULL
             RETURNING paid",
        )
        .bind(id.as_str())
        .bind(replica.as_str())
        .bind(line.line.cast_signed())
        .bind(line.request.to_string())
        .bind(&line.custom_id)
        .bind(i64::from(line.paid))
        .fetch_optional(&self.writer)
        .await?;
        Ok(paid.map(|paid| paid != 0))
    }

    async fn end_line(
        &self,
        id: &BatchId,
        line: &BatchLine,
        outcome: &LineOutcome,
    ) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let done = sqlx::query(
            "UPDATE batch_line SET status = $4, body = $5
             WHERE batch_id = $1 AND line = $2 AND request_id = $3 AND status IS NULL",
        )
        .bind(id.as_str())
        .bind(line.line.cast_signed())
        .bind(line.request.to_string())
        .bind(i64::from(outcome.status))
        .bind(&outcome.body)
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() > 0 {
            sqlx::query(
                "UPDATE batch SET completed = completed + $2, failed = failed + $3 WHERE id = $1",
            )
            .bind(id.as_str())
            .bind(i64::from(outcome.status == 200))
            .bind(i64::from(outcome.status != 200))
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn batch_lines(
        &self,
        id: &BatchId,
        after: u64,
        limit: u32,
        bodies: bool,
    ) -> Result<Vec<BatchLine>, StoreError> {
        let rows: Vec<LineRow> = sqlx::query_as(
            "SELECT line, request_id, custom_id, paid, status, CASE WHEN $4 = 1 THEN body END AS body FROM batch_line
             WHERE batch_id = $1 AND line > $2 ORDER BY line LIMIT $3",
        )
        .bind(id.as_str())
        .bind(after.cast_signed())
        .bind(i64::from(limit))
        .bind(i64::from(bodies))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(BatchLine::try_from).collect()
    }

    async fn forget_lines(&self, id: &BatchId) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "DELETE FROM batch_line WHERE batch_id = $1 AND line IN
                (SELECT line FROM batch_line WHERE batch_id = $1 ORDER BY line LIMIT $2)",
        )
        .bind(id.as_str())
        .bind(FORGOTTEN)
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn is_paid(&self, request: &RequestId) -> Result<bool, StoreError> {
        is_paid(&mut *self.readers.acquire().await?, &request.to_string()).await
    }
}

pub(super) async fn is_paid(
    connection: &mut Connection,
    request: &str,
) -> Result<bool, StoreError> {
    let rows: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM charge WHERE request_id = $1 AND state <> 'absorbed'",
    )
    .bind(request)
    .fetch_one(connection)
    .await?;
    Ok(rows > 0)
}

#[derive(sqlx::FromRow)]
struct BatchRow {
    id: String,
    organisation_id: String,
    project_id: String,
    key_id: String,
    endpoint: String,
    input_id: String,
    output_id: Option<String>,
    errors_id: Option<String>,
    metadata: Option<String>,
    keep_s: Option<i64>,
    status: String,
    faults: String,
    lines: i64,
    completed: i64,
    failed: i64,
    created_ms: i64,
    expires_ms: i64,
    in_progress_ms: Option<i64>,
    finalizing_ms: Option<i64>,
    ended_ms: Option<i64>,
    cancelling_ms: Option<i64>,
}

impl TryFrom<BatchRow> for Batch {
    type Error = StoreError;

    fn try_from(row: BatchRow) -> Result<Self, StoreError> {
        let metadata = row.metadata.as_deref().map(serde_json::from_str);
        let maybe = |at: Option<i64>| at.map(time).transpose();
        Ok(Self {
            id: row.id.into(),
            caller: Caller {
                organisation: row.organisation_id.into(),
                project: row.project_id.into(),
                key: row.key_id.into(),
            },
            endpoint: Endpoint::at(&row.endpoint).ok_or_else(|| foreign("endpoint"))?,
            input: row.input_id.into(),
            output: row.output_id.map(Into::into),
            errors: row.errors_id.map(Into::into),
            metadata: metadata.transpose().map_err(|_| foreign("metadata"))?,
            keep_s: row.keep_s.and_then(|seconds| u32::try_from(seconds).ok()),
            status: row.status.parse().map_err(|_| foreign("state"))?,
            faults: serde_json::from_str(&row.faults).map_err(|_| foreign("list of faults"))?,
            counts: BatchCounts {
                total: row.lines.unsigned_abs(),
                completed: row.completed.unsigned_abs(),
                failed: row.failed.unsigned_abs(),
            },
            created: time(row.created_ms)?,
            expires: time(row.expires_ms)?,
            times: BatchTimes {
                in_progress: maybe(row.in_progress_ms)?,
                finalizing: maybe(row.finalizing_ms)?,
                ended: maybe(row.ended_ms)?,
                cancelling: maybe(row.cancelling_ms)?,
            },
        })
    }
}

#[derive(sqlx::FromRow)]
struct LineRow {
    line: i64,
    request_id: String,
    custom_id: String,
    paid: i64,
    status: Option<i64>,
    body: Option<String>,
}

impl TryFrom<LineRow> for BatchLine {
    type Error = StoreError;

    fn try_from(row: LineRow) -> Result<Self, StoreError> {
        let simple = row.request_id.trim_start_matches("req_");
        let outcome = row.status.map(|status| LineOutcome {
            status: u16::try_from(status).unwrap_or(500),
            body: row.body.unwrap_or_default(),
        });
        Ok(Self {
            line: row.line.unsigned_abs(),
            request: RequestId::parse(simple).ok_or_else(|| foreign("id of a request"))?,
            custom_id: row.custom_id,
            paid: row.paid != 0,
            outcome,
        })
    }
}
