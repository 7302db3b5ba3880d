use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::types::{
    Caller, Charge, Checkpoint, Class, Endpoint, Flown, Ledger, LedgerBatch, Money, Outcome, Price,
    RequestId, Source, State, Usage,
};

async fn store() -> (tempfile::TempDir, Sqlite) {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&url(&folder)).await.unwrap();
    (folder, store)
}

fn url(folder: &tempfile::TempDir) -> String {
    format!("sqlite://{}/t.db", folder.path().display())
}

fn flown() -> Arc<Flown> {
    Arc::new(Flown {
        request: RequestId::mint(),
        attempt: 1,
        caller: Caller {
            project: "proj_a".into(),
            key: "key_a".into(),
        },
        end_user: Some("ada".into()),
        model: "m".into(),
        revision: "r".into(),
        worker: "w".into(),
        endpoint: Endpoint::Chat,
        class: Class::Standard,
        price: Arc::new(Price {
            version: "1/1/100".into(),
            prompt_pico: 1,
            cached_pico: 1,
            completion_pico: 100,
        }),
        started: Timestamp::now(),
    })
}

fn usage(prompt_tokens: u32, completion_tokens: u32) -> Usage {
    Usage {
        prompt_tokens,
        cached_tokens: 0,
        completion_tokens,
    }
}

fn charge(flown: &Arc<Flown>, usage: Usage, amount: Money, state: State) -> Charge {
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
        charges: vec![charge],
        ..LedgerBatch::default()
    }
}

async fn in_flight(store: &Sqlite) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM in_flight")
        .fetch_one(&store.readers)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_settlement_takes_the_place_of_its_checkpoint() {
    let (_folder, store) = store().await;
    let flown = flown();
    store
        .commit(&checkpoint(&flown, usage(7, 1)))
        .await
        .unwrap();
    store
        .commit(&checkpoint(&flown, usage(7, 5)))
        .await
        .unwrap();
    assert_eq!(in_flight(&store).await, 1);
    store
        .commit(&book(charge(
            &flown,
            usage(7, 9),
            Money(907),
            State::Settled,
        )))
        .await
        .unwrap();
    assert_eq!(in_flight(&store).await, 0);
    let rows = store.usage().await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (
            rows[0].requests,
            rows[0].prompt_tokens,
            rows[0].completion_tokens,
            rows[0].amount
        ),
        (1, 7, 9, Money(907))
    );
}

#[tokio::test]
async fn a_batch_that_is_tried_twice_stands_once() {
    let (_folder, store) = store().await;
    let batch = book(charge(&flown(), usage(1, 2), Money(201), State::Settled));
    store.commit(&batch).await.unwrap();
    store.commit(&batch).await.unwrap();
    assert_eq!(store.usage().await.unwrap()[0].requests, 1);
}

#[tokio::test]
async fn what_is_left_in_flight_is_booked_once_at_its_own_price() {
    let (_folder, store) = store().await;
    let (running, settled) = (flown(), flown());
    store
        .commit(&checkpoint(&running, usage(7, 3)))
        .await
        .unwrap();
    store
        .commit(&book(charge(
            &settled,
            usage(1, 0),
            Money(1),
            State::Settled,
        )))
        .await
        .unwrap();
    assert_eq!(store.recover().await.unwrap(), 1);
    assert_eq!(store.recover().await.unwrap(), 0);
    let rows = store.usage().await.unwrap();
    assert_eq!((rows[0].requests, rows[0].amount), (2, Money(7 + 300 + 1)));
    let (state, source, outcome, user): (String, String, String, String) =
        sqlx::query_as("SELECT state, source, outcome, end_user FROM charge WHERE request_id = ?")
            .bind(running.request.to_string())
            .fetch_one(&store.readers)
            .await
            .unwrap();
    assert_eq!(
        (
            state.as_str(),
            source.as_str(),
            outcome.as_str(),
            user.as_str()
        ),
        ("recovered", "recovered", "lost", "ada")
    );
}

#[tokio::test]
async fn a_void_attempt_leaves_nothing() {
    let (_folder, store) = store().await;
    let flown = flown();
    store
        .commit(&checkpoint(&flown, usage(7, 3)))
        .await
        .unwrap();
    let voids = vec![(flown.request, flown.attempt)];
    store
        .commit(&LedgerBatch {
            voids,
            ..LedgerBatch::default()
        })
        .await
        .unwrap();
    assert_eq!(in_flight(&store).await, 0);
    assert!(store.usage().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_absorbed_row_is_on_no_bill() {
    let (_folder, store) = store().await;
    store
        .commit(&book(charge(
            &flown(),
            usage(5, 5),
            Money(0),
            State::Absorbed,
        )))
        .await
        .unwrap();
    assert!(store.usage().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_charge_can_be_neither_changed_nor_deleted() {
    let (_folder, store) = store().await;
    store
        .commit(&book(charge(
            &flown(),
            usage(1, 1),
            Money(101),
            State::Settled,
        )))
        .await
        .unwrap();
    for statement in ["UPDATE charge SET amount_pico = 0", "DELETE FROM charge"] {
        let error = sqlx::query(statement)
            .execute(&store.writer)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
}

#[tokio::test]
async fn sums_are_exact_beyond_64_bits() {
    let (_folder, store) = store().await;
    let most = Money(i64::MAX.into());
    for _ in 0..3 {
        store
            .commit(&book(charge(&flown(), usage(1, 1), most, State::Settled)))
            .await
            .unwrap();
    }
    assert_eq!(store.usage().await.unwrap()[0].amount, Money(3 * most.0));
}

#[tokio::test]
async fn two_thousand_rows_go_in_at_once() {
    let (_folder, store) = store().await;
    let charges = (0..2500)
        .map(|_| charge(&flown(), usage(1, 1), Money(101), State::Settled))
        .collect();
    store
        .commit(&LedgerBatch {
            charges,
            ..LedgerBatch::default()
        })
        .await
        .unwrap();
    assert_eq!(store.usage().await.unwrap()[0].requests, 2500);
}

#[tokio::test]
async fn only_one_may_serve_and_the_lock_goes_with_it() {
    let (folder, store) = store().await;
    let other = Sqlite::open(&url(&folder)).await.unwrap();
    let lock = store.lock_for_serving().unwrap();
    assert!(other.lock_for_serving().is_err());
    drop(lock);
    assert!(other.lock_for_serving().is_ok());
}

#[tokio::test]
async fn a_store_that_can_not_be_opened_says_why_in_one_line() {
    for bad in ["postgres://x", "sqlite://", "sqlite:///proc/no/such/t.db"] {
        let error = Sqlite::open(bad).await.err().unwrap();
        assert!(!error.to_string().contains('\n'));
    }
}
