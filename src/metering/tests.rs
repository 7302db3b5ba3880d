use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::types::{
    Caller, ChargeRow, Class, Delta, Endpoint, Event, LedgerBatch, Money, Outcome, Page, Paying,
    Price, Recovered, Release, Replica, ReplicaId, RequestId, Slice, SliceWish, Spender, Spent,
    State, StoreError, Usage, UsageQuery, UsageRow,
};

/// Keeps batches in memory, and can be told to fail.
#[derive(Default)]
struct Book {
    batches: Mutex<Vec<LedgerBatch>>,
    /// By attempt: the event that stands.
    booked: Mutex<HashMap<(RequestId, u32), Uuid>>,
    joined: Mutex<Vec<ReplicaId>>,
    down: AtomicBool,
    /// Commits once more, and tells nobody that it did.
    unknown: AtomicBool,
}

#[async_trait]
impl Ledger for Book {
    async fn join(&self, replica: &Replica) -> Result<(), StoreError> {
        self.joined.lock().unwrap().push(replica.id.clone());
        Ok(())
    }
    async fn leave(&self, _: &ReplicaId) -> Result<(), StoreError> {
        Ok(())
    }
    async fn commit(
        &self,
        replica: &Replica,
        batch: &LedgerBatch,
    ) -> Result<Vec<Uuid>, StoreError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("told to".into()));
        }
        if self.joined.lock().unwrap().last() != Some(&replica.id) {
            return Err(StoreError::Fenced);
        }
        let mut booked = self.booked.lock().unwrap();
        let mut others = Vec::new();
        let mut batch = batch.clone();
        batch.charges.retain(|charge| {
            let attempt = (charge.flown.request, charge.flown.attempt);
            let stands = *booked.entry(attempt).or_insert(charge.event_id);
            if stands != charge.event_id {
                others.push(charge.event_id);
            }
            stands == charge.event_id
        });
        self.batches.lock().unwrap().push(batch);
        if self.unknown.swap(false, Ordering::Relaxed) {
            return Err(StoreError::Unavailable(
                "the connection broke after COMMIT".into(),
            ));
        }
        Ok(others)
    }
    async fn recover(&self, _: &Replica, _: Duration) -> Result<Vec<Recovered>, StoreError> {
        Ok(Vec::new())
    }
    async fn usage(&self, _: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        Ok(Vec::new())
    }
    async fn charges(&self, _: &UsageQuery, _: &Page) -> Result<Vec<ChargeRow>, StoreError> {
        Ok(Vec::new())
    }
    async fn charged(&self, _: Option<&str>) -> Result<Money, StoreError> {
        let charges = self.charges();
        Ok(Money(
            charges.iter().map(|charge| i128::from(charge.3)).sum(),
        ))
    }
    async fn spent(&self, _: &Spender, _: Timestamp) -> Result<Spent, StoreError> {
        Ok(Spent::default())
    }
    async fn slice(&self, _: &ReplicaId, _: &SliceWish) -> Result<Slice, StoreError> {
        Err(StoreError::Unavailable("it is alone".into()))
    }
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Book {
    fn charges(&self) -> Vec<(State, Outcome, Usage, i64)> {
        let batches = self.batches.lock().unwrap();
        batches
            .iter()
            .flat_map(|batch| &batch.charges)
            .map(|charge| {
                (
                    charge.state,
                    charge.outcome,
                    charge.usage,
                    charge.amount.row(),
                )
            })
            .collect()
    }
}

