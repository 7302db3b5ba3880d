//! The words that every part shares: ids, requests, events, usage, money, and the ports that others
//! implement. No I/O.

mod batch;
mod caller;
mod charge;
mod dialect;
mod durability;
mod embed;
mod event;
mod file;
mod generate;
mod ids;
mod invoice;
mod layout;
mod limits;
mod money;
mod notice;
mod plan;
mod profile;
mod paying;
mod ports;
mod progress;
mod relay;
mod replay;
mod replica;
mod revision;
mod tenant;
mod thoughts;
mod tokens;
mod tool_format;
mod usage;

pub use batch::{
    Batch, BatchCounts, BatchFault, BatchHold, BatchLine, BatchStatus, BatchStep, BatchStore,
    BatchTimes, LineOutcome,
};
pub use caller::{Caller, Class};
pub use charge::{Charge, Checkpoint, Flown, Outcome, Source, State};
pub use dialect::Dialect;
pub use durability::Durability;
pub use embed::{Embed, EmbedJob, Embedded, Input, Precision};
pub use event::{CallDelta, Delta, Event, Events, Failure, Finish, TokenLogprob, TopLogprob};
pub use file::{FileQuery, FileStore, Purpose, StoredFile, Upload, UploadStatus};
pub use generate::{
    Adapter, Chat, Format, Function, Generate, Job, Measure, Message, Preface, Prompt, Resume,
    Role, Sampling, Thinking, ToolCall, ToolChoice, Tools,
};
pub use ids::{BatchId, FileId, KeyId, OrganisationId, ProjectId, ReplicaId, RequestId, UploadId};
pub use invoice::{Invoice, InvoiceLine, Period};
pub use layout::{CellType, Layout};
pub use limits::{LimitSet, Limits, Scope};
pub use money::{Money, Price, Tariff};
pub use notice::{Notice, Sent};
pub use paying::Paying;
pub use plan::{AUTO, Endpoint, Kind, Plan};
pub use ports::{
    Claim, Counted, InvoiceStore, KeysOf, Ledger, LedgerBatch, Outbox, Page, Recovered, Release,
    Reserved, Slice, SliceId, SliceWish, Spender, Spent, Store, StoreError, TenantStore,
};
pub use profile::{Example, Nearest, Profile, Reasoning};
pub use progress::{Count, Progress};
pub use relay::{Field, Relay};
pub use replay::{Repeatable, Repeated, Replay, ReplayStore};
pub use replica::{Membership, Replica};
pub use revision::{
    Definition, Evaluation, EvaluationQuery, ModelStore, Serving, Share, StoredRevision,
};
pub use tenant::{Act, Actor, ApiKey, AuditRow, Holder, Organisation, Project, SecretHash};
pub use thoughts::{Split, Thoughts};
pub use tokens::{Tokenize, Tokenized};
pub use tool_format::ToolFormat;
pub use usage::{ChargeRow, Dimension, Usage, UsageQuery, UsageRow};
