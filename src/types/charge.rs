use std::sync::Arc;

use jiff::Timestamp;
use jiff::fmt::serde::timestamp::millisecond;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Caller, Class, Endpoint, Money, Price, RequestId, Usage};

/// One attempt that a worker runs: all that is known of it before the first token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flown {
    /// The request it belongs to.
    pub request: RequestId,
    /// 1 for the first try; each retry is one more.
    pub attempt: u32,
    /// Who pays.
    pub caller: Caller,
    /// The person behind the caller, in the caller's own words (`user`).
    pub end_user: Option<String>,
    /// The model that was asked for.
    pub model: Arc<str>,
    /// What that name meant at the time.
    pub revision: Arc<str>,
    /// Why it came to this model, where it asked for `auto`.
    #[serde(default)]
    pub route: Option<Arc<str>>,
    /// The worker that runs it.
    pub worker: Arc<str>,
    /// The door it came in by.
    pub endpoint: Endpoint,
    /// How urgent it was.
    pub class: Class,
    /// The price it is booked at.
    pub price: Arc<Price>,
    /// When it was dispatched.
    #[serde(with = "millisecond::required")]
    pub started: Timestamp,
}

/// A row of `in_flight`: how far an unsettled attempt had come.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Which attempt.
    pub flown: Arc<Flown>,
    /// Tokens so far.
    pub usage: Usage,
    /// When its first token left.
    pub first_token: Option<Timestamp>,
}

/// A row of `charge`: append-only, one for each attempt, for ever.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Charge {
    /// Names the row (UUID version 7).
    pub event_id: Uuid,
    /// Which attempt.
    pub flown: Arc<Flown>,
    /// What it took.
    pub usage: Usage,
    /// What is to be paid.
    pub amount: Money,
    /// How the row came to stand.
    pub state: State,
    /// Who counted.
    pub source: Source,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// When its first token left.
    #[serde(with = "millisecond::optional")]
    pub first_token: Option<Timestamp>,
    /// When it ended.
    #[serde(with = "millisecond::required")]
    pub ended: Timestamp,
}

/// How a charge came to stand in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Ended under the eyes of the meter, and to be paid.
    Settled,
    /// Costs nothing: the worker failed, or the attempt lost.
    Absorbed,
    /// Its process died; booked from the last checkpoint.
    Recovered,
}

/// Who counted the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The engine that ran it.
    Engine,
    /// The gateway, since the worker told no numbers.
    Counted,
    /// The last checkpoint of a process that died.
    Recovered,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The whole answer.
    Completed,
    /// The client went.
    Cancelled,
    /// The worker broke.
    Failed,
    /// Nobody knows: the process died.
    Lost,
}

macro_rules! column {
    ($name:ident { $($variant:ident = $text:literal),+ }) => {
        impl $name {
            /// The word in the ledger and in metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

column!(State { Settled = "settled", Absorbed = "absorbed", Recovered = "recovered" });
column!(Source { Engine = "engine", Counted = "counted", Recovered = "recovered" });
column!(Outcome { Completed = "completed", Cancelled = "cancelled", Failed = "failed", Lost = "lost" });
