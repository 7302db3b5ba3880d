use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::writer::{Booking, Command};
use super::{Admission, Error, Metering};
use crate::telemetry::Metrics;
use crate::types::{
    Charge, Checkpoint, Failure, Flown, Ledger, Money, Outcome, Paying, Progress, Release,
    RequestId, Reserved, Source, State, Usage,
};

const REFRESH_MS: i64 = 1000;
const NONE: i64 = i64::MIN;

/// One attempt under way. Dropped, it books what the client got until now.
pub struct Flight {
    open: Arc<Open>,
    paying: Paying,
    /// Taken by whichever end comes first, so there is never a second.
    permit: Option<mpsc::OwnedPermit<Command>>,
    flights: Arc<Flights>,
    ledger: Arc<dyn Ledger>,
    reserved: Option<Box<dyn Reserved>>,
    /// What the charge costs that is on its way to the ledger.
    due: Option<(Usage, Money)>,
    hold: Duration,
    /// Whether any of the answer has reached the client.
    delivered: bool,
    metrics: Arc<Metrics>,
}

/// A charge whose answer nobody has seen yet. Dropped, it is forgiven, where its commit is not under way.
struct Unseen(Option<Arc<AtomicBool>>);

impl Unseen {
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(forgiven) = &self.0 {
            forgiven.store(true, Ordering::Release);
        }
    }
}

/// What is known of an unsettled attempt; the writer reads it for its checkpoints.
struct Open {
    flown: Arc<Flown>,
    progress: Arc<Progress>,
    first_token_ms: AtomicI64,
    /// When its last checkpoint was taken, in milliseconds.
    checkpoint_ms: AtomicI64,
    /// Others booked it from its last checkpoint.
    lost: AtomicBool,
    /// Whether it has checkpoints, from which others would book it. An answer of which nobody has seen anything is begun anew.
    recovers: bool,
}

/// Every unsettled attempt of this process.
#[derive(Default)]
pub(super) struct Flights {
    open: DashMap<(RequestId, u32), Arc<Open>>,
    count: AtomicU64,
}

impl Flight {
    pub(super) fn new(
        metering: &Metering,
        admission: Admission,
        flown: Flown,
        paying: Paying,
        reserved: Option<Box<dyn Reserved>>,
    ) -> Self {
        let open = Arc::new(Open {
            flown: Arc::new(flown),
            progress: Arc::new(Progress::default()),
            first_token_ms: AtomicI64::new(NONE),
            checkpoint_ms: AtomicI64::new(NONE),
            lost: AtomicBool::new(false),
            recovers: paying == Paying::AsItGoes,
        });
        metering.flights.insert(&open);
        metering.metrics.ledger.open.inc();
        Self {
            open,
            paying,
            permit: Some(admission.0),
            flights: Arc::clone(&metering.flights),
            ledger: Arc::clone(&metering.ledger),
            reserved,
            due: None,
            hold: metering.hold,
            delivered: false,
            metrics: Arc::clone(&metering.metrics),
        }
    }

