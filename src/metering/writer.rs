use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::flight::Flights;
use super::lease::Lease;
use crate::telemetry::Metrics;
use crate::types::{
    Charge, Ledger, LedgerBatch, Membership, Money, Outcome, Release, RequestId, State, StoreError,
};

/// How soon a new attempt gets its `in_flight` row, at the latest.
const TICK: Duration = Duration::from_millis(250);
const MAX_BATCH: usize = 1024;
/// Charges that survive this process already, and that nobody waits for, gather for so long: many cost the database little more
/// than one.
const GATHER: Duration = Duration::from_millis(20);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// A commit that takes longer is tried again, its outcome unknown.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the flights ask of the writer.
pub(super) enum Command {
    /// A charge is to be booked.
    Book(Box<Booking>),
    /// Nothing is to be booked for this attempt.
    Void(RequestId, u32),
}

impl Command {
    /// Whether it loses nothing by waiting.
    fn is_kept(&self) -> bool {
        matches!(self, Self::Book(booking) if booking.kept)
    }
}

/// A charge on its way to the ledger.
pub(super) struct Booking {
    charge: Charge,
    since: Instant,
    /// The answer waits for it, if there is one. It is told whether the charge stands, or another in its place.
    ack: Option<oneshot::Sender<bool>>,
    /// Set once the client was told that there is no answer: it doesn't pay. A commit that is on its way at
    /// that very moment may still book it.
    pub(super) forgiven: Arc<AtomicBool>,
    /// What it takes off this replica's slices of limits.
    releases: Vec<Release>,
    /// It survives this process already.
    kept: bool,
    /// There is, or may be, an `in_flight` row of its attempt.
    has_row: bool,
}

impl Booking {
    pub(super) fn new(
        (charge, has_row): (Charge, bool),
        releases: Vec<Release>,
        ack: Option<oneshot::Sender<bool>>,
    ) -> Self {
        Self {
            charge,
            has_row,
            since: Instant::now(),
            releases,
            ack,
            forgiven: Arc::default(),
            kept: false,
        }
    }

    /// One that the ledger keeps already, so that nobody waits for its commit.
    pub(super) fn kept(charge: (Charge, bool), releases: Vec<Release>) -> Self {
        Self {
            kept: true,
            ..Self::new(charge, releases, None)
        }
    }
}

/// The one task that writes to the ledger.
///
/// It commits whatever has gathered while the last commit ran, and lingers for no more where anybody waits: alone a charge
/// waits for one commit, in a crowd many share it.
pub(super) struct Writer {
    ledger: Arc<dyn Ledger>,
    membership: Arc<Membership>,
    lease: Arc<Lease>,
    queue: mpsc::Receiver<Command>,
    flights: Arc<Flights>,
    metrics: Arc<Metrics>,
}

