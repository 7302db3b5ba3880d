//! PostgreSQL: the store of several replicas.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::ConnectOptions;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

use super::syncer::Syncer;
use super::unusable;
use crate::types::{Charge, Claim, Durability, LedgerBatch, Replica, Store, StoreError};

// The words of this database, for the SQL that both share.
type Db = sqlx::Postgres;
type Connection = PgConnection;
use Postgres as Backend;
const BEGIN: &str = "BEGIN";
/// Each statement is a way there and back. It may have 65,535 values; a row has at most 25.
const ROWS_PER_STATEMENT: usize = 1000;
macro_rules! now_ms {
    () => {
        "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
    };
}

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

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/postgres/migrations");

/// Connections of the ledger's writer and of administrative acts, which don't wait behind reports.
const WRITERS: u32 = 4;
const READERS: u32 = 8;
/// A database that is away is reported as soon as this.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// An open PostgreSQL store.
pub(super) struct Postgres {
    writer: PgPool,
    readers: PgPool,
    /// Where commits of the ledger don't wait for the disk.
    syncer: Option<Syncer>,
}

impl Postgres {
    /// Opens a database that is there, and migrates it.
    pub(super) async fn open(url: &str, durability: Durability) -> Result<Self, StoreError> {
        // A parse error may quote the URL, and with it the password.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| unusable("[store] url is no postgres://USER:PASSWORD@HOST:PORT/DATABASE"))?
            .application_name("forebay")
            // A commit that returns is on disk, whatever the server's default.
            .options([("synchronous_commit", "on")])
            .disable_statement_logging();
        let pool = |connections| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
        };
        let writer = pool(WRITERS).connect_with(options.clone()).await?;
        MIGRATIONS.run(&writer).await?;
        assert_durable(&writer).await?;
        let readers = pool(READERS).connect_lazy_with(options);
        let syncer = (durability == Durability::Process).then(|| {
            let pool = writer.clone();
            Syncer::start(move || {
                let pool = pool.clone();
                async move { flush(&pool).await.map_err(|error| error.to_string()) }
            })
        });
        Ok(Self {
            writer,
            readers,
            syncer,
        })
    }
}

/// `fsync = off` loses commits with the power, and no session can turn it on.
async fn assert_durable(pool: &PgPool) -> Result<(), StoreError> {
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(pool).await?;
    let commit: String = sqlx::query_scalar("SHOW synchronous_commit")
        .fetch_one(pool)
        .await?;
    if fsync != "on" || commit == "off" || commit == "local" {
        return Err(unusable(format!(
            "PostgreSQL runs with fsync={fsync} and synchronous_commit={commit}; the ledger needs both on"
        )));
    }
    Ok(())
}

/// A commit that returns once it is in the server's log, before that is on disk. All other commits wait for it.
async fn loosen(connection: &mut Connection, store: &Postgres) -> Result<(), sqlx::Error> {
    if store.syncer.is_none() {
        return Ok(());
    }
    sqlx::query("SET LOCAL synchronous_commit TO off")
        .execute(connection)
        .await
        .map(drop)
}

/// Rows as one statement after the other takes them: each is a way to the database and back.
fn pieces<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    rows.chunks(ROWS_PER_STATEMENT)
}

/// Whether a statement of so many rows is worth being kept prepared. Most lengths seldom come again, and take as much memory
/// as their text.
fn recurs(rows: usize) -> bool {
    rows <= 2 || rows == ROWS_PER_STATEMENT
}

/// Values can't be sent along with a text of several statements here.
#[expect(clippy::unused_async, reason = "the other database can")]
async fn commit_at_once(_: &Postgres, _: &Replica, _: &LedgerBatch) -> Result<bool, StoreError> {
    Ok(false)
}

/// A commit that waits for the disk takes all before it along; one that has no number of its own would not.
async fn flush(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(pool)
        .await
        .map(drop)
}

/// Waits until nobody else is at this limit, and keeps others from it until the transaction's end.
async fn lock(connection: &mut Connection, bucket: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(bucket)
        .execute(connection)
        .await
        .map(drop)
}

impl Postgres {
    /// There may be no disk beside this process.
    #[expect(clippy::unused_self, reason = "the other database has one")]
    fn append(&self, _: &Charge) -> bool {
        false
    }

    #[expect(clippy::unused_async, reason = "the other database keeps some")]
    async fn commit_kept(&self, _: &Replica) -> Result<(), StoreError> {
        Ok(())
    }

    fn committed(&self, _: &LedgerBatch) {
        if let Some(syncer) = &self.syncer {
            syncer.mark();
        }
    }
}

#[async_trait]
impl Store for Postgres {
    /// Any number may serve: each is known by its row in `replica`.
    fn claim(&self) -> Result<Claim, StoreError> {
        Ok(Claim {
            exclusive: false,
            guard: Box::new(()),
        })
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