    /// Where the worker counts.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.open.progress)
    }

    /// What is booked.
    #[must_use]
    pub fn flown(&self) -> &Flown {
        &self.open.flown
    }

    /// The first piece of the answer leaves now. True the first time.
    pub fn first_token(&self) -> bool {
        let now = Timestamp::now().as_millisecond();
        self.open
            .first_token_ms
            .compare_exchange(NONE, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Tells how long the client waited for it.
    pub(super) fn observe_first_token(&self, since_arrival: Duration) {
        self.metrics
            .first_token(&self.open.flown.model, since_arrival);
    }

    /// From now on the client gets the answer piece by piece, and pays for it though its end comes late.
    pub fn delivers(&mut self) {
        self.delivered = true;
    }

    /// Books the whole answer, and returns once the charge is as safe as the ledger's durability says.
    ///
    /// # Errors
    /// Others booked it, or the store did not take it in time. Once it is back the charge is booked, where pieces of the answer
    /// have reached the client; where none has, the client was told to come again, and pays nothing.
    pub async fn settle(&mut self, usage: Usage) -> Result<(), Error> {
        self.open.progress.close();
        let (amount, state) = match self.paying {
            Paying::AsItGoes | Paying::AtTheEnd => {
                (self.open.flown.price.amount(&usage), State::Settled)
            }
            Paying::Already => (Money(0), State::Absorbed),
        };
        let charge = self.charge(usage, amount, state, Outcome::Completed);
        self.book(charge).await
    }

    /// Books that the worker broke: what it spent, for nothing.
    ///
    /// # Errors
    /// As [`Flight::settle`].
    pub async fn absorb(&mut self) -> Result<(), Error> {
        let usage = self.close();
        let charge = self.charge(usage, Money(0), State::Absorbed, Outcome::Failed);
        self.book(charge).await
    }

    /// What was reserved for another attempt of the same request is for this one now.
    pub fn reserve(&mut self, reserved: Box<dyn Reserved>) {
        self.reserved = Some(reserved);
    }

    /// Another attempt takes over: what this one spent is booked for nothing, without waiting for it, and what was
    /// reserved goes on to the next. Without an outcome it never ran.
    pub fn give_up(mut self, outcome: Option<Outcome>) -> Option<Box<dyn Reserved>> {
        let reserved = self.reserved.take();
        let Some(outcome) = outcome else {
            self.void();
            return reserved;
        };
        let usage = self.close();
        let charge = self.charge(usage, Money(0), State::Absorbed, outcome);
        if !self.open.lost.load(Ordering::Acquire)
            && let Some(permit) = self.end()
        {
            self.metrics.ledger.pending.inc();
            permit.send(Command::Book(Box::new(Booking::new(
                (charge, self.open.has_row()),
                Vec::new(),
                None,
            ))));
        } else {
            self.end();
        }
        reserved
    }

    /// Books what a failure leaves, which the client doesn't pay, and gives the error to be told.
    pub async fn fail(&mut self, failure: Failure) -> Error {
        if failure.is_refusal() {
            self.void();
        } else if let Err(error) = self.absorb().await {
            return error;
        }
        Error::Failed(failure)
    }

    /// Nothing ran: nothing is booked.
    pub fn void(&mut self) {
        self.open.progress.close();
        if let Some(permit) = self.end() {
            // Without a checkpoint there is no row to be taken out.
            if self.open.has_row() {
                let flown = &self.open.flown;
                permit.send(Command::Void(flown.request, flown.attempt));
            }
        }
    }

    async fn book(&mut self, charge: Charge) -> Result<(), Error> {
        let Some(permit) = self.end() else {
            return Ok(());
        };
        if self.open.lost.load(Ordering::Acquire) {
            return Err(Error::Lost);
        }
        let costs = (charge.state == State::Settled).then_some((charge.usage, charge.amount));
        let releases = self.releases(costs);
        let has_row = self.open.has_row();
        if self.ledger.keep(&charge) {
            self.metrics.ledger.pending.inc();
            let booking = Booking::kept((charge, has_row), releases);
            permit.send(Command::Book(Box::new(booking)));
            self.due = costs;
            self.spend();
            return Ok(());
        }
        let (ack, booked) = oneshot::channel();
        let booking = Booking::new((charge, has_row), releases, Some(ack));
        let forgiven = Arc::clone(&booking.forgiven);
        self.metrics.ledger.pending.inc();
        permit.send(Command::Book(Box::new(booking)));
        // Dropped while it waits, the charge stands all the same, unless it is for an answer that nobody has then.
        self.due = costs;
        let unseen = Unseen((self.paying == Paying::AtTheEnd).then(|| Arc::clone(&forgiven)));
        let done = match tokio::time::timeout(self.hold, booked).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(Error::Lost),
            Ok(Err(_)) | Err(_) => {
                forgiven.store(!self.delivered, Ordering::Release);
                Err(Error::LedgerDown)
            }
        };
        unseen.over();
        if done.is_err() && !self.delivered {
            self.due = None;
        }
        self.spend();
        done
    }

    fn releases(&self, costs: Option<(Usage, Money)>) -> Vec<Release> {
        match (&self.reserved, costs) {
            (Some(reserved), Some((usage, amount))) => reserved.releases(&usage, amount),
            _ => Vec::new(),
        }
    }

    /// Of what was reserved, that much is gone for good; the rest is given back.
    fn spend(&mut self) {
        if let (Some(mut reserved), Some((usage, amount))) = (self.reserved.take(), self.due.take())
        {
            reserved.settle(usage, amount);
        }
    }

    fn charge(&self, usage: Usage, amount: Money, state: State, outcome: Outcome) -> Charge {
        Charge {
            event_id: Uuid::now_v7(),
            flown: Arc::clone(&self.open.flown),
            usage,
            amount,
            state,
            source: if self.open.progress.is_guessed() {
                Source::Counted
            } else {
                Source::Engine
            },
            outcome,
            first_token: self.open.first_token(),
            ended: Timestamp::now(),
        }
    }

    fn close(&self) -> Usage {
        usage_of(self.open.progress.close())
    }

    /// Takes the flight out of the air. `None` when it was already.
    fn end(&mut self) -> Option<mpsc::OwnedPermit<Command>> {
        let permit = self.permit.take()?;
        self.flights.remove(&self.open);
        self.metrics.ledger.open.dec();
        Some(permit)
    }
}

