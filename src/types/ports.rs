//! What the store does for the others.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Act, Actor, ApiKey, AuditRow, BatchStore, Charge, ChargeRow, Checkpoint, FileStore, Holder,
    Invoice, KeyId, LimitSet, ModelStore, Money, Notice, Organisation, OrganisationId, Period,
    Project, ProjectId, ReplayStore, Replica, ReplicaId, RequestId, Scope, SecretHash, Sent, Usage,
    UsageQuery, UsageRow,
};

/// Why the store gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something of that name stands already.
    #[error("{0} exists already")]
    Exists(String),
    /// There is nothing of that name.
    #[error("no {0}")]
    NotFound(String),
    /// It can't be changed now.
    #[error("{0}")]
    InUse(String),
    /// There is no room left for it.
    #[error("{0}")]
    Full(String),
    /// This replica was not heard of for too long: others have booked what it had in flight.
    #[error("this replica was taken for dead")]
    Fenced,
    /// The store can't be reached or broke; the same call may succeed later.
    #[error("the store failed: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Begins behind the entry with this id; at the start, where there is none.
    pub after: Option<String>,
    /// So many at most.
    pub limit: u32,
}

/// Which keys are wanted.
#[derive(Debug, Clone)]
pub enum KeysOf {
    /// Those of every project, and the administrators'.
    All,
    /// A project's.
    Project(ProjectId),
    /// An organisation's administrators'.
    Administrators(OrganisationId),
}

/// Where organisations, projects and keys are kept, and who changed them.
#[async_trait]
pub trait TenantStore: Send + Sync {
    /// Carries an act out and writes it into the audit log of the organisation that it is about: both or
    /// neither.
    ///
    /// # Errors
    /// A name is taken, the target isn't there, or the store failed.
    async fn act(
        &self,
        actor: &Actor,
        organisation: &OrganisationId,
        act: &Act,
    ) -> Result<(), StoreError>;

    /// The organisation with this id or, failing that, this name.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_organisation(&self, id_or_name: &str) -> Result<Organisation, StoreError>;

    /// The project with this id or, failing that, this name.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_project(&self, id_or_name: &str) -> Result<Project, StoreError>;

    /// The projects of an organisation, or of all, oldest first.
    ///
    /// # Errors
    /// The store failed.
    async fn projects(
        &self,
        of: Option<&OrganisationId>,
        archived: bool,
        page: &Page,
    ) -> Result<Vec<Project>, StoreError>;

    /// The key with this public name.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_key(&self, id: &KeyId) -> Result<ApiKey, StoreError>;

    /// Keys that were not taken back, oldest first.
    ///
    /// # Errors
    /// The store failed.
    async fn keys(&self, of: &KeysOf, page: &Page) -> Result<Vec<ApiKey>, StoreError>;

    /// Who holds the key with this hash, whether or not it is still good.
    ///
    /// # Errors
    /// The store failed.
    async fn holder(&self, hash: &SecretHash) -> Result<Option<Holder>, StoreError>;

    /// The limits of a project and of its organisation.
    ///
    /// # Errors
    /// The store failed.
    async fn limits(&self, project: &ProjectId) -> Result<Vec<LimitSet>, StoreError>;

    /// The limits of one scope, for each model that has some and for all together.
    ///
    /// # Errors
    /// The store failed.
    async fn limits_of(&self, scope: Scope, id: &str) -> Result<Vec<LimitSet>, StoreError>;

    /// A key was shown just now.
    ///
    /// # Errors
    /// The store failed.
    async fn used(&self, key: &KeyId) -> Result<(), StoreError>;

    /// An organisation's audit log, newest first.
    ///
    /// # Errors
    /// The store failed.
    async fn audit(&self, of: &OrganisationId, page: &Page) -> Result<Vec<AuditRow>, StoreError>;
}

