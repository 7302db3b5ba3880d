//! SQLite: the store of one machine.
//!
//! One connection writes, some read. The writer is in WAL mode with synchronous=FULL, which syncs each
//! commit to disk; both are asserted when it opens, since SQLite ignores a pragma that it can't follow. With the
//! durability `process` charges go to a journal of their own first, which is synced a little later.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Connection as _;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};

use at_once::commit_at_once;

use super::unusable;
use crate::types::{Charge, Claim, Durability, Ledger, LedgerBatch, Replica, Store, StoreError};
use journal::Journal;

// The words of this database, for the SQL that both share.
type Db = sqlx::Sqlite;
type Connection = SqliteConnection;
use Sqlite as Backend;
/// IMMEDIATE: the lock is taken at the start, so a commit can't fail for having read first.
const BEGIN: &str = "BEGIN IMMEDIATE";
/// To prepare a row takes as long as to write it: statements are of these lengths alone, and all of them are kept prepared. One
/// may have 32,766 values; a row has at most 25.
const ROWS_PER_STATEMENT: [usize; 3] = [64, 8, 1];
macro_rules! now_ms {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    };
}

mod at_once;
mod journal;
#[path = "../sql/batches.rs"]
mod batches;
#[path = "../sql/commit.rs"]
mod commit;
#[path = "../sql/files.rs"]
mod files;
#[path = "../sql/invoices.rs"]
mod invoices;
#[path = "../sql/ledger.rs"]
mod ledger;
#[path = "../sql/models.rs"]
mod models;
#[path = "../sql/notices.rs"]
mod notices;
#[path = "../sql/replays.rs"]
mod replays;
#[path = "../sql/rows.rs"]
mod rows;
#[path = "../sql/slices.rs"]
mod slices;
#[path = "../sql/tenants.rs"]
mod tenants;
#[path = "../sql/usage.rs"]
mod usage;

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/sqlite/migrations");

/// The value of `PRAGMA synchronous` that syncs every commit.
const SYNCHRONOUS_FULL: i64 = 2;
/// `forebay key create` beside a running server waits this long for the other's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

/// An open SQLite store.
pub(super) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
    journal: Journal,
    /// Where answers don't wait for a commit.
    durability: Durability,
}

