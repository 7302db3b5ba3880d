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

    /// Waits for the first event of an attempt, so that what fails before it can be tried again, or refused as a whole.
    ///
    /// # Errors
    /// The worker broke, or can't run it. Nothing of it is booked yet.
    pub async fn begin(
        mut events: Events,
        flight: Flight,
        arrived: Instant,
    ) -> Result<Self, (Flight, Failure)> {
        let first = match events.next().await {
            Some(Ok(event)) => event,
            Some(Err(failure)) => return Err((flight, failure)),
            None => return Err((flight, Failure::Broken("it gave no answer".into()))),
        };
        let mut meter = Self::new(events, flight, arrived);
        meter.first = Some(first);
        Ok(meter)
    }

    /// The next event; `None` after the end or an error.
    ///
    /// # Errors
    /// The worker broke (what it gave is absorbed), the request can't be run (nothing is booked), or the
    /// charge could not be put on disk in time.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        let event = match self.first.take() {
            Some(event) => event,
            None => match self.events.as_mut()?.next().await {
                Some(Ok(event)) => event,
                Some(Err(failure)) => return Some(Err(self.fail(failure).await)),
                None => {
                    let failure = Failure::Broken("its answer has no end".into());
                    return Some(Err(self.fail(failure).await));
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
                    return Some(Err(error));
                }
            }
        }
        Some(Ok(event))
    }

    async fn fail(&mut self, failure: Failure) -> Error {
        self.events = None;
        self.flight.fail(failure).await
    }
}