impl Writer {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        membership: Arc<Membership>,
        lease: Arc<Lease>,
        queue: mpsc::Receiver<Command>,
        flights: Arc<Flights>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            ledger,
            membership,
            lease,
            queue,
            flights,
            metrics,
        }
    }

    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut commands = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                count = self.queue.recv_many(&mut commands, MAX_BATCH) => {
                    if count == 0 {
                        return self.leave().await;
                    }
                    self.gather(&mut commands).await;
                }
                _ = tick.tick() => {}
            }
            self.commit(&mut commands).await;
        }
    }

    /// Where nobody waits for what there is, more may come. It is not listened for: to be woken by each costs its
    /// request as much as all the rest of its booking.
    async fn gather(&mut self, commands: &mut Vec<Command>) {
        if commands.len() == MAX_BATCH || !commands.iter().all(Command::is_kept) {
            return;
        }
        tokio::time::sleep(GATHER).await;
        while commands.len() < MAX_BATCH
            && let Ok(command) = self.queue.try_recv()
        {
            commands.push(command);
        }
    }

    async fn commit(&mut self, commands: &mut Vec<Command>) {
        let now = Timestamp::now();
        self.metrics
            .ledger
            .checkpoint_age
            .set(self.flights.oldest(now));
        let mut batch = LedgerBatch {
            checkpoints: self.flights.due(now),
            ..LedgerBatch::default()
        };
        let (mut waiting, mut forgiven) = (Vec::new(), Vec::new());
        for command in commands.drain(..) {
            match command {
                Command::Book(booking) => {
                    let event = booking.charge.event_id;
                    if booking.has_row {
                        let flown = &booking.charge.flown;
                        batch.ended.push((flown.request, flown.attempt));
                    }
                    batch.charges.push(booking.charge);
                    let releases = booking.releases.into_iter();
                    batch
                        .releases
                        .extend(releases.map(|release| (event, release)));
                    forgiven.push(booking.forgiven);
                    waiting.push((booking.ack, booking.since));
                }
                Command::Void(request, attempt) => batch.ended.push((request, attempt)),
            }
        }
        if batch.is_empty() && !self.lease.beat_is_due() {
            return;
        }
        let others = self.commit_until_it_stands(&mut batch, &forgiven).await;
        for (charge, (ack, since)) in batch.charges.iter().zip(waiting) {
            let stands = !others.contains(&charge.event_id);
            if stands {
                self.metrics.booked(charge);
            } else {
                self.metrics.ledger.conflicts.inc();
            }
            self.metrics.ledger.pending.dec();
            self.metrics
                .ledger
                .settle_seconds
                .observe(since.elapsed().as_secs_f64());
            // Whoever waited may have gone; the charge stands.
            let _gone = ack.map(|ack| ack.send(stands));
        }
    }

    /// Money is never given up: the same batch is tried until the store takes it. Gives the charges in whose
    /// place another one stands.
    async fn commit_until_it_stands(
        &mut self,
        batch: &mut LedgerBatch,
        forgiven: &[Arc<AtomicBool>],
    ) -> Vec<Uuid> {
        let mut pause = FIRST_RETRY;
        let others = loop {
            for (charge, forgiven) in batch.charges.iter_mut().zip(forgiven) {
                if forgiven.load(Ordering::Acquire) {
                    charge.amount = Money(0);
                    charge.state = State::Absorbed;
                    charge.outcome = Outcome::Failed;
                }
            }
            let start = Instant::now();
            let replica = self.membership.now();
            let commit = self.ledger.commit(&replica, batch);
            let done = tokio::time::timeout(COMMIT_TIMEOUT, commit)
                .await
                .unwrap_or_else(|late| Err(StoreError::Unavailable(late.into())));
            self.metrics
                .ledger
                .commit_seconds
                .observe(start.elapsed().as_secs_f64());
            match done {
                Ok(others) => {
                    self.lease.renewed(start);
                    break others;
                }
                Err(StoreError::Fenced) => {
                    self.join_anew(batch).await;
                    continue;
                }
                Err(error) => self.complain(&error, pause),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        };
        if self.metrics.ledger.store_up.get() == 0 {
            tracing::info!("the ledger's store takes commits again");
        }
        self.metrics.ledger.store_up.set(1);
        self.metrics.ledger.commits.inc();
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds since 1970 fit a double"
        )]
        self.metrics
            .ledger
            .last_commit
            .set(Timestamp::now().as_millisecond() as f64 / 1000.0);
        others
    }

    /// Others took this replica for dead and booked what it had in flight. It lives on under another id; charges
    /// on their way are tried again, and those that others booked are found out by that.
    async fn join_anew(&mut self, batch: &mut LedgerBatch) {
        let lost = self.flights.lose();
        batch.checkpoints.clear();
        self.metrics.ledger.fenced.inc();
        tracing::error!(
            lost,
            "this replica was taken for dead: others booked what it had in flight"
        );
        if let Err(error) = self.ledger.join(&self.membership.renew()).await {
            self.complain(&error, LAST_RETRY);
            tokio::time::sleep(LAST_RETRY).await;
        }
    }

    /// Everything is booked, so nothing is left to recover. If this fails, a recovery finds nothing.
    async fn leave(&self) {
        if let Err(error) = self.ledger.leave(&self.membership.now().id).await {
            tracing::warn!(%error, "this replica could not sign off");
        }
    }

    fn complain(&self, error: &StoreError, pause: Duration) {
        self.metrics.ledger.commit_failures.inc();
        self.metrics.ledger.store_up.set(0);
        tracing::error!(%error, retry_ms = pause.as_millis() as u64, "the ledger could not commit");
    }
}
