//! SQLite: the store of one machine.
//!
//! One connection writes, some read. The writer is in WAL mode with synchronous=FULL, which syncs each
//! commit to disk; both are asserted when it opens, since SQLite ignores a pragma that it can't follow. With the
//! durability `process` it is synchronous=NORMAL, which leaves the log to the system, and the log is synced a
//! little later.

use std::fs::{File, OpenOptions, TryLockError};
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

use super::syncer::Syncer;
use super::unusable;
use crate::types::{Claim, Durability, Store, StoreError};

// The words of this database, for the SQL that both share.
type Db = sqlx::Sqlite;
type Connection = SqliteConnection;
use Sqlite as Backend;
/// IMMEDIATE: the lock is taken at the start, so a commit can't fail for having read first.
const BEGIN: &str = "BEGIN IMMEDIATE";
macro_rules! now_ms {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    };
}

mod at_once;
#[path = "../sql/commit.rs"]
mod commit;
#[path = "../sql/invoices.rs"]
mod invoices;
#[path = "../sql/ledger.rs"]
mod ledger;
#[path = "../sql/notices.rs"]
mod notices;
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
/// The value that syncs none but before the log is taken over into the database.
const SYNCHRONOUS_NORMAL: i64 = 1;
/// `forebay key create` beside a running server waits this long for the other's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

/// An open SQLite store.
pub(super) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
    /// Where commits don't wait for the disk.
    syncer: Option<Syncer>,
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
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match durability {
                Durability::Power => SqliteSynchronous::Full,
                Durability::Process => SqliteSynchronous::Normal,
            })
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
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
        assert_durable(&writer, durability).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        let log = with_suffix(&path, "-wal");
        let syncer = (durability == Durability::Process).then(|| {
            Syncer::start(move || {
                let log = log.clone();
                async move { sync_file(log).await.map_err(|error| error.to_string()) }
            })
        });
        Ok(Self {
            writer,
            readers,
            path,
            syncer,
        })
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

/// A commit that needs less than the rest.
#[expect(clippy::unused_async, reason = "the other database has to be asked")]
async fn loosen(_: &mut Connection, _: &Sqlite) -> Result<(), sqlx::Error> {
    Ok(())
}

async fn sync_file(path: PathBuf) -> std::io::Result<()> {
    let sync = move || match File::open(path) {
        Ok(file) => file.sync_data(),
        // It was taken over into the database, which syncs.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    tokio::task::spawn_blocking(sync).await?
}

async fn assert_durable(pool: &SqlitePool, durability: Durability) -> Result<(), StoreError> {
    let needed = match durability {
        Durability::Power => SYNCHRONOUS_FULL,
        Durability::Process => SYNCHRONOUS_NORMAL,
    };
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(pool)
        .await?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
        .fetch_one(pool)
        .await?;
    if !journal.eq_ignore_ascii_case("wal") || synchronous != needed {
        return Err(unusable(format!(
            "SQLite runs with journal_mode={journal} and synchronous={synchronous}; the ledger needs wal and {needed}"
        )));
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
