//! One suite, run on both databases.

mod batches;
mod files;
mod ledger;
mod invoices;
mod models;
mod notices;
mod replays;
mod replicas;
mod slices;
mod tenants;

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use sqlx::{PgPool, SqlitePool};
use uuid::Uuid;

use super::*;
use crate::types::{
    Caller, Charge, Checkpoint, Class, Endpoint, Flown, LedgerBatch, Money, Outcome, Price,
    Replica, ReplicaId, RequestId, Source, State, Usage,
};

#[path = "../../tests/support/postgres.rs"]
pub(crate) mod cluster;
use cluster::Cluster;

/// Each of the tests that follow, once on SQLite and once on PostgreSQL.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($desk:ident: Desk) $body:block)+) => {
        $($(#[$doc])* async fn $name($desk: $crate::store::tests::Desk) $body)+

        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::tests::Desk::sqlite().await).await;
            })+
        }

        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::tests::Desk::postgres().await).await;
            })+
        }
    };
}
use on_both;

/// The one that the tests of this process share.
pub(crate) fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(true))
}

/// A store with one replica that has joined.
struct Desk {
    store: Arc<dyn Store>,
    replica: Replica,
    url: String,
    folder: Option<tempfile::TempDir>,
}

impl Desk {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/t.db", folder.path().display());
        Self::open(url, Some(folder)).await
    }

    async fn postgres() -> Self {
        let name = format!("t{}", Uuid::now_v7().simple());
        let create = move || cluster().database(&name);
        let url = tokio::task::spawn_blocking(create).await.unwrap();
        Self::open(url, None).await
    }

    async fn open(url: String, folder: Option<tempfile::TempDir>) -> Self {
        let store = super::open(&url).await.unwrap();
        let replica = replica("a");
        store.join(&replica).await.unwrap();
        Self {
            store,
            replica,
            url,
            folder,
        }
    }

    async fn commit(&self, batch: LedgerBatch) -> Vec<Uuid> {
        self.store.commit(&self.replica, &batch).await.unwrap()
    }

    /// What a query gives that gives one number.
    async fn number(&self, query: &'static str) -> i64 {
        if self.folder.is_some() {
            let pool = SqlitePool::connect(&self.url).await.unwrap();
            sqlx::query_scalar(query).fetch_one(&pool).await.unwrap()
        } else {
            let pool = PgPool::connect(&self.url).await.unwrap();
            sqlx::query_scalar(query).fetch_one(&pool).await.unwrap()
        }
    }

    /// The error of a statement that must fail.
    async fn refusal(&self, statement: &'static str) -> String {
        let done = if self.folder.is_some() {
            let pool = SqlitePool::connect(&self.url).await.unwrap();
            sqlx::query(statement).execute(&pool).await.map(drop)
        } else {
            let pool = PgPool::connect(&self.url).await.unwrap();
            sqlx::query(statement).execute(&pool).await.map(drop)
        };
        done.unwrap_err().to_string()
    }
}

fn replica(name: &str) -> Replica {
    Replica {
        id: ReplicaId::mint(),
        name: name.to_owned(),
    }
}

pub(crate) fn flown() -> Arc<Flown> {
    flown_by("proj_a", "key_a", "m")
}

fn flown_by(project: &str, key: &str, model: &str) -> Arc<Flown> {
    Arc::new(Flown {
        request: RequestId::mint(),
        attempt: 1,
        caller: Caller {
            organisation: "org_default".into(),
            project: project.into(),
            key: key.into(),
        },
        end_user: Some("ada".into()),
        model: model.into(),
        revision: "r".into(),
        route: None,
        worker: "w".into(),
        endpoint: Endpoint::Chat,
        class: Class::Standard,
        price: Arc::new(Price {
            version: "1/1/100/0".into(),
            prompt_pico: 1,
            cached_pico: 1,
            completion_pico: 100,
            request_pico: 0,
        }),
        started: Timestamp::now(),
    })
}

pub(crate) fn usage(prompt_tokens: u32, completion_tokens: u32) -> Usage {
    Usage {
        prompt_tokens,
        cached_tokens: 0,
        completion_tokens,
        reasoning_tokens: 0,
    }
}

pub(crate) fn charge(flown: &Arc<Flown>, usage: Usage, amount: Money, state: State) -> Charge {
    Charge {
        event_id: Uuid::now_v7(),
        flown: Arc::clone(flown),
        usage,
        amount,
        state,
        source: Source::Engine,
        outcome: Outcome::Completed,
        first_token: None,
        ended: Timestamp::now(),
    }
}

fn checkpoint(flown: &Arc<Flown>, usage: Usage) -> LedgerBatch {
    let checkpoint = Checkpoint {
        flown: Arc::clone(flown),
        usage,
        first_token: None,
    };
    LedgerBatch {
        checkpoints: vec![checkpoint],
        ..LedgerBatch::default()
    }
}

fn book(charge: Charge) -> LedgerBatch {
    LedgerBatch {
        ended: vec![(charge.flown.request, charge.flown.attempt)],
        charges: vec![charge],
        ..LedgerBatch::default()
    }
}

#[tokio::test]
async fn a_store_that_can_not_be_opened_says_why_in_one_line_and_not_the_password() {
    for bad in [
        "mysql://u:secret@h/d",
        "sqlite://",
        "sqlite:///proc/no/such/t.db",
        "postgres://u:secret@127.0.0.1:1/d",
        "postgres://u:secret@[/d",
    ] {
        let error = super::open(bad).await.err().unwrap().to_string();
        assert!(
            !error.contains('\n') && !error.contains("secret"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn one_process_serves_from_sqlite_and_the_claim_goes_with_it() {
    let desk = Desk::sqlite().await;
    let other = super::open(&desk.url).await.unwrap();
    let claim = desk.store.claim().unwrap();
    assert!(claim.exclusive && other.claim().is_err());
    drop(claim);
    assert!(other.claim().is_ok());
}
