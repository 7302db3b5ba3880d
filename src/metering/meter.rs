use std::time::Instant;

use futures_util::StreamExt;

use super::{Error, Flight};
use crate::types::{Event, Events, Failure};

/// An answer under way, metered. Its last event comes only once the charge is on disk.
///
/// Dropped before its end, it cancels the worker and books what was generated until then.
pub struct Meter {
    /// Gone once the worker has nothing more to say, and with it the slot.
    events: Option<Events>,
    flight: Flight,
    arrived: Instant,
    /// Taken off the stream before anybody asked for it.
    first: Option<Event>,
}

impl Meter {
    /// Meters a worker's events. `arrived` is when the request came, for the time to first token.
    #[must_use]
    pub fn new(events: Events, flight: Flight, arrived: Instant) -> Self {
        Self {
            events: Some(events),
            flight,
            arrived,
            first: None,
        }
    }

    /// From now on the events go out as they come, and what has gone out is paid.
    pub fn delivers(&mut self) {
        self.flight.delivers();
    }

    /// An attempt whose first event has come.
    #[must_use]
    pub fn begun(first: Event, events: Events, flight: Flight, arrived: Instant) -> Self {
        let mut meter = Self::new(events, flight, arrived);
        meter.first = Some(first);
        meter
    }

    /// Without its worker's events, which are cancelled.
    #[must_use]
    pub fn into_flight(self) -> Flight {
        drop(self.events);
        self.flight
    }

    /// The next event; `None` after the end or an error.
    ///
    /// # Errors
    /// The worker broke (what it gave is absorbed), the request can't be run (nothing is booked), or the
    /// charge could not be put on disk in time.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        match self.advance().await? {
            Ok(event) => Some(Ok(event)),
            Err(Broke::Ledger(error)) => Some(Err(error)),
            Err(Broke::Worker(failure)) => {
                self.events = None;
                Some(Err(self.flight.fail(failure).await))
            }
        }
    }

    /// As [`Meter::next`], but a failure of the worker is not booked yet: another one may go on.
    ///
    /// # Errors
    /// The worker broke, or the charge could not be put on disk in time.
    pub async fn advance(&mut self) -> Option<Result<Event, Broke>> {
        let event = match self.first.take() {
            Some(event) => event,
            None => match self.events.as_mut()?.next().await {
                Some(Ok(event)) => event,
                Some(Err(failure)) => return Some(Err(Broke::Worker(failure))),
                None => {
                    let failure = Failure::Broken("its answer has no end".into());
                    return Some(Err(Broke::Worker(failure)));
                }
            },
        };
        match event {
            Event::Delta(_) | Event::Relay { .. } => {
                if self.flight.first_token() {
                    self.flight.observe_first_token(self.arrived.elapsed());
                }
            }
            Event::Finish { .. } => {}
            Event::End { usage } => {
                // The slot is free for the next while this one's charge is written.
                self.events = None;
                if let Err(error) = self.flight.settle(usage).await {
                    return Some(Err(Broke::Ledger(error)));
                }
            }
        }
        Some(Ok(event))
    }
}

/// Why an answer does not go on.
#[derive(Debug)]
pub enum Broke {
    /// The worker failed. The flight is still open.
    Worker(Failure),
    /// The charge does not stand.
    Ledger(Error),
}