impl Sqlite {
    /// Opens `sqlite://path`, makes it where it isn't there, and migrates it.
    pub(super) async fn open(url: &str, durability: Durability) -> Result<Self, StoreError> {
        let path = url
            .strip_prefix("sqlite://")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .ok_or_else(|| unusable("[store] url is not sqlite://PATH"))?;
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder)
                .map_err(|error| unusable(format!("{}: {error}", folder.display())))?;
        }
        let alone = migrating(&path).await?;
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // What a statement may have to take back would be a file for each otherwise.
            .pragma("temp_store", "memory")
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            // A file doesn't go away by itself: to ask first is a way to its thread and back.
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            // An error of the disk ends a transaction in SQLite without the driver knowing: such a connection is good
            // for nothing more, and another one takes its place.
            .after_release(|connection, _| {
                Box::pin(async move { Ok(!connection.is_in_transaction()) })
            })
            .connect_with(options.clone())
            .await?;
        MIGRATIONS.run(&writer).await?;
        drop(alone);
        assert_durable(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        Ok(Self {
            writer,
            readers,
            journal: Journal::new(with_suffix(&path, ".charges")),
            path,
            durability,
        })
    }

    /// Puts a charge into the journal.
    fn append(&self, charge: &Charge) -> bool {
        if self.durability == Durability::Power {
            return false;
        }
        let done = self.journal.append(charge);
        if let Err(error) = &done {
            tracing::error!(%error, "the journal of charges can't be written: answers wait for the database");
        }
        done.is_ok()
    }

    fn committed(&self, batch: &LedgerBatch) {
        self.journal.booked(batch.charges.iter());
    }

    /// Commits what processes that died had in their journals, whatever the durability is now. What can't be read or booked
    /// stays in a file of another name, and is told of.
    async fn commit_kept(&self, replica: &Replica) -> Result<(), StoreError> {
        for path in self.journal.left_behind().map_err(unreadable)? {
            let found = match journal::read(&path) {
                // Its process was still there, and is done with it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                found => found.map_err(unreadable)?,
            };
            let rows = found.charges.len();
            let refused = self.commit_each(replica, found.charges).await?;
            tracing::info!(rows, "booked what a dead process had in its journal");
            if found.unread == 0 && refused == 0 {
                let removed = std::fs::remove_file(&path);
                if removed.is_err_and(|error| error.kind() != ErrorKind::NotFound) {
                    tracing::warn!(path = %path.display(), "a file of booked charges could not be removed");
                }
                continue;
            }
            let aside = journal::put_aside(&path).map_err(unreadable)?;
            tracing::error!(
                path = %aside.display(),
                unread_bytes = found.unread,
                refused,
                "not all of a journal of charges could be booked: the power went, the disk broke, or another version wrote it"
            );
        }
        Ok(())
    }

    /// All at once, or one by one where the database refuses some. Gives how many it refuses.
    async fn commit_each(
        &self,
        replica: &Replica,
        charges: Vec<Charge>,
    ) -> Result<usize, StoreError> {
        // Whether an attempt had a row is not in the journal.
        let ended = |charges: &[Charge]| {
            let flown = charges.iter().map(|charge| &charge.flown);
            flown.map(|flown| (flown.request, flown.attempt)).collect()
        };
        let batch = |charges: Vec<Charge>| LedgerBatch {
            ended: ended(&charges),
            charges,
            ..LedgerBatch::default()
        };
        let all = batch(charges);
        let Err(error) = self.commit(replica, &all).await else {
            return Ok(0);
        };
        let rows = all.charges.len();
        let mut refused = 0;
        for charge in all.charges {
            let done = self.commit(replica, &batch(vec![charge])).await;
            refused += usize::from(done.is_err());
        }
        // A database that takes none has another trouble.
        if refused == rows {
            Err(error)
        } else {
            Ok(refused)
        }
    }

    fn lock(&self) -> Result<File, StoreError> {
        let path = with_suffix(&self.path, ".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| unusable(format!("{}: {error}", path.display())))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(unusable(format!(
                "another forebay serves from {}",
                self.path.display()
            ))),
            Err(TryLockError::Error(error)) => {
                Err(unusable(format!("{}: {error}", path.display())))
            }
        }
    }
}

/// Waits until no other process makes or migrates this store: sqlx sees to that for databases that have locks of their
/// own.
async fn migrating(path: &Path) -> Result<File, StoreError> {
    let path = with_suffix(path, ".migrate");
    let wait = move || {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let locked = file.and_then(|file| file.lock().map(|()| file));
        locked.map_err(|error| unusable(format!("{}: {error}", path.display())))
    };
    let waited = tokio::task::spawn_blocking(wait).await;
    waited.map_err(|_| unusable("a store that is migrated could not be waited for"))?
}

fn unreadable(error: std::io::Error) -> StoreError {
    unusable(format!("the journal of charges: {error}"))
}

/// Rows as one statement after the other takes them.
fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let fits = |length: &usize| *length <= rows.len();
        let (piece, rest) = rows.split_at(ROWS_PER_STATEMENT.into_iter().find(fits)?);
        rows = rest;
        Some(piece)
    })
}

/// Whether a statement of so many rows is worth being kept prepared.
fn recurs(_: usize) -> bool {
    true
}

/// A transaction that writes is alone anyway.
async fn lock(_: &mut Connection, _: &str) -> Result<(), sqlx::Error> {
    Ok(())
}

#[async_trait]
impl Store for Sqlite {
    /// Only one process may serve from it: then whatever is in flight at its start is of the dead.
    fn claim(&self) -> Result<Claim, StoreError> {
        Ok(Claim {
            exclusive: true,
            guard: Box::new(self.lock()?),
        })
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Each commit waits for the disk.
#[expect(clippy::unused_async, reason = "the other database has to be asked")]
async fn loosen(_: &mut Connection, _: &Sqlite) -> Result<(), sqlx::Error> {
    Ok(())
}

async fn assert_durable(pool: &SqlitePool) -> Result<(), StoreError> {
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(pool)
        .await?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
        .fetch_one(pool)
        .await?;
    if !journal.eq_ignore_ascii_case("wal") || synchronous != SYNCHRONOUS_FULL {
        return Err(unusable(format!(
            "SQLite runs with journal_mode={journal} and synchronous={synchronous}; the ledger needs wal and {SYNCHRONOUS_FULL}"
        )));
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
