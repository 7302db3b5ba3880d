use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::Stream;
use prometheus::IntGauge;

use super::fair::{self, Share};
use super::member::{Member, Outcome, Room};
use crate::types::{Event, Events, Failure, Progress};

/// A place on one worker, which is given back on drop.
pub(super) struct Hold {
    pub(super) member: Arc<Member>,
    room: Room,
    share: Share,
    /// What its tenant's counter has been raised by.
    counted: i64,
    /// Of that, the prompt, as long as only the sender's guess of it is known.
    guess: i64,
    started: Instant,
    outcome: Outcome,
    busy: IntGauge,
}

impl Hold {
    pub(super) fn new(
        member: Arc<Member>,
        room: Room,
        share: Share,
        cost: i64,
        busy: IntGauge,
    ) -> Self {
        busy.inc();
        Self {
            member,
            room,
            share,
            counted: cost,
            guess: cost,
            started: Instant::now(),
            outcome: Outcome::Unknown,
            busy,
        }
    }

    /// Brings the tenant's counter to what has been done by now.
    pub(super) fn count(&mut self, progress: &Progress) {
        let count = progress.read();
        let prompt = match count.prompt_tokens {
            0 => self.guess,
            tokens => fair::PROMPT * i64::from(tokens),
        };
        let done = prompt + fair::COMPLETION * i64::from(count.completion_tokens);
        if done != self.counted {
            self.share.add(done - self.counted);
            self.counted = done;
        }
    }

    pub(super) fn answers(&mut self) {
        if self.outcome == Outcome::Unknown {
            self.outcome = Outcome::Answered(self.started.elapsed());
        }
    }

    pub(super) fn fails(&mut self, failure: &Failure) {
        self.outcome = Outcome::of(failure);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.busy.dec();
        self.member.release(self.room, self.outcome);
    }
}

/// Events with the slot they run in. The stream goes first, so that the worker is told before its place
/// is given away.
pub(super) struct Held {
    events: Events,
    progress: Arc<Progress>,
    hold: Hold,
}

impl Held {
    pub(super) fn new(events: Events, progress: Arc<Progress>, hold: Hold) -> Self {
        Self {
            events,
            progress,
            hold,
        }
    }
}

impl Stream for Held {
    type Item = Result<Event, Failure>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let held = self.get_mut();
        let event = held.events.as_mut().poll_next(context);
        if let Poll::Ready(Some(event)) = &event {
            match event {
                Ok(_) => held.hold.answers(),
                Err(failure) => held.hold.fails(failure),
            }
            held.hold.count(&held.progress);
        }
        event
    }
}
