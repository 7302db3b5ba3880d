use super::resume::Resuming;
use crate::metering::{Broke, Error, Meter};
use crate::types::{Event, Failure};

/// An answer under way, metered. Its last event comes only once the charge is on disk.
///
/// Dropped before its end, it cancels the worker and books what was generated until then.
pub struct Answer {
    /// Gone after an error.
    meter: Option<Meter>,
    /// Where another worker may go on with it.
    resuming: Option<Resuming>,
    delivers: bool,
}

impl From<Meter> for Answer {
    /// One that nobody else could go on with.
    fn from(meter: Meter) -> Self {
        Self::new(meter, None)
    }
}

impl Answer {
    pub(super) fn new(meter: Meter, resuming: Option<Resuming>) -> Self {
        Self {
            meter: Some(meter),
            resuming,
            delivers: false,
        }
    }

    /// From now on the events go out as they come, and what has gone out is paid.
    pub fn delivers(&mut self) {
        self.delivers = true;
        if let Some(meter) = &mut self.meter {
            meter.delivers();
        }
    }

    /// The next event; `None` after the end or an error.
    ///
    /// # Errors
    /// The worker broke and nobody could go on (what it gave is absorbed), the request can't be run (nothing is booked), or
    /// the charge could not be put on disk in time.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            let failure = match self.meter.as_mut()?.advance().await? {
                Ok(event) => {
                    self.remember(&event);
                    return Some(Ok(event));
                }
                Err(Broke::Ledger(error)) => {
                    self.meter = None;
                    return Some(Err(error));
                }
                Err(Broke::Worker(failure)) => failure,
            };
            let meter = self.meter.take()?;
            // It is large and rare, and every stream would keep the room for it.
            match Box::pin(self.go_on(meter, failure)).await {
                Ok(meter) => self.meter = Some(meter),
                Err(error) => return Some(Err(error)),
            }
            if self.delivers {
                self.delivers();
            }
        }
    }

    fn remember(&mut self, event: &Event) {
        let Some(resuming) = &mut self.resuming else {
            return;
        };
        match event {
            Event::Relay {
                text: Some(text), ..
            } => resuming.remember(text),
            // From here on nobody else could go on with it.
            Event::Relay { text: None, .. } | Event::Delta(_) => self.resuming = None,
            Event::Finish { .. } | Event::End { .. } => {}
        }
    }

    async fn go_on(&mut self, meter: Meter, failure: Failure) -> Result<Meter, Error> {
        match &mut self.resuming {
            Some(resuming) if matches!(failure, Failure::Broken(_)) => {
                resuming.go_on(meter, failure).await
            }
            _ => Err(meter.into_flight().fail(failure).await),
        }
    }
}
