use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{ProjectId, RequestId, StoreError};

/// A request that its client may send again under the same key, and that is to have an effect once.
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
#[derive(Debug, Clone)]
pub struct Repeatable {
    /// Whose key it is.
    pub project: ProjectId,
    /// The key.
    pub key: String,
    /// Of all that is asked: another request under the same key has another one.
    pub fingerprint: [u8; 32],
    /// What this one is called.
    pub request: RequestId,
}

/// An answer that is given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Its type, as HTTP has it.
    pub kind: String,
    /// All of it.
    pub body: Vec<u8>,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repeated {
    /// Nothing: from now on it is this request's.
    New,
    /// The request runs.
    Runs,
    /// It was answered.
    Answered(Replay),
    /// It was another request's.
    Another,
    /// Whoever ran it is gone, and this one takes its place.
    Lost {
        /// It was charged.
        paid: bool,
        /// The first request under the key: what it made has its name.
        first: RequestId,
    },
}

/// Where answers are kept for clients that ask twice.
#[async_trait]
pub trait ReplayStore: Send + Sync {
    /// Takes a key for a request. Nobody else gets it for so long, unless it is held anew.
    ///
    /// # Errors
    /// The store failed.
    async fn take_key(&self, one: &Repeatable, hold: Duration) -> Result<Repeated, StoreError>;

    /// The request still runs.
    ///
    /// # Errors
    /// The store failed.
    async fn hold_key(&self, one: &Repeatable, hold: Duration) -> Result<(), StoreError>;

    /// It was answered.
    ///
    /// # Errors
    /// The store failed.
    async fn keep_answer(&self, one: &Repeatable, answer: &Replay) -> Result<(), StoreError>;

    /// It had its effect, and there is no answer to be given again: whoever asks next begins it anew.
    ///
    /// # Errors
    /// The store failed.
    async fn lose_key(&self, one: &Repeatable) -> Result<(), StoreError>;

    /// It came to nothing: the key is free again, unless an earlier answer under it was charged.
    ///
    /// # Errors
    /// The store failed.
    async fn free_key(&self, one: &Repeatable) -> Result<(), StoreError>;

    /// Nobody runs what others hold.
    ///
    /// # Errors
    /// The store failed.
    async fn lose_keys(&self) -> Result<(), StoreError>;

    /// Forgets what was answered before this time.
    ///
    /// # Errors
    /// The store failed.
    async fn forget_answers(&self, before: Timestamp) -> Result<(), StoreError>;
}