/// What the ledger's writer commits at once.
#[derive(Debug, Clone, Default)]
pub struct LedgerBatch {
    /// Rows of `in_flight` to be put in or renewed.
    pub checkpoints: Vec<Checkpoint>,
    /// Rows of `charge` to be added.
    pub charges: Vec<Charge>,
    /// Attempts that are over, of which no `in_flight` row is to stay. Those without one need not be named.
    pub ended: Vec<(RequestId, u32)>,
    /// What the charge of an event takes off this replica's slices of limits: once, when it is booked to be paid.
    pub releases: Vec<(Uuid, Release)>,
}

impl LedgerBatch {
    /// Whether there is nothing to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.checkpoints.is_empty() && self.charges.is_empty() && self.ended.is_empty()
    }
}

/// Whose spending is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spender {
    /// Of what.
    pub scope: Scope,
    /// The id of the organisation, project or key.
    pub id: Arc<str>,
    /// On this model; on all together, where there is none.
    pub model: Option<Arc<str>>,
}

/// What was spent in some time: charges that stand, whoever booked them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Answers.
    pub requests: u64,
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// Those of the batch class among them.
    pub batch_tokens: u64,
    /// What is to be paid for them.
    pub amount: Money,
}

/// A charge that was booked for a replica that died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The model that was asked for.
    pub model: String,
    /// As far as it had come at its last checkpoint.
    pub usage: Usage,
    /// To be paid.
    pub amount: Money,
}

/// Where charges are kept.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// This replica serves from now on.
    ///
    /// # Errors
    /// The store failed.
    async fn join(&self, replica: &Replica) -> Result<(), StoreError>;

    /// This replica serves no longer. What it still has in flight is booked by the next recovery.
    ///
    /// # Errors
    /// The store failed.
    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError>;

    /// Keeps a charge, so that it will be committed even if this process dies now. False where there is no such place, or
    /// it can't be written: then the charge stands once it was committed, and no sooner.
    fn keep(&self, _charge: &Charge) -> bool {
        false
    }

    /// Writes all of a batch or nothing of it, and says that the replica lives. When this returns, it is on
    /// disk.
    ///
    /// A charge that stands already is left as it is: the same batch may be tried again after an error. The
    /// charges in whose place another one stands are returned; others booked those attempts.
    ///
    /// # Errors
    /// The replica was taken for dead, and nothing was written; or the store failed, and whether the
    /// batch stands is unknown.
    async fn commit(&self, replica: &Replica, batch: &LedgerBatch)
    -> Result<Vec<Uuid>, StoreError>;

    /// Books, in this replica's name, what others left in flight that were not heard of for so long.
    ///
    /// # Errors
    /// The store failed; nothing was booked.
    async fn recover(
        &self,
        replica: &Replica,
        silent_for: Duration,
    ) -> Result<Vec<Recovered>, StoreError>;

    /// Sums of the ledger.
    ///
    /// # Errors
    /// The store failed.
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError>;

    /// Rows of the ledger that a query is about, whatever it breaks them down by, in the order of their ids.
    ///
    /// # Errors
    /// The store failed.
    async fn charges(&self, query: &UsageQuery, page: &Page) -> Result<Vec<ChargeRow>, StoreError>;

    /// What replicas of this name charged in all, or all of them together.
    ///
    /// # Errors
    /// The store failed.
    async fn charged(&self, replica: Option<&str>) -> Result<Money, StoreError>;

    /// What was spent since this time, which begins a day of UTC.
    ///
    /// # Errors
    /// The store failed.
    async fn spent(&self, by: &Spender, since: Timestamp) -> Result<Spent, StoreError>;

    /// Gives a replica a slice of a limit, in the place of the one that it had: no more than is left beside what is
    /// booked and what the others hold, and no less than it can't do without.
    ///
    /// # Errors
    /// The store failed.
    async fn slice(&self, replica: &ReplicaId, wish: &SliceWish) -> Result<Slice, StoreError>;

    /// Whether the store answers.
    ///
    /// # Errors
    /// It doesn't.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// Where periods are closed and invoices kept.
#[async_trait]
pub trait InvoiceStore: Send + Sync {
    /// Closes a period: every charge that ended before its end and is in no invoice yet goes into one. Gives the
    /// invoices that were made.
    ///
    /// # Errors
    /// It is closed already, a later one is, or the store failed.
    async fn close_period(&self, period: &Period) -> Result<Vec<Invoice>, StoreError>;

