use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::validate::is_blank;
use super::{Halt, LONGEST_LINE, Work};
use crate::files::{FileReader, FileWriter, Lines};
use crate::types::{
    BatchLine, BatchStatus, FileId, LineOutcome, Purpose, RequestId, StoreError, StoredFile,
};

/// Answers that are read at once.
const PAGE: u32 = 4;

/// A line of a file of answers: <https://platform.openai.com/docs/api-reference/batch/request-output>
#[derive(Serialize)]
struct Row<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<Response<'a>>,
    error: Option<RowError>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: String,
    body: &'a RawValue,
}

#[derive(Serialize)]
struct RowError {
    code: &'static str,
    message: &'static str,
}

/// A file that is begun with its first row.
struct Answers<'a> {
    work: &'a Work,
    writer: Option<FileWriter>,
    name: &'static str,
}

impl Work {
    /// Writes the file of answers and the file of errors; nobody sees them yet. One without rows isn't there.
    pub(super) async fn write_answers(
        &self,
        end: BatchStatus,
    ) -> Result<(Option<FileId>, Option<FileId>), Halt> {
        let mut output = Answers::new(self, "output");
        let mut errors = Answers::new(self, "error");
        let mut unanswered = if end == BatchStatus::Expired {
            Some(Unanswered::of(self).await?)
        } else {
            None
        };
        let mut after = 0;
        loop {
            let store = &self.runner.store;
            let page = store.batch_lines(&self.batch.id, after, PAGE, true).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.line;
            for line in page {
                let Some(outcome) = &line.outcome else {
                    continue;
                };
                if let Some(unanswered) = &mut unanswered {
                    unanswered.until(line.line, &mut errors).await?;
                }
                let file = if outcome.status == 200 {
                    &mut output
                } else {
                    &mut errors
                };
                file.answer(&line, outcome).await?;
            }
            if self.lost.is_cancelled() {
                return Err(Halt::Lost);
            }
        }
        if let Some(unanswered) = &mut unanswered {
            unanswered.until(u64::MAX, &mut errors).await?;
        }
        Ok((output.end().await?, errors.end().await?))
    }
}

/// The lines that have no answer, in the order of the file.
struct Unanswered {
    lines: Lines,
    number: u64,
}

impl Unanswered {
    async fn of(work: &Work) -> Result<Self, StoreError> {
        let store = Arc::clone(&work.runner.store);
        let reader = FileReader::open(store, &work.batch.input).await?;
        Ok(Self {
            lines: Lines::of(reader, LONGEST_LINE),
            number: 0,
        })
    }

    /// Tells of those before this line, which has one.
    async fn until(&mut self, line: u64, errors: &mut Answers<'_>) -> Result<(), Halt> {
        #[derive(serde::Deserialize)]
        struct Named {
            custom_id: String,
        }
        loop {
            let next = self.number + 1;
            let Some(Some(text)) = self.lines.next().await? else {
                return Ok(());
            };
            self.number = next;
            if next == line {
                return Ok(());
            }
            if is_blank(&text) {
                continue;
            }
            if let Ok(named) = serde_json::from_slice::<Named>(&text) {
                errors.expired(&named.custom_id).await?;
            }
        }
    }
}

impl<'a> Answers<'a> {
    fn new(work: &'a Work, name: &'static str) -> Self {
        Self {
            work,
            writer: None,
            name,
        }
    }

    async fn answer(&mut self, line: &BatchLine, outcome: &LineOutcome) -> Result<(), StoreError> {
        let id = format!("batch_req_{}", line.request.simple());
        let body = serde_json::from_str(&outcome.body).unwrap_or(RawValue::NULL);
        self.row(&Row {
            id,
            custom_id: &line.custom_id,
            response: Some(Response {
                status_code: outcome.status,
                request_id: line.request.to_string(),
                body,
            }),
            error: None,
        })
        .await
    }

    async fn expired(&mut self, custom_id: &str) -> Result<(), StoreError> {
        self.row(&Row {
            id: format!("batch_req_{}", RequestId::mint().simple()),
            custom_id,
            response: None,
            error: Some(RowError {
                code: "batch_expired",
                message: "This request could not be executed before the completion window expired.",
            }),
        })
        .await
    }

    async fn row(&mut self, row: &Row<'_>) -> Result<(), StoreError> {
        let mut text = serde_json::to_vec(row).unwrap_or_default();
        text.push(b'\n');
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.begin().await?,
        };
        let done = writer.write(&text).await;
        self.writer = Some(writer);
        done
    }

    async fn begin(&self) -> Result<FileWriter, StoreError> {
        let batch = &self.work.batch;
        let file = StoredFile {
            id: FileId::mint(),
            project: batch.caller.project.clone(),
            filename: format!("{}_{}.jsonl", batch.id, self.name),
            purpose: Purpose::BatchOutput,
            bytes: 0,
            created: Timestamp::now(),
            expires: None,
        };
        // Answers that were paid for are kept, however full it is.
        let quota = u64::MAX;
        FileWriter::begin(Arc::clone(&self.work.runner.store), file, None, quota).await
    }

    async fn end(self) -> Result<Option<FileId>, StoreError> {
        match self.writer {
            Some(writer) => writer.hand_over().await.map(Some),
            None => Ok(None),
        }
    }
}
