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
    /// It is to tell whether the worker still fails.
    trial: bool,
    /// The worker has taken it on.
    ran: bool,
    /// Tokens of the answer that another worker made.
    carried: u32,
    busy: IntGauge,
}

impl Hold {
    pub(super) fn new(
        member: Arc<Member>,
        room: Room,
        trial: bool,
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
            trial,
            ran: false,
            carried: 0,
            busy,
        }
    }

    /// The worker is asked, maybe to go on with an answer of so many tokens.
    pub(super) fn runs(&mut self, carried: u32) {
        self.ran = true;
        self.carried = carried;
    }

    /// Brings the tenant's counter to what has been done by now.
    pub(super) fn count(&mut self, progress: &Progress) {
        let count = progress.read();
        let prompt = match count.prompt_tokens {
            0 => self.guess,
            tokens => fair::PROMPT * i64::from(tokens),
        };
        let done = prompt
            + fair::COMPLETION * i64::from(count.completion_tokens.saturating_sub(self.carried));
        if done != self.counted {
            self.share.add(done - self.counted);
            self.counted = done;
        }
    }

    /// Something of the answer has come: its first token, or all of it.
    pub(super) fn answers(&mut self, whole: bool) {
        if self.outcome != Outcome::Unknown {
            return;
        }
        self.outcome = Outcome::Answered((!whole).then(|| self.started.elapsed()));
        if std::mem::take(&mut self.trial) {
            self.member.answers_again();
        }
    }

    pub(super) fn fails(&mut self, failure: &Failure) {
        self.outcome = Outcome::of(failure);
        self.ran &= !failure.is_refusal();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.busy.dec();
        if !self.ran {
            // Nothing was done for its tenant.
            self.share.add(-self.counted);
        }
        self.member.release(self.room, self.trial, self.outcome);
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
                Ok(Event::Relay { ends: true, .. }) => held.hold.answers(true),
                Ok(_) => held.hold.answers(false),
                Err(failure) => held.hold.fails(failure),
            }
            held.hold.count(&held.progress);
        }
        event
    }
}
