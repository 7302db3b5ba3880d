//! Files and uploads. What nobody is to see any more is marked first, and removed piece by piece later: one large statement
//! would keep the ledger waiting.

use async_trait::async_trait;
use jiff::Timestamp;

use super::rows::{foreign, ms, time};
use super::{BEGIN, Backend, lock};
use crate::types::{
    FileId, FileQuery, FileStore, ProjectId, StoreError, StoredFile, Upload, UploadId, UploadStatus,
};

/// Pieces that are removed at once.
const SWEPT: i64 = 16;
/// How long an upload that is over is remembered.
const REMEMBERED_MS: i64 = 30 * 86_400_000;

macro_rules! file_columns {
    () => {
        "id, project_id, filename, purpose, bytes, created_ms, expires_ms"
    };
}

#[async_trait]
impl FileStore for Backend {
    async fn begin_file(
        &self,
        file: &StoredFile,
        part_of: Option<&UploadId>,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO file (id, project_id, upload_id, state, filename, purpose, bytes, created_ms, expires_ms)
             VALUES ($1, $2, $3, 'coming', $4, $5, 0, $6, $7)",
        )
        .bind(file.id.as_str())
        .bind(file.project.as_str())
        .bind(part_of.map(UploadId::as_str))
        .bind(&file.filename)
        .bind(file.purpose.as_str())
        .bind(ms(file.created))
        .bind(ms(until))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn append(
        &self,
        file: &StoredFile,
        index: u32,
        piece: &[u8],
        quota: u64,
    ) -> Result<(), StoreError> {
        let size = i64::try_from(piece.len()).unwrap_or(i64::MAX);
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        lock(&mut transaction, &format!("files of {}", file.project)).await?;
        // What is used stands in the size of what it is a part of.
        let taken: i64 = sqlx::query_scalar(
            "SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM file
             WHERE project_id = $1 AND state IN ('coming', 'part', 'ready')
                AND (expires_ms IS NULL OR expires_ms > $2)",
        )
        .bind(file.project.as_str())
        .bind(ms(Timestamp::now()))
        .fetch_one(&mut *transaction)
        .await?;
        if taken.saturating_add(size) > i64::try_from(quota).unwrap_or(i64::MAX) {
            return Err(StoreError::Full(format!(
                "the files of this project would take more than the {quota} bytes that they may"
            )));
        }
        sqlx::query("INSERT INTO file_piece (file_id, piece, content) VALUES ($1, $2, $3)")
            .bind(file.id.as_str())
            .bind(i64::from(index))
            .bind(piece)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE file SET bytes = bytes + $2 WHERE id = $1")
            .bind(file.id.as_str())
            .bind(size)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn abandon_file(&self, id: &FileId) -> Result<(), StoreError> {
        sqlx::query("UPDATE file SET state = 'gone' WHERE id = $1 AND state = 'coming'")
            .bind(id.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn finish_file(&self, file: &StoredFile) -> Result<(), StoreError> {
        // A part stays until its upload is over.
        let done = sqlx::query(
            "UPDATE file SET state = CASE WHEN upload_id IS NULL THEN 'ready' ELSE 'part' END,
                expires_ms = $2, filename = $3, purpose = $4 WHERE id = $1 AND state = 'coming'",
        )
        .bind(file.id.as_str())
        .bind(file.expires.map(ms))
        .bind(&file.filename)
        .bind(file.purpose.as_str())
        .execute(&self.writer)
        .await?;
        if done.rows_affected() == 0 {
            return Err(not_found(file.id.as_str()));
        }
        Ok(())
    }

    async fn find_file(&self, project: &ProjectId, id: &str) -> Result<StoredFile, StoreError> {
        let row: Option<FileRow> = sqlx::query_as(concat!(
            "SELECT ",
            file_columns!(),
            " FROM file WHERE id = $1 AND project_id = $2 AND state = 'ready'
                AND (expires_ms IS NULL OR expires_ms > $3)"
        ))
        .bind(id)
        .bind(project.as_str())
        .bind(ms(Timestamp::now()))
        .fetch_optional(&self.readers)
        .await?;
        row.ok_or_else(|| not_found(id))?.try_into()
    }

    async fn files(
        &self,
        project: &ProjectId,
        query: &FileQuery,
    ) -> Result<Vec<StoredFile>, StoreError> {
        let sql = if query.ascending {
            concat!(
                "SELECT ",
                file_columns!(),
                " FROM file WHERE project_id = $1 AND state = 'ready'
                    AND (expires_ms IS NULL OR expires_ms > $2) AND ($3 = '' OR purpose = $3)
                    AND id > $4 ORDER BY id LIMIT $5"
            )
        } else {
            concat!(
                "SELECT ",
                file_columns!(),
                " FROM file WHERE project_id = $1 AND state = 'ready'
                    AND (expires_ms IS NULL OR expires_ms > $2) AND ($3 = '' OR purpose = $3)
                    AND ($4 = '' OR id < $4) ORDER BY id DESC LIMIT $5"
            )
        };
        let rows: Vec<FileRow> = sqlx::query_as(sql)
            .bind(project.as_str())
            .bind(ms(Timestamp::now()))
            .bind(query.purpose.map_or("", |purpose| purpose.as_str()))
            .bind(query.after.as_deref().unwrap_or_default())
            .bind(i64::from(query.limit))
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(StoredFile::try_from).collect()
    }

    async fn contents(&self, id: &FileId) -> Result<Vec<FileId>, StoreError> {
        let parts: Vec<String> =
            sqlx::query_scalar("SELECT id FROM file WHERE part_of = $1 ORDER BY position")
                .bind(id.as_str())
                .fetch_all(&self.readers)
                .await?;
        if parts.is_empty() {
            return Ok(vec![id.clone()]);
        }
        Ok(parts.into_iter().map(FileId::from).collect())
    }

    async fn piece(&self, content: &FileId, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let piece =
            sqlx::query_scalar("SELECT content FROM file_piece WHERE file_id = $1 AND piece = $2")
                .bind(content.as_str())
                .bind(i64::from(index))
                .fetch_optional(&self.readers)
                .await?;
        Ok(piece)
    }

    async fn remove_file(&self, project: &ProjectId, id: &str) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        // No batch takes it up in between.
        lock(&mut transaction, &format!("file {id}")).await?;
        let read: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM batch WHERE input_id = $1 AND project_id = $2 AND ended_ms IS NULL",
        )
        .bind(id)
        .bind(project.as_str())
        .fetch_one(&mut *transaction)
        .await?;
        if read > 0 {
            return Err(StoreError::InUse(format!(
                "file {id:?} is read by a batch that is not over: cancel that first"
            )));
        }
        let done = sqlx::query(
            "UPDATE file SET state = 'gone' WHERE id = $1 AND project_id = $2 AND state = 'ready'
                AND (expires_ms IS NULL OR expires_ms > $3)",
        )
        .bind(id)
        .bind(project.as_str())
        .bind(ms(Timestamp::now()))
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Err(not_found(id));
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn create_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO upload (id, project_id, file_id, filename, purpose, mime_type, bytes, status,
                created_ms, until_ms, keep_s)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', $8, $9, $10)",
        )
        .bind(upload.id.as_str())
        .bind(upload.file.project.as_str())
        .bind(upload.file.id.as_str())
        .bind(&upload.file.filename)
        .bind(upload.file.purpose.as_str())
        .bind(&upload.mime_type)
        .bind(i64::try_from(upload.file.bytes).unwrap_or(i64::MAX))
        .bind(ms(upload.file.created))
        .bind(ms(upload.until))
        .bind(upload.keep_s.map(i64::from))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn find_upload(&self, project: &ProjectId, id: &str) -> Result<Upload, StoreError> {
        let row: Option<UploadRow> = sqlx::query_as(
            "SELECT id, project_id, file_id, filename, purpose, mime_type, bytes, status, created_ms,
                until_ms, keep_s FROM upload WHERE id = $1 AND project_id = $2",
        )
        .bind(id)
        .bind(project.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let missing = || StoreError::NotFound(format!("upload {id:?}"));
        row.ok_or_else(missing)?.try_into()
    }

    async fn parts(&self, upload: &UploadId) -> Result<Vec<StoredFile>, StoreError> {
        let rows: Vec<FileRow> = sqlx::query_as(concat!(
            "SELECT ",
            file_columns!(),
            " FROM file WHERE upload_id = $1 AND state = 'part'"
        ))
        .bind(upload.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(StoredFile::try_from).collect()
    }

    async fn complete_upload(
        &self,
        upload: &UploadId,
        file: &StoredFile,
        parts: &[FileId],
    ) -> Result<bool, StoreError> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let done = sqlx::query(
            "UPDATE upload SET status = 'completed' WHERE id = $1 AND status = 'pending' AND until_ms > $2",
        )
        .bind(upload.as_str())
        .bind(ms(Timestamp::now()))
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO file (id, project_id, state, filename, purpose, bytes, created_ms, expires_ms)
             VALUES ($1, $2, 'ready', $3, $4, $5, $6, $7)",
        )
        .bind(file.id.as_str())
        .bind(file.project.as_str())
        .bind(&file.filename)
        .bind(file.purpose.as_str())
        .bind(i64::try_from(file.bytes).unwrap_or(i64::MAX))
        .bind(ms(file.created))
        .bind(file.expires.map(ms))
        .execute(&mut *transaction)
        .await?;
        for (position, part) in (0_i64..).zip(parts) {
            let used = sqlx::query(
                "UPDATE file SET state = 'used', part_of = $2, position = $3, expires_ms = NULL
                 WHERE id = $1 AND state = 'part'",
            )
            .bind(part.as_str())
            .bind(file.id.as_str())
            .bind(position)
            .execute(&mut *transaction)
            .await?;
            if used.rows_affected() == 0 {
                return Ok(false);
            }
        }
        sqlx::query(
            "UPDATE file SET state = 'gone' WHERE upload_id = $1 AND state IN ('coming', 'part')",
        )
        .bind(upload.as_str())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn cancel_upload(&self, upload: &UploadId) -> Result<bool, StoreError> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let done = sqlx::query(
            "UPDATE upload SET status = 'cancelled' WHERE id = $1 AND status = 'pending' AND until_ms > $2",
        )
        .bind(upload.as_str())
        .bind(ms(Timestamp::now()))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "UPDATE file SET state = 'gone' WHERE upload_id = $1 AND state IN ('coming', 'part')",
        )
        .bind(upload.as_str())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    async fn sweep(&self, now: Timestamp) -> Result<bool, StoreError> {
        for (sql, time) in [
            (
                "UPDATE file SET state = 'gone' WHERE expires_ms <= $1 AND state <> 'gone'
                    AND id NOT IN (SELECT input_id FROM batch WHERE ended_ms IS NULL)",
                ms(now),
            ),
            (
                "UPDATE upload SET status = 'expired' WHERE status = 'pending' AND until_ms <= $1",
                ms(now),
            ),
            (
                "DELETE FROM upload WHERE status <> 'pending' AND until_ms <= $1",
                ms(now) - REMEMBERED_MS,
            ),
        ] {
            sqlx::query(sql).bind(time).execute(&self.writer).await?;
        }
        // A whole goes with its parts.
        sqlx::query(
            "UPDATE file SET state = 'gone' WHERE state = 'used'
                AND part_of IN (SELECT id FROM file WHERE state = 'gone')",
        )
        .execute(&self.writer)
        .await?;
        let gone: Option<String> =
            sqlx::query_scalar("SELECT id FROM file WHERE state = 'gone' ORDER BY id LIMIT 1")
                .fetch_optional(&self.readers)
                .await?;
        let Some(gone) = gone else {
            return Ok(false);
        };
        let removed = sqlx::query(
            "DELETE FROM file_piece WHERE file_id = $1 AND piece IN
                (SELECT piece FROM file_piece WHERE file_id = $1 ORDER BY piece LIMIT $2)",
        )
        .bind(&gone)
        .bind(SWEPT)
        .execute(&self.writer)
        .await?;
        if removed.rows_affected() == 0 {
            // One that got a piece in between, or whose parts are not marked yet, stays for the next time.
            sqlx::query(
                "DELETE FROM file WHERE id = $1
                    AND NOT EXISTS (SELECT 1 FROM file_piece WHERE file_id = $1)
                    AND NOT EXISTS (SELECT 1 FROM file p WHERE p.part_of = $1 AND p.state = 'used')",
            )
            .bind(&gone)
            .execute(&self.writer)
            .await?;
        }
        Ok(true)
    }
}

/// The same words whether there never was one, or whether it is another's.
fn not_found(id: &str) -> StoreError {
    StoreError::NotFound(format!("file {id:?}"))
}

#[derive(sqlx::FromRow)]
struct FileRow {
    id: String,
    project_id: String,
    filename: String,
    purpose: String,
    bytes: i64,
    created_ms: i64,
    expires_ms: Option<i64>,
}

impl TryFrom<FileRow> for StoredFile {
    type Error = StoreError;

