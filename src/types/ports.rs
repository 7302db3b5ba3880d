use async_trait::async_trait;

use super::{Charge, Checkpoint, KeyId, Money, ProjectId};

/// Why the store gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something of that name stands already.
    #[error("{0} exists already")]
    Exists(String),
    /// There is nothing of that name.
    #[error("no {0}")]
    NotFound(String),
    /// The store can't be reached or broke; the same call may succeed later.
    #[error("the store failed: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The SHA-256 of a key's secret: all that is ever stored of it.
pub type SecretHash = [u8; 32];

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its id, for ever.
    pub id: ProjectId,
    /// Its name, unique among projects.
    pub name: String,
    /// Seconds since the epoch.
    pub created_s: i64,
}

/// A key to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its public name.
    pub id: KeyId,
    /// The project that pays for what it asks.
    pub project: ProjectId,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// The last characters of the secret, by which people tell keys apart.
    pub hint: String,
}

/// A key as it is listed.
#[derive(Debug, Clone)]
pub struct KeyRow {
    /// Its public name.
    pub id: KeyId,
    /// The name of its project.
    pub project: String,
    /// The last characters of its secret.
    pub hint: String,
    /// Seconds since the epoch.
    pub created_s: i64,
}

/// Where projects and keys are kept.
#[async_trait]
pub trait TenantStore: Send + Sync {
    /// Adds a project.
    ///
    /// # Errors
    /// The name is taken, or the store failed.
    async fn create_project(&self, project: &Project) -> Result<(), StoreError>;

    /// The project with this id or, failing that, this name.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_project(&self, id_or_name: &str) -> Result<Project, StoreError>;

    /// All projects by name.
    ///
    /// # Errors
    /// The store failed.
    async fn projects(&self) -> Result<Vec<Project>, StoreError>;

    /// Adds a key.
    ///
    /// # Errors
    /// The store failed.
    async fn create_key(&self, key: &NewKey) -> Result<(), StoreError>;

    /// The key with this hash and its project, if there is one.
    ///
    /// # Errors
    /// The store failed.
    async fn find_key(&self, hash: &SecretHash) -> Result<Option<(KeyId, ProjectId)>, StoreError>;

    /// All keys, oldest first.
    ///
    /// # Errors
    /// The store failed.
    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError>;
}

/// What the ledger's writer commits at once.
#[derive(Debug, Clone, Default)]
pub struct LedgerBatch {
    /// Rows of `in_flight` to be put in or renewed.
    pub checkpoints: Vec<Checkpoint>,
    /// Rows of `charge` to be added; the `in_flight` row of each goes.
    pub charges: Vec<Charge>,
    /// Attempts that turned out to be nothing: their `in_flight` rows go.
    pub voids: Vec<(super::RequestId, u32)>,
}

/// One line of the bill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// The project's name.
    pub project: String,
    /// The model that was asked for.
    pub model: String,
    /// Answers, without the absorbed.
    pub requests: i64,
    /// Tokens of prompts, cached ones included.
    pub prompt_tokens: i64,
    /// Tokens of prompts that were reused.
    pub cached_tokens: i64,
    /// Tokens that were generated.
    pub completion_tokens: i64,
    /// To be paid.
    pub amount: Money,
}

/// Where charges are kept.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Writes all of a batch or nothing of it. When this returns, it is on disk.
    ///
    /// A charge that stands already is left as it is: the same batch may be tried again after an error.
    ///
    /// # Errors
    /// The store failed; whether the batch stands is unknown.
    async fn commit(&self, batch: &LedgerBatch) -> Result<(), StoreError>;

    /// Books what a process that died left in flight, and gives the number of rows.
    ///
    /// # Errors
    /// The store failed; nothing was booked.
    async fn recover(&self) -> Result<u64, StoreError>;

    /// The sums of the ledger by project and model.
    ///
    /// # Errors
    /// The store failed.
    async fn usage(&self) -> Result<Vec<UsageRow>, StoreError>;

    /// Whether the store answers.
    ///
    /// # Errors
    /// It doesn't.
    async fn ping(&self) -> Result<(), StoreError>;
}
