use std::cell::Cell;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::types::{Delta, Event, Failure, Finish, Progress, Usage};

/// Events of one choice in one step at most, without what was drafted: the prompt's echo, a token's thought and text, those
/// that were kept back until the end, and the end.
const EVENTS_PER_CHOICE: u32 = 6;
/// Events that may wait for a slow reader; then its choices pause.
const EVENTS: usize = 64;

pub(super) type Sender = mpsc::Sender<Result<Event, Failure>>;

/// A channel with room for `choices` that all end in one step.
pub(super) fn channel(choices: u32) -> (Sender, mpsc::Receiver<Result<Event, Failure>>) {
    mpsc::channel(EVENTS + room(choices))
}

fn room(choices: u32) -> usize {
    (choices * EVENTS_PER_CHOICE + 1) as usize
}

/// What all choices of one request share: their reader, and the counts.
pub(super) struct Answer {
    events: Sender,
    progress: Arc<Progress>,
    /// Choices that have not come to their end.
    open: Cell<u32>,
    room: usize,
    usage: Cell<Usage>,
}

impl Answer {
    pub(super) fn new(events: Sender, progress: Arc<Progress>, choices: u32) -> Self {
        Self {
            events,
            progress,
            open: Cell::new(choices),
            room: room(choices),
            usage: Cell::default(),
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed() || self.progress.is_closed()
    }

    /// Whether the reader keeps up: there is room for whatever one step can bring, without drafts.
    pub(super) fn has_room(&self) -> bool {
        self.events.capacity() >= self.room
    }

    /// Tokens that one step may bring beside the usual one.
    pub(super) fn spare(&self) -> usize {
        if self.open.get() > 1 {
            return 0;
        }
        self.events.capacity().saturating_sub(self.room)
    }

    /// Takes on a prompt. False when nobody waits for it any more.
    pub(super) fn start(&self, prompt_tokens: u32, cached_tokens: u32) -> bool {
        if !self.progress.start_cached(prompt_tokens, cached_tokens) {
            return false;
        }
        self.count(|usage| {
            usage.prompt_tokens += prompt_tokens;
            usage.cached_tokens += cached_tokens;
        });
        true
    }

    /// Counts a generated token. False when the reader went in this very step.
    pub(super) fn advance(&self, thinks: bool) -> bool {
        if !self.progress.advance() {
            return false;
        }
        self.count(|usage| {
            usage.completion_tokens += 1;
            usage.reasoning_tokens += u32::from(thinks);
        });
        true
    }

    pub(super) fn tell(&self, delta: Delta) {
        let says = !delta.text.is_empty() || !delta.thought.is_empty();
        if says || !delta.calls.is_empty() || !delta.logprobs.is_empty() {
            self.send(Ok(Event::Delta(delta)));
        }
    }

    /// One choice has come to its end; with the last of them the whole answer has.
    pub(super) fn finish(&self, choice: u32, finish: Finish) {
        self.send(Ok(Event::Finish { choice, finish }));
        self.open.set(self.open.get().saturating_sub(1));
        if self.open.get() == 0 {
            self.send(Ok(Event::End {
                usage: self.usage.get(),
            }));
        }
    }

    /// The whole answer has failed, its other choices too.
    pub(super) fn fail(&self, failure: Failure) {
        self.send(Err(failure));
        self.progress.close();
    }

    fn count(&self, add: impl FnOnce(&mut Usage)) {
        let mut usage = self.usage.get();
        add(&mut usage);
        self.usage.set(usage);
    }

    fn send(&self, event: Result<Event, Failure>) {
        // There is room: no sequence takes part in a step without. A reader that went is noticed by the loop.
        let _gone = self.events.try_send(event);
    }
}