    /// All invoices, oldest first; of one project, where it is named.
    ///
    /// # Errors
    /// The store failed.
    async fn invoices(&self, project: Option<&ProjectId>) -> Result<Vec<Invoice>, StoreError>;

    /// The invoice with this id.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_invoice(&self, id: &str) -> Result<Invoice, StoreError>;
}

/// What operators are to be told, until they are.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// The limits that are to be warned of before they are reached, of whatever scope.
    ///
    /// # Errors
    /// The store failed.
    async fn warned_limits(&self) -> Result<Vec<LimitSet>, StoreError>;

    /// Puts a notice in, once for each subject. True the first time.
    ///
    /// # Errors
    /// The store failed.
    async fn post(&self, subject: &str, id: &str, body: &str) -> Result<bool, StoreError>;

    /// Whether there is a notice of this subject, sent or not.
    ///
    /// # Errors
    /// The store failed.
    async fn is_posted(&self, subject: &str) -> Result<bool, StoreError>;

    /// A notice that is to be sent now. Nobody else is given it for so long.
    ///
    /// # Errors
    /// The store failed.
    async fn take_notice(&self, hold: Duration) -> Result<Option<Notice>, StoreError>;

    /// How sending it went.
    ///
    /// # Errors
    /// The store failed; it is sent again once its hold is over.
    async fn sent(&self, id: &str, sent: Sent) -> Result<(), StoreError>;
}

/// Everything that is kept, in one database.
#[async_trait]
pub trait Store:
    TenantStore + Ledger + InvoiceStore + Outbox + FileStore + BatchStore + ReplayStore + ModelStore
{
    /// Claims the store for a process that serves from it.
    ///
    /// # Errors
    /// Another process serves from it where only one may, or the store failed.
    fn claim(&self) -> Result<Claim, StoreError>;

    /// Closes every connection, once their calls are done.
    async fn close(&self);
}

/// The right to serve from a store, until it is dropped or the process dies.
pub struct Claim {
    /// The only one there can be: whatever is in flight when it is taken, is of the dead.
    pub exclusive: bool,
    /// Gives it back.
    pub guard: Box<dyn std::any::Any + Send + Sync>,
}

/// A replica's slice of a limit, which it may use up on its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SliceId {
    /// The limit, by a name that all replicas give it.
    pub bucket: String,
    /// When the day or month begins that it is of, in milliseconds since 1970; 0 for other limits.
    pub window_ms: i64,
}

/// A slice shrinks, since what was reserved of it is booked now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub slice: SliceId,
    /// The life of the replica that holds it.
    pub replica: ReplicaId,
    /// By how much.
    pub amount: i128,
}

/// What of the ledger counts against a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Answers since the window began.
    Requests,
    /// Tokens since then.
    Tokens,
    /// Tokens of the batch class since then.
    BatchTokens,
    /// Money since then.
    Money,
    /// Nothing: the limit is of what runs, or of the last minute.
    Nothing,
}

/// A replica asks for a larger slice, or gives part of one back.
#[derive(Debug, Clone)]
pub struct SliceWish {
    /// Which.
    pub slice: SliceId,
    /// Whose limit it is.
    pub spender: Spender,
    /// What counts against it.
    pub counted: Counted,
    /// All of it.
    pub limit: i128,
    /// What the replica can't do without.
    pub held: i128,
    /// What it needs beyond that.
    pub need: i128,
    /// What it would like beyond that; it gets at most a quarter of what is left.
    pub spare: i128,
}

/// A slice as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// What the replica may use.
    pub granted: i128,
    /// What is booked, and what others hold.
    pub elsewhere: i128,
}

/// What was reserved for an attempt. Dropped unsettled, all of it is given back.
pub trait Reserved: Send + Sync {
    /// What is to be taken off the replica's slices with a charge of this much.
    fn releases(&self, usage: &Usage, amount: Money) -> Vec<Release>;

    /// This much was used; the rest is given back.
    fn settle(&mut self, usage: Usage, amount: Money);
}