    fn try_from(row: FileRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            project: row.project_id.into(),
            filename: row.filename,
            purpose: row.purpose.parse().map_err(|_| foreign("purpose"))?,
            bytes: row.bytes.unsigned_abs(),
            created: time(row.created_ms)?,
            expires: row.expires_ms.map(time).transpose()?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct UploadRow {
    id: String,
    project_id: String,
    file_id: String,
    filename: String,
    purpose: String,
    mime_type: String,
    bytes: i64,
    status: String,
    created_ms: i64,
    until_ms: i64,
    keep_s: Option<i64>,
}

impl TryFrom<UploadRow> for Upload {
    type Error = StoreError;

    fn try_from(row: UploadRow) -> Result<Self, StoreError> {
        let until = time(row.until_ms)?;
        let mut status = row.status.parse().map_err(|_| foreign("upload"))?;
        if status == UploadStatus::Pending && until <= Timestamp::now() {
            status = UploadStatus::Expired;
        }
        Ok(Self {
            id: row.id.into(),
            file: StoredFile {
                id: row.file_id.into(),
                project: row.project_id.into(),
                filename: row.filename,
                purpose: row.purpose.parse().map_err(|_| foreign("purpose"))?,
                bytes: row.bytes.unsigned_abs(),
                created: time(row.created_ms)?,
                expires: None,
            },
            mime_type: row.mime_type,
            status,
            until,
            keep_s: row.keep_s.and_then(|seconds| u32::try_from(seconds).ok()),
        })
    }
}
