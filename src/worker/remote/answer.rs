//! An answer as it comes from a worker.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, Limited};

use super::Timeouts;
use super::chunk::{Chunk, Names, completed, ends, is_incomplete, usage_frame, whole};
use super::connections::Body;
use super::frames::Frames;
use crate::types::{Count, Event, Events, Failure, Progress, Usage};

/// A whole answer longer than this is a fault of the worker.
const LONGEST_BODY: usize = 64 << 20;

/// What an answer can be held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of the request.
    pub(super) request_bytes: usize,
    /// Choices that were asked for.
    pub(super) answers: u32,
    /// Tokens that one of them may have.
    pub(super) max_tokens: Option<u32>,
    /// Tokens of the answer that another worker made: here they are part of the prompt.
    pub(super) carried: u32,
}

/// Tokens that templates, tools and pictures may add to a prompt.
const BESIDE_THE_TEXT: u32 = 65_536;

impl Bounds {
    /// Whether a worker may have counted so. What it says is billed, so what can't be is not taken for true.
    fn allow(&self, told: Count, seen: u32) -> bool {
        let bytes = u32::try_from(self.request_bytes).unwrap_or(u32::MAX);
        let prompt = bytes.saturating_add(BESIDE_THE_TEXT);
        told.prompt_tokens <= prompt
            && told.cached_tokens <= told.prompt_tokens
            && (told.completion_tokens > 0 || seen == 0)
    }

    fn most(&self) -> Option<u32> {
        let each = self.max_tokens?;
        Some(each.saturating_mul(self.answers))
    }

    /// Whether an answer has all the tokens that it may have.
    fn is_cut(&self, progress: &Progress) -> bool {
        let made = progress.read().completion_tokens;
        self.answers == 1 && self.max_tokens.is_some_and(|most| made >= most)
    }

    /// Brings the count to what the worker says, where that may be.
    fn take(&self, progress: &Progress, told: Option<Count>, seen: u32) -> bool {
        match told {
            Some(told) if self.allow(told, seen) => {
                let most = self.most().unwrap_or(u32::MAX);
                progress.guess(false);
                progress.tell(Count {
                    prompt_tokens: told.prompt_tokens.saturating_sub(self.carried),
                    completion_tokens: told
                        .completion_tokens
                        .min(most)
                        .saturating_add(self.carried),
                    ..told
                })
            }
            _ => false,
        }
    }
}

fn usage(progress: &Progress) -> Usage {
    let count = progress.read();
    Usage {
        prompt_tokens: count.prompt_tokens,
        cached_tokens: count.cached_tokens,
        completion_tokens: count.completion_tokens,
        reasoning_tokens: 0,
    }
}

/// Reads a whole answer.
pub(super) async fn read_whole(
    body: Body,
    names: &Names,
    bounds: Bounds,
    progress: &Progress,
) -> Result<Events, Failure> {
    let body = Limited::new(body, LONGEST_BODY).collect().await;
    let body = body.map_err(|_| Failure::Broken("its answer broke off".into()))?;
    let (mut body, told) = whole(&body.to_bytes(), names)?;
    if !bounds.take(progress, told, 0) {
        // English has about four bytes a token.
        let tokens = u32::try_from(body.len() / 4).unwrap_or(u32::MAX);
        progress.advance_by(tokens.max(1).min(bounds.most().unwrap_or(u32::MAX)));
    }
    if is_incomplete(&body, told) {
        body = completed(body, usage(progress), bounds.is_cut(progress));
    }
    let events = [
        Event::Relay {
            frames: body.into(),
            ends: true,
            text: None,
        },
        Event::End {
            usage: usage(progress),
        },
    ];
    Ok(Box::pin(stream::iter(events.map(Ok))))
}

