//! One attempt, until its first event: from then on nobody else can take over without the client noticing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use super::Served;
use super::tries::Failed;
use crate::metering::{Flight, Meter};
use crate::scheduler::Slot;
use crate::types::{Event, Events, Failure, Job, Outcome};

type First = Pin<Box<dyn Future<Output = Result<(Event, Events), Failure>> + Send>>;

/// An attempt whose first event is waited for. Dropped, it cancels the worker first, and then books what was spent.
pub(super) struct Attempt {
    first: First,
    flight: Flight,
    served: Served,
    arrived: Instant,
}

/// The second of two attempts. Whoever hangs up while both run pays for the first.
struct Spare(Option<Attempt>);

impl Spare {
    async fn first(&mut self) -> Option<Result<(Event, Events), Failure>> {
        Some(self.0.as_mut()?.first.as_mut().await)
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(attempt) = self.0.take() {
            drop(attempt.first);
            // Nothing was reserved for it.
            let _none = attempt.flight.give_up(Some(Outcome::Cancelled));
        }
    }
}

impl Attempt {
    pub(super) fn start(
        slot: Slot,
        job: Job,
        flight: Flight,
        served: Served,
        arrived: Instant,
    ) -> Self {
        let progress = flight.progress();
        let first = async move {
            let mut events = slot.generate(job, progress).await?;
            match events.next().await {
                Some(Ok(event)) => Ok((event, events)),
                Some(Err(failure)) => Err(failure),
                None => Err(Failure::Broken("it gave no answer".into())),
            }
        };
        Self {
            first: Box::pin(first),
            flight,
            served,
            arrived,
        }
    }

    pub(super) fn worker(&self) -> &Arc<str> {
        &self.served.worker
    }

    /// Waits for its first event.
    pub(super) async fn finish(mut self) -> Result<(Served, Meter), Failed> {
        let first = self.first.as_mut().await;
        self.end(first)
    }

    /// Waits for it no longer than this. `None` where it hasn't come.
    pub(super) async fn finish_within(
        mut self,
        time: Duration,
    ) -> Result<Result<(Served, Meter), Failed>, Self> {
        match tokio::time::timeout(time, self.first.as_mut()).await {
            Ok(first) => Ok(self.end(first)),
            Err(_) => Err(self),
        }
    }

    /// Whichever has its first event first goes on; the other one is cancelled, and costs nothing. One that fails leaves
    /// it to the other.
    pub(super) async fn race(mut self, other: Self) -> Result<(Served, Meter), Failed> {
        let mut spare = Spare(Some(other));
        let (own, first) = tokio::select! {
            first = self.first.as_mut() => (true, first),
            Some(first) = spare.first() => (false, first),
        };
        let Some(other) = spare.0.take() else {
            return self.finish().await;
        };
        let (mut winner, loser) = if own { (self, other) } else { (other, self) };
        match first {
            Ok(first) => {
                winner.take_over(loser, Outcome::Cancelled);
                winner.end(Ok(first))
            }
            Err(failure) => {
                let mut left = loser;
                tracing::warn!(
                    worker = &**winner.worker(),
                    error = failure.told(),
                    "an attempt failed, and another one runs"
                );
                left.take_over(winner, Outcome::Failed);
                left.finish().await
            }
        }
    }

    /// The other one ends here, and what was reserved for it is now this one's.
    fn take_over(&mut self, other: Self, outcome: Outcome) {
        drop(other.first);
        if let Some(reserved) = other.flight.give_up(Some(outcome)) {
            self.flight.reserve(reserved);
        }
    }

    fn end(self, first: Result<(Event, Events), Failure>) -> Result<(Served, Meter), Failed> {
        match first {
            Ok((event, events)) => {
                let meter = Meter::begun(event, events, self.flight, self.arrived);
                Ok((self.served, meter))
            }
            Err(failure) => Err(Failed::Worker(
                Box::new(self.flight),
                failure,
                self.served.worker,
            )),
        }
    }
}
