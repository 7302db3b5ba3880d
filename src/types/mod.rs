//! The words that every part shares: ids, requests, events, usage, money, and the ports that others
//! implement. No I/O.

use serde::{Deserialize, Serialize};

mod caller;
mod charge;
mod embed;
mod event;
mod generate;
mod ids;
mod layout;
mod money;
mod plan;
mod ports;
mod progress;
mod tool_format;

pub use caller::{Caller, Class};
pub use charge::{Charge, Checkpoint, Flown, Outcome, Source, State};
pub use embed::{Embed, Embedded, Input};
pub use event::{CallDelta, Delta, Event, Events, Failure, Finish, TokenLogprob, TopLogprob};
pub use generate::{
    Adapter, Chat, Format, Function, Generate, Job, Message, Prompt, Role, Sampling, ToolCall,
    ToolChoice, Tools,
};
pub use ids::{KeyId, ProjectId, RequestId};
pub use layout::{CellType, Layout};
pub use money::{Money, Price};
pub use plan::{Endpoint, Kind, Plan};
pub use ports::{
    KeyRow, Ledger, LedgerBatch, NewKey, Project, SecretHash, StoreError, TenantStore, UsageRow,
};
pub use progress::{Count, Progress};
pub use tool_format::ToolFormat;

/// Token counts of one attempt, as the OpenAI `usage` object has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the rendered prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Of the prompt's tokens, those whose state was reused rather than computed.
    pub cached_tokens: u32,
    /// Every token that was sampled, the end-of-sequence token included.
    pub completion_tokens: u32,
}

impl Usage {
    /// Prompt and completion together.
    #[must_use]
    pub fn total_tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.completion_tokens)
    }
}