impl Drop for Flight {
    /// The client went. It pays the prompt and what was generated until now, unless it pays at the end alone; a prompt that
    /// no worker has taken on costs nothing.
    fn drop(&mut self) {
        if self.permit.is_none() {
            return self.spend();
        }
        let usage = self.close();
        if self.open.lost.load(Ordering::Acquire) {
            self.end();
            return;
        }
        if usage == Usage::default() {
            return self.void();
        }
        let (amount, state) = match self.paying {
            Paying::AsItGoes => (self.open.flown.price.amount(&usage), State::Settled),
            Paying::AtTheEnd | Paying::Already => (Money(0), State::Absorbed),
        };
        let costs = (state == State::Settled).then_some((usage, amount));
        let releases = self.releases(costs);
        self.due = costs;
        self.spend();
        let charge = self.charge(usage, amount, state, Outcome::Cancelled);
        if let Some(permit) = self.end() {
            self.metrics.ledger.pending.inc();
            let kept = self.ledger.keep(&charge);
            let charge = (charge, self.open.has_row());
            let booking = if kept {
                Booking::kept(charge, releases)
            } else {
                Booking::new(charge, releases, None)
            };
            permit.send(Command::Book(Box::new(booking)));
        }
    }
}

impl Open {
    fn first_token(&self) -> Option<Timestamp> {
        match self.first_token_ms.load(Ordering::Relaxed) {
            NONE => None,
            milliseconds => Timestamp::from_millisecond(milliseconds).ok(),
        }
    }

    /// Whether there is, or may be, an `in_flight` row: for good once the attempt is out of the list of flights.
    fn has_row(&self) -> bool {
        self.checkpoint_ms.load(Ordering::Acquire) != NONE
    }

    fn key(&self) -> (RequestId, u32) {
        (self.flown.request, self.flown.attempt)
    }
}

impl Flights {
    fn insert(&self, open: &Arc<Open>) {
        self.open.insert(open.key(), Arc::clone(open));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self, open: &Open) {
        self.open.remove(&open.key());
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives up the attempts that have an `in_flight` row, since others booked them from it: their workers are
    /// told to stop. Gives their number.
    pub(super) fn lose(&self) -> usize {
        let known = self
            .open
            .iter()
            .filter(|entry| entry.checkpoint_ms.load(Ordering::Relaxed) != NONE);
        known
            .map(|entry| {
                entry.lost.store(true, Ordering::Release);
                entry.progress.close();
            })
            .count()
    }

    /// The age of the oldest checkpoint, in seconds; what has none is as old as it is.
    pub(super) fn oldest(&self, now: Timestamp) -> f64 {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0.0;
        }
        let age = |open: &Open| match open.checkpoint_ms.load(Ordering::Relaxed) {
            NONE => now.duration_since(open.flown.started).as_secs_f64(),
            #[expect(clippy::cast_precision_loss, reason = "it is a difference of times")]
            taken => (now.as_millisecond() - taken) as f64 / 1000.0,
        };
        self.open
            .iter()
            .filter(|entry| entry.recovers)
            .map(|entry| age(entry.value()))
            .fold(0.0, f64::max)
    }

    /// The attempts whose `in_flight` row is missing or older than a second, as they stand now.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Checkpoint> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let now_ms = now.as_millisecond();
        self.open
            .iter()
            .filter(|entry| {
                let last = entry.checkpoint_ms.load(Ordering::Relaxed);
                let due = last == NONE || now_ms - last >= REFRESH_MS;
                due && entry.recovers && !entry.lost.load(Ordering::Relaxed)
            })
            .map(|entry| {
                entry.checkpoint_ms.store(now_ms, Ordering::Relaxed);
                Checkpoint {
                    flown: Arc::clone(&entry.flown),
                    usage: usage_of(entry.progress.read()),
                    first_token: entry.first_token(),
                }
            })
            .collect()
    }
}

fn usage_of(count: crate::types::Count) -> Usage {
    Usage {
        prompt_tokens: count.prompt_tokens,
        cached_tokens: count.cached_tokens,
        completion_tokens: count.completion_tokens,
        reasoning_tokens: 0,
    }
}
