//! An answer under way, which may go on with another worker where its own fails.

use std::sync::Arc;
use std::time::Instant;

use super::tries::Tries;
use super::{Ask, Gateway};
use crate::metering::{Broke, Error, Meter};
use crate::types::{Event, Failure, Generate, Resume};

/// An answer under way, metered. Its last event comes only once the charge is on disk.
///
/// Dropped before its end, it cancels the worker and books what was generated until then.
pub struct Answer {
    meter: Option<Meter>,
    resuming: Option<Resuming>,
    delivers: bool,
}

/// What it takes to go on elsewhere.
pub(super) struct Resuming {
    pub(super) gateway: Arc<Gateway>,
    pub(super) ask: Ask<Arc<Generate>>,
    pub(super) tries: Tries,
    /// The answer's text so far.
    pub(super) text: String,
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
            let meter = self.meter.as_mut()?;
            match meter.advance().await? {
                Ok(event) => {
                    self.remember(&event);
                    return Some(Ok(event));
                }
                Err(Broke::Ledger(error)) => {
                    self.meter = None;
                    return Some(Err(error));
                }
                Err(Broke::Worker(failure)) => {
                    let meter = self.meter.take()?;
                    match self.go_on(meter, failure).await {
                        Ok(mut meter) => {
                            if self.delivers {
                                meter.delivers();
                            }
                            self.meter = Some(meter);
                        }
                        Err(error) => return Some(Err(error)),
                    }
                }
            }
        }
    }

    fn remember(&mut self, event: &Event) {
        if let (Some(resuming), Event::Relay { text, .. }) = (&mut self.resuming, event) {
            resuming.text.push_str(text);
        }
    }

    async fn go_on(&mut self, meter: Meter, failure: Failure) -> Result<Meter, Error> {
        let can = matches!(failure, Failure::Broken(_));
        match &mut self.resuming {
            Some(resuming) if can && !resuming.text.is_empty() => resuming.go_on(meter, failure).await,
            _ => Err(meter.into_flight().fail(failure).await),
        }
    }
}

impl Resuming {
    /// Another worker takes the text so far as the begin of its answer. What the one that failed had counted is carried over,
    /// and paid once.
    async fn go_on(&mut self, meter: Meter, failure: Failure) -> Result<Meter, Error> {
        let flight = meter.into_flight();
        let worker = Arc::clone(&flight.flown().worker);
        let resume = Resume {
            text: self.text.clone(),
            tokens: flight.progress().read().completion_tokens,
        };
        let gateway = Arc::clone(&self.gateway);
        let workers = gateway.scheduler.workers(self.tries.plan());
        if !self.tries.may_resume(&worker, workers) {
            let mut flight = flight;
            return Err(flight.fail(failure).await);
        }
        tracing::warn!(worker = &*worker, error = %failure.told(), "a stream goes on elsewhere");
        self.tries.resume(flight, resume);
        let _ = Instant::now();
        let attempt = gateway.try_generate(&self.ask, &mut self.tries).await;
        match attempt {
            Ok((_, meter)) => Ok(meter),
            Err(failed) => Err(failed.told().await),
        }
    }
}
