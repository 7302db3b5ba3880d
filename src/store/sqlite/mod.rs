//! SQLite: the store of one machine.
//!
//! One connection writes, some read. The writer is in WAL mode with synchronous=FULL, which syncs each
//! commit to disk; both are asserted when it opens, since SQLite ignores a pragma that it can't follow.

mod ledger;
mod tenants;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::types::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/sqlite/migrations");

/// The value of `PRAGMA synchronous` that syncs every commit.
const SYNCHRONOUS_FULL: i64 = 2;
/// `forebay key create` beside a running server waits this long for the other's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

/// An open SQLite store. Clones share its connections.
#[derive(Clone)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
}

/// Held by the one process that serves from a store, until it is dropped or the process dies.
pub struct ServeLock {
    _file: File,
}

impl Sqlite {
    /// Opens `sqlite://path`, makes it where it isn't there, and migrates it.
    ///
    /// # Errors
    /// The URL is not SQLite's, the file can't be opened, a migration fails, or the database isn't
    /// as durable as it was told to be.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let unusable = |reason: String| StoreError::Unavailable(reason.into());
        // A checked config has no other; the URL isn't quoted, since it may hold a password.
        let Some(path) = url
            .strip_prefix("sqlite://")
            .filter(|path| !path.is_empty())
        else {
            return Err(unusable("[store] url is not sqlite://PATH".into()));
        };
        let path = PathBuf::from(path);
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
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await?;
        MIGRATIONS.run(&writer).await?;
        assert_durable(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        Ok(Self {
            writer,
            readers,
            path,
        })
    }

    /// Claims the store for the one process that may serve from it: only that one may take what is in
    /// flight for the leftovers of the dead.
    ///
    /// # Errors
    /// Another process serves from it, or the lock file can't be made.
    pub fn lock_for_serving(&self) -> Result<ServeLock, StoreError> {
        let path = with_suffix(&self.path, ".lock");
        let failed = |reason: String| StoreError::Unavailable(reason.into());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| failed(format!("{}: {error}", path.display())))?;
        match file.try_lock() {
            Ok(()) => Ok(ServeLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(failed(format!(
                "another forebay serves from {}",
                self.path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed(format!("{}: {error}", path.display()))),
        }
    }

    /// Closes every connection, once their calls are done.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn assert_durable(pool: &SqlitePool) -> Result<(), StoreError> {
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(pool)
        .await?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
        .fetch_one(pool)
        .await?;
    if !journal.eq_ignore_ascii_case("wal") || synchronous != SYNCHRONOUS_FULL {
        return Err(StoreError::Unavailable(
            format!("SQLite runs with journal_mode={journal} and synchronous={synchronous}; the ledger needs wal and 2 (full)").into(),
        ));
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;
