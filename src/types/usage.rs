use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Money};

/// Token counts of one attempt, as the OpenAI `usage` object has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the rendered prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Of the prompt's tokens, those whose state was reused rather than computed.
    pub cached_tokens: u32,
    /// Every token that was sampled, the end-of-sequence token included.
    pub completion_tokens: u32,
    /// Of the completion's tokens, those that the model only thought.
    #[serde(default)]
    pub reasoning_tokens: u32,
}

impl Usage {
    /// Prompt and completion together.
    #[must_use]
    pub fn total_tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.completion_tokens)
    }
}

/// What the ledger can be broken down by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// The tenant.
    Project,
    /// The key that was shown.
    Key,
    /// The person behind the caller, in the caller's own words.
    User,
    /// The model that was asked for.
    Model,
    /// Whether it was of the batch class.
    Batch,
    /// The door it came in by.
    Endpoint,
    /// The replica that booked it.
    Replica,
    /// How the row came to stand.
    State,
    /// The price that it was booked at.
    Price,
}

/// Which rows of the ledger are summed, and how they are broken down.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// Booked for an end at this time or later.
    pub from: Option<Timestamp>,
    /// Booked for an end before this time.
    pub to: Option<Timestamp>,
    /// Sums for each stretch of so many milliseconds, counted from 1970.
    pub bucket_ms: Option<i64>,
    /// A row for each value of these.
    pub group_by: Vec<Dimension>,
    /// These projects alone; all, where the list is empty. So with the others.
    pub projects: Vec<String>,
    /// These keys alone.
    pub keys: Vec<String>,
    /// These end users alone.
    pub users: Vec<String>,
    /// These models alone.
    pub models: Vec<String>,
    /// These doors alone.
    pub endpoints: Vec<Endpoint>,
    /// The batch class alone, or all but it.
    pub batch: Option<bool>,
    /// This replica's alone.
    pub replica: Option<String>,
    /// Rows that cost nothing because the worker failed, too.
    pub absorbed: bool,
}

/// Sums of the ledger. What it isn't broken down by is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageRow {
    /// Where its stretch of time begins, in milliseconds since 1970.
    pub bucket_ms: Option<i64>,
    /// The project's id.
    pub project: Option<String>,
    /// The project's name; its id, where it is in no list.
    pub project_name: Option<String>,
    /// The key's public name.
    pub key: Option<String>,
    /// The end user. Requests that named none have none either way.
    pub user: Option<String>,
    /// The model that was asked for.
    pub model: Option<String>,
    /// Whether it was of the batch class.
    pub batch: Option<bool>,
    /// The door it came in by.
    pub endpoint: Option<String>,
    /// The replica that booked it.
    pub replica: Option<String>,
    /// How the rows came to stand.
    pub state: Option<String>,
    /// The version of the price that they were booked at.
    pub price: Option<String>,
    /// Answers.
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

/// A row of the ledger, as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeRow {
    /// Names the row, for ever.
    pub event_id: String,
    /// The request it belongs to.
    pub request_id: String,
    /// 1 for the first try.
    pub attempt: i64,
    /// The project's id.
    pub project: String,
    /// The key's public name.
    pub key: String,
    /// The end user, in the caller's own words.
    pub user: Option<String>,
    /// The model that was asked for.
    pub model: String,
    /// What that name meant at the time.
    pub revision: String,
    /// The worker that ran it.
    pub worker: String,
    /// The door it came in by.
    pub endpoint: String,
    /// How urgent it was.
    pub class: String,
    /// How the row came to stand.
    pub state: String,
    /// How the attempt ended.
    pub outcome: String,
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: i64,
    /// Tokens of the prompt that were reused.
    pub cached_tokens: i64,
    /// Tokens that were generated.
    pub completion_tokens: i64,
    /// The price it was booked at.
    pub price_version: String,
    /// To be paid.
    pub amount: Money,
    /// When it was dispatched, in milliseconds since 1970.
    pub started_ms: i64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: i64,
    /// The row that it corrects.
    pub corrects: Option<String>,
    /// Why the request came to this model, where it asked for `auto`.
    pub route: Option<String>,
}
