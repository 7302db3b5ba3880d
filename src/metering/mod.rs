//! Counts what each attempt takes and books it: exactly one charge for each, whatever happens.
//!
//! A [`Flight`] is one attempt under way. It ends in one of four ways, and each leaves what the ledger
//! needs: [`Flight::settle`] (the whole answer), [`Flight::absorb`] (the worker broke), [`Flight::void`]
//! (nothing ran), or a plain drop (the client went). A [`Meter`] is a stream of events with its flight.

mod audit;
mod flight;
mod lease;
mod meter;
mod reaper;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use audit::audit;
pub use flight::Flight;
pub use meter::{Broke, Meter};

use crate::telemetry::Metrics;
use crate::types::{Failure, Flown, Ledger, Membership, Paying, Reserved};
use flight::Flights;
use lease::Lease;
pub use reaper::reap;
use writer::{Command, Writer};

/// How the writer works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Attempts that may be open at once.
    pub max_open: usize,
    /// How long the end of an answer waits for its commit.
    pub hold: Duration,
    /// How long this replica may be silent before others book what it has in flight; never, where it is alone.
    pub lease: Option<Duration>,
}

/// Why an answer can't be metered, or did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store takes no commits: nothing is started that could not be booked.
    #[error("the ledger is not available")]
    LedgerDown,
    /// This replica was silent for too long, and others booked the answer as far as it had come.
    #[error(
        "this server was cut off from the ledger; the answer is charged as far as it had come by then"
    )]
    Lost,
    /// As many attempts are open as may be.
    #[error("too many requests are open")]
    TooManyOpen,
    /// The worker broke, or the request can't be run.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// The way into the ledger. Clones share one writer.
#[derive(Clone)]
pub struct Metering {
    commands: mpsc::Sender<Command>,
    flights: Arc<Flights>,
    ledger: Arc<dyn Ledger>,
    lease: Arc<Lease>,
    hold: Duration,
    metrics: Arc<Metrics>,
}

/// The right to one attempt: its place in the writer's queue is taken, so that booking never waits.
pub struct Admission(mpsc::OwnedPermit<Command>);

impl Metering {
    /// Starts the writer of a replica that has joined. It ends, with everything booked, once the last clone and
    /// the last flight are gone.
    pub fn start(
        ledger: Arc<dyn Ledger>,
        membership: Arc<Membership>,
        metrics: Arc<Metrics>,
        options: &Options,
    ) -> (Self, JoinHandle<()>) {
        let (commands, queue) = mpsc::channel(options.max_open);
        let flights = Arc::new(Flights::default());
        let lease = Arc::new(Lease::new(options.lease));
        let writer = Writer::new(
            Arc::clone(&ledger),
            membership,
            Arc::clone(&lease),
            queue,
            Arc::clone(&flights),
            Arc::clone(&metrics),
        );
        metrics.ledger.store_up.set(1);
        let metering = Self {
            commands,
            flights,
            ledger,
            lease,
            hold: options.hold,
            metrics,
        };
        (metering, tokio::spawn(writer.run()))
    }

    /// Takes the place in the writer's queue that the attempt's charge will need.
    ///
    /// # Errors
    /// The store is down, or too many attempts are open.
    pub fn admit(&self) -> Result<Admission, Error> {
        if self.metrics.ledger.store_up.get() == 0 || !self.lease.holds() {
            return Err(Error::LedgerDown);
        }
        match self.commands.clone().try_reserve_owned() {
            Ok(permit) => Ok(Admission(permit)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::TooManyOpen),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::LedgerDown),
        }
    }

    /// An attempt goes to its worker: from now on it is in flight.
    pub fn dispatch(
        &self,
        admission: Admission,
        flown: Flown,
        paying: Paying,
        reserved: Option<Box<dyn Reserved>>,
    ) -> Flight {
        Flight::new(self, admission, flown, paying, reserved)
    }
}