/// A stream that is being read.
pub(super) struct Reading {
    body: Body,
    frames: Frames,
    names: Names,
    shows_usage: bool,
    /// The answer's text is to be told.
    tells_text: bool,
    bounds: Bounds,
    progress: Arc<Progress>,
    timeouts: Timeouts,
    dispatched: Instant,
    /// When the last frame came.
    last: Instant,
    /// Text that was not told yet; `None` where there is more than text.
    text: Option<String>,
    /// Frames that held something that was generated.
    tokens: u32,
    /// How many choices it has begun with: none of them is left open.
    begun: u32,
    /// Choices that have ended.
    ended: BTreeSet<u32>,
    /// Their number, where a worker doesn't number them.
    ends: usize,
    /// Its end is told by HTTP, so that breaking off is no end.
    framed: bool,
    /// A tool was called.
    calls: bool,
    /// When the answer was begun, as the worker says.
    created: Option<i64>,
    /// The client was told of what was used.
    showed_usage: bool,
    /// What the worker said last of what was used.
    told: Option<Count>,
    /// Frames on their way to the client: they wait for the first token, since until then another worker may do it all.
    out: BytesMut,
    /// Frames that tell of an end.
    tail: BytesMut,
    ready: VecDeque<Result<Event, Failure>>,
    over: bool,
}

impl Reading {
    pub(super) fn new(
        (body, framed): (Body, bool),
        names: Names,
        (shows_usage, tells_text): (bool, bool),
        bounds: Bounds,
        progress: Arc<Progress>,
        timeouts: Timeouts,
        dispatched: Instant,
    ) -> Self {
        Self {
            body,
            frames: Frames::default(),
            names,
            shows_usage,
            tells_text,
            bounds,
            progress,
            timeouts,
            dispatched,
            last: dispatched,
            text: tells_text.then(String::new),
            tokens: 0,
            begun: 1,
            ended: BTreeSet::new(),
            ends: 0,
            framed,
            calls: false,
            created: None,
            showed_usage: false,
            told: None,
            out: BytesMut::new(),
            tail: BytesMut::new(),
            ready: VecDeque::new(),
            over: false,
        }
    }

    pub(super) fn events(self) -> Events {
        Box::pin(stream::unfold(self, async |mut reading| {
            let event = reading.next().await?;
            Some((event, reading))
        }))
    }