fn metering(max_open: usize) -> (Arc<Book>, Metering, JoinHandle<()>) {
    let book = Arc::new(Book::default());
    let options = Options {
        max_open,
        hold: Duration::from_millis(300),
        lease: None,
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let membership = Arc::new(Membership::new("a".into()));
    book.joined.lock().unwrap().push(membership.now().id);
    let ledger = Arc::clone(&book) as Arc<dyn Ledger>;
    let (metering, writer) = Metering::start(ledger, membership, metrics, &options);
    (book, metering, writer)
}

fn flight(metering: &Metering) -> Flight {
    let price = Price {
        version: "v".into(),
        prompt_pico: 1,
        cached_pico: 1,
        completion_pico: 100,
        request_pico: 0,
    };
    let flown = Flown {
        request: RequestId::mint(),
        attempt: 1,
        caller: Caller {
            organisation: "org_a".into(),
            project: "proj_a".into(),
            key: "key_a".into(),
        },
        end_user: None,
        model: "m".into(),
        revision: "r".into(),
        route: None,
        worker: "w".into(),
        endpoint: Endpoint::Chat,
        class: Class::Standard,
        price: Arc::new(price),
        started: Timestamp::now(),
    };
    metering.dispatch(metering.admit().unwrap(), flown, Paying::default(), None)
}

const USAGE: Usage = Usage {
    prompt_tokens: 7,
    cached_tokens: 0,
    completion_tokens: 2,
    reasoning_tokens: 0,
};

fn delta() -> Event {
    Event::Delta(Delta {
        text: "x".into(),
        ..Delta::default()
    })
}

fn end() -> Event {
    Event::End { usage: USAGE }
}

fn meter(flight: Flight, events: Vec<Result<Event, Failure>>) -> Meter {
    Meter::new(Box::pin(stream::iter(events)), flight, Instant::now())
}

/// Lets the writer come to its end, as a shutdown does.
async fn finished(metering: Metering, writer: JoinHandle<()>) {
    drop(metering);
    writer.await.unwrap();
}

#[tokio::test]
async fn an_answer_ends_only_once_its_charge_stands() {
    let (book, metering, writer) = metering(8);
    let mut meter = meter(flight(&metering), vec![Ok(delta()), Ok(end())]);
    assert!(matches!(meter.next().await, Some(Ok(Event::Delta(_)))));
    assert!(book.charges().is_empty());
    assert!(matches!(meter.next().await, Some(Ok(Event::End { .. }))));
    assert_eq!(
        book.charges(),
        [(State::Settled, Outcome::Completed, USAGE, 207)]
    );
    assert!(meter.next().await.is_none());
    drop(meter);
    finished(metering, writer).await;
    assert_eq!(book.charges().len(), 1);
}

#[tokio::test]
async fn an_in_flight_row_is_taken_out_where_there_is_one() {
    for waits in [false, true] {
        let (book, metering, writer) = metering(8);
        let mut flight = flight(&metering);
        let rows = || {
            let batches = book.batches.lock().unwrap();
            let rows = batches.iter().map(|batch| batch.checkpoints.len());
            rows.sum::<usize>()
        };
        while waits && rows() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        flight.settle(USAGE).await.unwrap();
        drop(flight);
        finished(metering, writer).await;
        let has_row = rows() > 0;
        let batches = book.batches.lock().unwrap();
        let ended = batches.iter().map(|batch| batch.ended.len());
        assert_eq!(ended.sum::<usize>(), usize::from(has_row));
    }
}

#[tokio::test]
async fn a_dropped_stream_pays_for_what_it_got() {
    let (book, metering, writer) = metering(8);
    let flight = flight(&metering);
    let progress = flight.progress();
    progress.start(7);
    progress.advance();
    progress.advance();
    let mut meter = meter(flight, vec![Ok(delta()), Ok(end())]);
    meter.next().await.unwrap().unwrap();
    drop(meter);
    assert!(
        !progress.advance(),
        "the worker is told by the closed count"
    );
    finished(metering, writer).await;
    assert_eq!(
        book.charges(),
        [(State::Settled, Outcome::Cancelled, USAGE, 207)]
    );
}

#[tokio::test]
async fn a_prompt_that_no_worker_took_on_costs_nothing() {
    let (book, metering, writer) = metering(8);
    drop(flight(&metering));
    finished(metering, writer).await;
    assert!(book.charges().is_empty());
}

#[tokio::test]
async fn a_workers_failure_is_absorbed_with_what_it_spent() {
    for ending in [Some(Err(Failure::Broken("oh".into()))), None] {
        let (book, metering, writer) = metering(8);
        let flight = flight(&metering);
        flight.progress().start(7);
        flight.progress().advance();
        let mut meter = meter(flight, std::iter::once(Ok(delta())).chain(ending).collect());
        meter.next().await.unwrap().unwrap();
        assert!(meter.next().await.unwrap().is_err());
        assert!(meter.next().await.is_none());
        let spent = Usage {
            completion_tokens: 1,
            ..USAGE
        };
        assert_eq!(
            book.charges(),
            [(State::Absorbed, Outcome::Failed, spent, 0)]
        );
        drop(meter);
        finished(metering, writer).await;
        assert_eq!(book.charges().len(), 1);
    }
}

#[tokio::test]
async fn a_request_at_fault_leaves_no_row() {
    let (book, metering, writer) = metering(8);
    let failure = Failure::ContextLength {
        context: 1,
        prompt: 2,
        param: "messages".into(),
    };
    let mut meter = meter(flight(&metering), vec![Err(failure)]);
    assert!(matches!(meter.next().await, Some(Err(_))));
    drop(meter);
    finished(metering, writer).await;
    assert!(book.charges().is_empty());
}

#[tokio::test]
async fn a_running_attempt_is_checkpointed_within_a_second() {
    let (book, metering, writer) = metering(8);
    let flight = flight(&metering);
    flight.progress().start(7);
    tokio::time::sleep(Duration::from_millis(900)).await;
    {
        let batches = book.batches.lock().unwrap();
        let checkpoint = batches
            .iter()
            .flat_map(|batch| &batch.checkpoints)
            .last()
            .unwrap();
        assert_eq!(checkpoint.usage.prompt_tokens, 7);
    }
    drop(flight);
    finished(metering, writer).await;
}

#[tokio::test]
async fn a_store_that_fails_holds_the_end_and_books_later_what_was_delivered() {
    for delivers in [true, false] {
        let (book, metering, writer) = metering(8);
        book.down.store(true, Ordering::Relaxed);
        let mut meter = meter(flight(&metering), vec![Ok(delta()), Ok(end())]);
        if delivers {
            meter.delivers();
        }
        let content = meter.next().await.unwrap();
        assert!(content.is_ok(), "content is never held back");
        assert!(matches!(meter.next().await, Some(Err(Error::LedgerDown))));
        let refused = matches!(metering.admit(), Err(Error::LedgerDown));
        assert!(refused, "nothing new is started");
        book.down.store(false, Ordering::Relaxed);
        drop(meter);
        finished(metering, writer).await;
        // An answer that was to come whole has not come: its client was told to try again.
        let expected = if delivers {
            (State::Settled, Outcome::Completed, USAGE, 207)
        } else {
            (State::Absorbed, Outcome::Failed, USAGE, 0)
        };
        assert_eq!(book.charges(), [expected]);
    }
}

#[tokio::test]
async fn no_more_are_open_than_the_ledger_has_room_for() {
    let (_book, metering, writer) = metering(2);
    let (first, second) = (flight(&metering), flight(&metering));
    assert!(matches!(metering.admit(), Err(Error::TooManyOpen)));
    drop((first, second));
    finished(metering, writer).await;
}

#[tokio::test]
async fn an_unknown_commit_outcome_is_tried_again_and_found_to_stand() {
    let (book, metering, writer) = metering(8);
    book.unknown.store(true, Ordering::Relaxed);
    let mut meter = meter(flight(&metering), vec![Ok(end())]);
    assert!(matches!(meter.next().await, Some(Ok(Event::End { .. }))));
    drop(meter);
    finished(metering, writer).await;
    let stands = [(State::Settled, Outcome::Completed, USAGE, 207)];
    let charges = book.charges();
    assert_eq!(book.booked.lock().unwrap().len(), 1);
    assert!(
        charges.iter().all(|charge| *charge == stands[0]) && charges.len() == 2,
        "tried twice"
    );
}

#[tokio::test]
async fn a_replica_that_was_taken_for_dead_gives_up_what_others_booked_and_lives_on() {
    let (book, metering, writer) = metering(8);
    let running = flight(&metering);
    running.progress().start(7);
    let checkpointed = || {
        let batches = book.batches.lock().unwrap();
        batches.iter().any(|batch| !batch.checkpoints.is_empty())
    };
    while !checkpointed() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Others took it for dead, and booked the running one.
    book.joined.lock().unwrap().push(ReplicaId::mint());
    let attempt = (running.flown().request, 1);
    book.booked.lock().unwrap().insert(attempt, Uuid::now_v7());

    let fresh = flight(&metering);
    let mut answer = meter(fresh, vec![Ok(delta()), Ok(end())]);
    answer.next().await.unwrap().unwrap();
    assert!(
        matches!(answer.next().await, Some(Ok(Event::End { .. }))),
        "it has no row yet"
    );
    assert!(running.progress().is_closed(), "its worker is told to stop");
    let mut lost = meter(running, vec![Ok(end())]);
    assert!(matches!(lost.next().await, Some(Err(Error::Lost))));
    drop((answer, lost));
    finished(metering, writer).await;
    assert_eq!(book.joined.lock().unwrap().len(), 3);
    assert_eq!(book.charges().len(), 1);
}

#[tokio::test]
async fn a_charge_in_whose_place_another_stands_is_no_end_of_an_answer() {
    let (book, metering, writer) = metering(8);
    let flight = flight(&metering);
    let attempt = (flight.flown().request, 1);
    book.booked.lock().unwrap().insert(attempt, Uuid::now_v7());
    let mut meter = meter(flight, vec![Ok(end())]);
    assert!(matches!(meter.next().await, Some(Err(Error::Lost))));
    drop(meter);
    finished(metering, writer).await;
    assert!(book.charges().is_empty());
}

/// Remembers how it ended.
struct Deposit(Arc<Mutex<Option<(Usage, Money)>>>);

impl Reserved for Deposit {
    fn releases(&self, _: &Usage, _: Money) -> Vec<Release> {
        Vec::new()
    }
    fn settle(&mut self, usage: Usage, amount: Money) {
        *self.0.lock().unwrap() = Some((usage, amount));
    }
}

#[tokio::test]
async fn what_was_reserved_is_settled_with_what_is_charged_and_given_back_otherwise() {
    for (events, settled) in [
        (vec![Ok(delta()), Ok(end())], Some((USAGE, Money(207)))),
        (vec![Ok(delta()), Err(Failure::Broken("oh".into()))], None),
        (vec![Err(Failure::Busy)], None),
    ] {
        let (_book, metering, writer) = metering(8);
        let (end, price) = (Arc::default(), flight(&metering).flown().clone());
        let flown = Flown {
            request: RequestId::mint(),
            ..price
        };
        let deposit = Box::new(Deposit(Arc::clone(&end)));
        let flight = metering.dispatch(
            metering.admit().unwrap(),
            flown,
            Paying::default(),
            Some(deposit),
        );
        let mut meter = meter(flight, events);
        while let Some(Ok(_)) = meter.next().await {}
        drop(meter);
        finished(metering, writer).await;
        assert_eq!(*end.lock().unwrap(), settled);
        assert_eq!(Arc::strong_count(&end), 1, "the deposit is gone");
    }
}

#[tokio::test]
async fn whoever_goes_while_the_charge_is_written_has_spent_it() {
    let (book, metering, writer) = metering(8);
    book.down.store(true, Ordering::Relaxed);
    let (end, flown) = (Arc::default(), flight(&metering).flown().clone());
    let flown = Flown {
        request: RequestId::mint(),
        ..flown
    };
    let deposit = Box::new(Deposit(Arc::clone(&end)));
    let flight = metering.dispatch(
        metering.admit().unwrap(),
        flown,
        Paying::default(),
        Some(deposit),
    );
    let mut meter = meter(flight, vec![Ok(Event::End { usage: USAGE })]);
    let waits = tokio::time::timeout(Duration::from_millis(50), meter.next()).await;
    assert!(waits.is_err(), "its charge is not on disk");
    drop(meter);
    book.down.store(false, Ordering::Relaxed);
    finished(metering, writer).await;
    assert_eq!(
        book.charges(),
        [(State::Settled, Outcome::Completed, USAGE, 207)]
    );
    assert_eq!(*end.lock().unwrap(), Some((USAGE, Money(207))));
}

#[tokio::test]
async fn the_drift_is_what_the_ledger_has_and_the_counters_have_not() {
    let (book, metering, writer) = metering(8);
    let metrics = Arc::clone(&metering.metrics);
    let mut counted = meter(flight(&metering), vec![Ok(end())]);
    counted.next().await.unwrap().unwrap();
    drop(counted);
    finished(metering, writer).await;
    audit::look(&*book, None, &metrics).await;
    assert_eq!(
        (metrics.charged(), metrics.ledger.drift.get()),
        (Money(207), 0)
    );
    // Counters of a process that was never told of it.
    let forgetful = Metrics::new().unwrap();
    audit::look(&*book, None, &forgetful).await;
    assert_eq!(forgetful.ledger.drift.get(), 207);
}
