use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BatchId, Caller, Endpoint, FileId, Page, ProjectId, ReplicaId, RequestId, StoreError};

/// How a batch stands: <https://platform.openai.com/docs/guides/batch>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStatus {
    /// Its file is read.
    Validating,
    /// Its file can't be run.
    Failed,
    /// Its lines are answered.
    InProgress,
    /// Its lines are answered, and the files of answers are written.
    Finalizing,
    /// All is there.
    Completed,
    /// Its time is over; what was answered until then is there.
    Expired,
    /// Its owner gave it up, and some of its lines are still under way.
    Cancelling,
    /// Its owner gave it up; what was answered until then is there.
    Cancelled,
}

impl BatchStatus {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Validating,
        Self::Failed,
        Self::InProgress,
        Self::Finalizing,
        Self::Completed,
        Self::Expired,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// The name that clients and the store know it by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether there is nothing left to be done.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled
        )
    }
}

impl FromStr for BatchStatus {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| format!("{word:?} is no state of a batch"))
    }
}

/// What is wrong with a batch's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BatchError)]
pub struct BatchFault {
    /// A word for programs.
    pub code: String,
    /// Words for people. They quote nothing of the file.
    pub message: String,
    /// The line, counted from 1.
    pub line: Option<u64>,
    /// The field.
    pub param: Option<String>,
}

/// When a batch came to be in a state that it once was in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchTimes {
    /// Its lines began to be answered.
    pub in_progress: Option<Timestamp>,
    /// Its files began to be written.
    pub finalizing: Option<Timestamp>,
    /// It came to its end, whichever that is.
    pub ended: Option<Timestamp>,
    /// It was given up.
    pub cancelling: Option<Timestamp>,
}

/// How many of a batch's lines there are, and how many of them have an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// Lines.
    pub total: u64,
    /// Those that were answered.
    pub completed: u64,
    /// Those that were refused, or could not be answered.
    pub failed: u64,
}

/// A file of requests, and how far their answers have come.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its id, for ever.
    pub id: BatchId,
    /// Who pays, by the key that made it.
    pub caller: Caller,
    /// Where its requests go.
    pub endpoint: Endpoint,
    /// The requests.
    pub input: FileId,
    /// What its owner wrote on it: an object of strings.
    pub metadata: Option<serde_json::Value>,
    /// For how long the files of answers are kept, in seconds.
    pub keep_s: Option<u32>,
    /// How it stands.
    pub status: BatchStatus,
    /// What is wrong with its file.
    pub faults: Vec<BatchFault>,
    /// How far it has come.
    pub counts: BatchCounts,
    /// The answers.
    pub output: Option<FileId>,
    /// What was refused, or could not be answered.
    pub errors: Option<FileId>,
    /// When it was made.
    pub created: Timestamp,
    /// When its time is over.
    pub expires: Timestamp,
    /// When it came to be as it is.
    pub times: BatchTimes,
}

/// A change of a batch's state. What isn't said stays.
#[derive(Debug, Clone, Default)]
pub struct BatchStep {
    /// The states out of which it may go. From any other nothing happens.
    pub from: &'static [BatchStatus],
    /// The state that it comes to.
    pub to: Option<BatchStatus>,
    /// What is wrong with its file.
    pub faults: Vec<BatchFault>,
    /// The number of its lines.
    pub total: Option<u64>,
    /// Its files of answers.
    pub files: (Option<FileId>, Option<FileId>),
}

/// A line of a batch that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchLine {
    /// Which, counted from 1.
    pub line: u64,
    /// The request that it became.
    pub request: RequestId,
    /// Its owner's name of it.
    pub custom_id: String,
    /// An answer to it was charged before, and lost: this one costs nothing.
    pub paid: bool,
    /// What came of it.
    pub outcome: Option<LineOutcome>,
}

/// What came of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineOutcome {
    /// The HTTP status of its answer.
    pub status: u16,
    /// The answer's body: JSON.
    pub body: String,
}

/// Who works on a batch, and for how long nobody else does.
#[derive(Debug, Clone)]
pub struct BatchHold {
    /// The life of the replica.
    pub replica: ReplicaId,
    /// From now on.
    pub lasts: Duration,
    /// No other replica can be alive: what others hold is free.
    pub alone: bool,
}

/// Where batches are kept, and how far each line of them has come.
#[async_trait]
pub trait BatchStore: Send + Sync {
    /// A new batch.
    ///
    /// # Errors
    /// Its file is gone, or the store failed.
    async fn create_batch(&self, batch: &Batch) -> Result<(), StoreError>;

    /// The project's batch with this id.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_batch(&self, project: &ProjectId, id: &str) -> Result<Batch, StoreError>;

    /// A project's batches, newest first.
    ///
    /// # Errors
    /// The store failed.
    async fn batches(&self, project: &ProjectId, page: &Page) -> Result<Vec<Batch>, StoreError>;

    /// A batch that is not over, on which nobody works: of the project of which its taker works on fewest, the oldest.
    ///
    /// # Errors
    /// The store failed.
    async fn take_batch(&self, hold: &BatchHold) -> Result<Option<Batch>, StoreError>;

    /// Works on a batch for longer, and says how it stands. None where another replica has it.
    ///
    /// # Errors
    /// The store failed.
    async fn hold_batch(&self, id: &BatchId, hold: &BatchHold)
    -> Result<Option<Batch>, StoreError>;

    /// Works on it no longer.
    ///
    /// # Errors
    /// The store failed.
    async fn leave_batch(&self, id: &BatchId, replica: &ReplicaId) -> Result<(), StoreError>;

    /// A batch goes on to another state, and its files of answers, where there are some, can be seen from then on.
    /// False where it isn't in a state out of which it may go.
    ///
    /// # Errors
    /// The store failed.
    async fn step_batch(&self, id: &BatchId, step: &BatchStep) -> Result<bool, StoreError>;

    /// A line becomes a request. Says whether an answer to it was charged before, and lost; none where another replica
    /// has the batch.
    ///
    /// # Errors
    /// The store failed.
    async fn begin_line(
        &self,
        id: &BatchId,
        replica: &ReplicaId,
        line: &BatchLine,
    ) -> Result<Option<bool>, StoreError>;

    /// What came of a line. It is kept once: an outcome that stands is left as it is.
    ///
    /// # Errors
    /// The store failed.
    async fn end_line(
        &self,
        id: &BatchId,
        line: &BatchLine,
        outcome: &LineOutcome,
    ) -> Result<(), StoreError>;

    /// The lines that were begun, in their order, behind this one; the answers themselves are empty where they aren't asked
    /// for.
    ///
    /// # Errors
    /// The store failed.
    async fn batch_lines(
        &self,
        id: &BatchId,
        after: u64,
        limit: u32,
        bodies: bool,
    ) -> Result<Vec<BatchLine>, StoreError>;

    /// Forgets some lines of a batch whose files are written. False where there is none left.
    ///
    /// # Errors
    /// The store failed.
    async fn forget_lines(&self, id: &BatchId) -> Result<bool, StoreError>;

    /// Whether a request was charged.
    ///
    /// # Errors
    /// The store failed.
    async fn is_paid(&self, request: &RequestId) -> Result<bool, StoreError>;
}