    async fn next(&mut self) -> Option<Result<Event, Failure>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match self.read().await {
                Ok(Some(bytes)) => self.take(&bytes),
                Ok(None) => self.end_of_body(),
                Err(failure) => self.fail(failure),
            }
        }
    }

    /// The next bytes; `None` at the end.
    async fn read(&mut self) -> Result<Option<Bytes>, Failure> {
        let late = |what: &str| Failure::Broken(format!("{what} did not come in time"));
        let age = self.dispatched.elapsed();
        let whole = self.timeouts.answer.saturating_sub(age);
        let (wait, what) = if self.tokens == 0 {
            let first = self.timeouts.first_token.saturating_sub(age);
            (first.min(whole), "its first token")
        } else {
            // Comments keep a connection alive, and say nothing of the answer.
            let next = left(self.timeouts.idle, self.last);
            (next.min(whole), "its next token")
        };
        loop {
            let frame = tokio::time::timeout(wait, self.body.frame()).await;
            match frame.map_err(|_| late(what))? {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(_)) => return Err(Failure::Broken("its answer broke off".into())),
                None => return Ok(None),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.frames.push(bytes).is_err() {
            return self.fail(Failure::Broken("it sent a frame without end".into()));
        }
        while !self.over
            && let Some(data) = self.frames.next()
        {
            if data.as_ref() == b"[DONE]" {
                self.end();
            } else if let Err(failure) = self.chunk(&data) {
                self.fail(failure);
            }
        }
        if self.tokens > 0 {
            self.flush();
        }
    }

    fn chunk(&mut self, data: &[u8]) -> Result<(), Failure> {
        let chunk = Chunk::read(data, &self.names, self.shows_usage)?;
        self.last = Instant::now();
        if chunk.has_token {
            self.tokens += 1;
            self.progress.advance();
        }
        if let Some(told) = chunk.usage {
            if chunk.is_usage || self.bounds.answers == 1 {
                self.told = Some(told);
            }
            // So far, and of one choice: what comes later is told later.
            if !chunk.is_usage && self.bounds.answers == 1 {
                self.bounds.take(&self.progress, Some(told), self.tokens);
            }
        }
        self.created = self.created.or(chunk.created);
        self.calls |= chunk.calls;
        self.showed_usage |= chunk.is_usage;
        match (&mut self.text, &chunk.text) {
            (Some(all), Some(text)) => all.push_str(text),
            (all, _) => *all = None,
        }
        if chunk.is_usage && !self.shows_usage {
            return Ok(());
        }
        // Whoever goes on with an answer opens none.
        if self.bounds.carried > 0 && !chunk.has_token && chunk.ends.is_empty() && !chunk.is_usage {
            return Ok(());
        }
        let is_end = !chunk.ends.is_empty();
        self.ends += chunk.ends.len();
        self.begun = self
            .begun
            .max(chunk.choice.map_or(0, |last| last.saturating_add(1)));
        self.ended.extend(chunk.ends);
        let to = if is_end || chunk.is_usage {
            &mut self.tail
        } else {
            &mut self.out
        };
        to.extend_from_slice(b"data: ");
        let start = to.len();
        to.extend_from_slice(&chunk.json);
        // JSON that came in several lines goes out in one.
        let lines = to[start..].iter_mut();
        lines
            .filter(|byte| **byte == b'\n')
            .for_each(|byte| *byte = b' ');
        to.extend_from_slice(b"\n\n");
        Ok(())
    }

    fn flush(&mut self) {
        if !self.out.is_empty() {
            let frames = self.out.split().freeze();
            let text = self.text.as_mut().map(std::mem::take);
            self.ready.push_back(Ok(Event::Relay {
                frames,
                ends: false,
                text: text.filter(|_| self.tells_text),
            }));
        }
    }

    fn end(&mut self) {
        self.over = true;
        self.bounds.take(&self.progress, self.told, self.tokens);
        self.flush();
        self.wind_up();
        self.tail.extend_from_slice(b"data: [DONE]\n\n");
        let frames = self.tail.split().freeze();
        let usage = usage(&self.progress);
        let ends = true;
        let last = [
            Event::Relay {
                frames,
                ends,
                text: None,
            },
            Event::End { usage },
        ];
        self.ready.extend(last.map(Ok));
    }

    /// Brings what the worker has left out: the end of each choice, and the usage where the client wants to see it.
    fn wind_up(&mut self) {
        let now = || jiff::Timestamp::now().as_second();
        let created = self.created.unwrap_or_else(now);
        let begun = self.begun.min(self.bounds.answers);
        let numbered = self.ends == self.ended.len();
        let open = (0..begun).filter(|index| numbered && !self.ended.contains(index));
        let how = (self.calls, self.bounds.is_cut(&self.progress));
        let mut frames = ends(&self.names, created, open, how);
        if self.shows_usage && !self.showed_usage {
            frames.push(usage_frame(&self.names, created, usage(&self.progress)));
        }
        // The worker's own usage stands behind the ends.
        let told = self.tail.split();
        let (before, behind) = if self.showed_usage {
            (&[][..], &told[..])
        } else {
            (&told[..], &[][..])
        };
        self.tail.extend_from_slice(before);
        for frame in frames {
            let frame = format!("data: {frame}\n\n");
            self.tail.extend_from_slice(frame.as_bytes());
        }
        self.tail.extend_from_slice(behind);
    }

    fn is_whole(&self) -> bool {
        self.ends >= self.bounds.answers as usize
    }

    /// Some servers close where others say `[DONE]`, and some where others say that the answer has ended. That is an end only
    /// where one that breaks off would look otherwise.
    fn end_of_body(&mut self) {
        if self.is_whole() || self.tokens > 0 && self.framed && self.frames.is_empty() {
            self.end();
        } else {
            self.fail(Failure::Broken("its answer has no end".into()));
        }
    }

    /// What was read before goes out before. An answer whose choices have all ended is whole, whatever follows.
    fn fail(&mut self, failure: Failure) {
        if self.is_whole() {
            return self.end();
        }
        self.over = true;
        if self.tokens > 0 {
            self.flush();
        }
        self.ready.push_back(Err(failure));
    }
}

/// What is left of a time that began then.
pub(super) fn left(of: Duration, since: Instant) -> Duration {
    of.saturating_sub(since.elapsed())
}
