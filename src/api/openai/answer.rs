//! An answer to HTTP: whole, or as server-sent events.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::outgoing::Source;
use crate::api::error::ApiError;
use crate::api::limits;
use crate::gateway::{self, Decision, Served};
use crate::guard::Found;
use crate::types::{CallDelta, Delta, Event, Finish, TokenLogprob, ToolCall, Usage};

/// Frames that may wait for a slow client.
const FRAMES: usize = 16;
/// How long a client may take none of them before it counts as gone.
const STALL: Duration = Duration::from_secs(30);
/// A comment is sent where nothing else was for so long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The shapes of one endpoint.
pub(super) trait Shape: Send + 'static {
    type Chunk: Serialize;

    /// Before the first of a choice; chat names the role.
    fn first(&self, choice: u32) -> Option<Self::Chunk>;
    fn delta(&mut self, delta: Delta) -> Self::Chunk;
    fn finish(&self, choice: u32, finish: Finish) -> Self::Chunk;
    /// After all choices, where the client asked for it.
    fn usage(&self, usage: Usage) -> Option<Self::Chunk>;
}

/// A whole answer.
pub(super) struct Whole {
    /// By index.
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Usage,
}

/// One of the answers to a request.
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) thought: String,
    pub(super) calls: Vec<ToolCall>,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) finish: Finish,
}

/// A choice that is still being gathered.
#[derive(Default)]
struct Gathered {
    text: String,
    thought: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
    finish: Option<Finish>,
}

impl Gathered {
    /// `None` where a call goes on that never began.
    fn add(&mut self, delta: Delta) -> Option<()> {
        self.text.push_str(&delta.text);
        self.thought.push_str(&delta.thought);
        self.logprobs.extend(delta.logprobs);
        delta.calls.into_iter().try_for_each(|call| self.call(call))
    }

    fn call(&mut self, call: CallDelta) -> Option<()> {
        let index = usize::try_from(call.index).ok()?;
        if let Some((id, name)) = call.opens
            && index == self.calls.len()
        {
            self.calls.push(ToolCall {
                id,
                name,
                arguments: String::new(),
            });
        }
        let arguments = &mut self.calls.get_mut(index)?.arguments;
        arguments.push_str(&call.arguments);
        Some(())
    }

    fn end(self) -> Option<Choice> {
        Some(Choice {
            text: self.text,
            thought: self.thought,
            calls: self.calls,
            logprobs: self.logprobs,
            finish: self.finish?,
        })
    }
}

/// Reads as many answers as were asked for to their end, and gives them in the endpoint's form, or as a worker wrote them that
/// speaks it.
pub(super) async fn whole(
    answer: impl Into<Source>,
    answers: u32,
    form: impl FnOnce(Whole) -> Response,
) -> Result<Response, ApiError> {
    let mut answer = answer.into();
    match gather(&mut answer, answers).await? {
        Gathering::Own(whole) => Ok(form(whole)),
        Gathering::Relayed(body) => relayed(body, answer).await,
    }
}

enum Gathering {
    Own(Whole),
    /// Not charged yet.
    Relayed(Bytes),
}

async fn gather(answer: &mut Source, answers: u32) -> Result<Gathering, ApiError> {
    let mut choices: Vec<_> = (0..answers).map(|_| Gathered::default()).collect();
    // A worker that breaks the order of its events is a fault of this side.
    while let Some(event) = answer.next().await {
        match event.map_err(gateway::Error::from)? {
            Event::Delta(delta) => at(&mut choices, delta.choice)
                .and_then(|choice| choice.add(delta))
                .ok_or_else(ApiError::internal)?,
            Event::Finish { choice, finish } => {
                at(&mut choices, choice)
                    .ok_or_else(ApiError::internal)?
                    .finish = Some(finish);
            }
            Event::Relay { frames, .. } => return Ok(Gathering::Relayed(frames)),
            Event::End { usage } => {
                let choices: Option<_> = choices.into_iter().map(Gathered::end).collect();
                return Ok(Gathering::Own(Whole {
                    choices: choices.ok_or_else(ApiError::internal)?,
                    usage,
                }));
            }
        }
    }
    Err(ApiError::internal())
}

/// Reads an answer whole that a worker wrote in the client's form.
pub(super) async fn whole_relayed(answer: impl Into<Source>) -> Result<Response, ApiError> {
    let own_form = |_| ApiError::internal().into_response();
    whole(answer, 0, own_form).await
}

/// A body that is there waits for its charge.
async fn relayed(body: Bytes, mut answer: Source) -> Result<Response, ApiError> {
    match answer.next().await {
        Some(Ok(Event::End { .. })) => {
            let json = HeaderValue::from_static("application/json");
            let mut response = Response::new(Body::from(body));
            // All that will stand there, so that it need not grow.
            *response.headers_mut() = HeaderMap::with_capacity(2 * HEADERS);
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok(response)
        }
        Some(Err(error)) => Err(gateway::Error::from(error).into()),
        Some(Ok(_)) | None => Err(ApiError::internal()),
    }
}

fn at(choices: &mut [Gathered], choice: u32) -> Option<&mut Gathered> {
    choices.get_mut(usize::try_from(choice).ok()?)
}

/// Sends an answer as it comes. Each event becomes frames; the last ones come once its charge stands.
pub(super) fn streamed(answer: impl Into<Source>, shape: impl Shape) -> Response {
    let mut answer = answer.into();
    answer.delivers();
    let (frames, reader) = mpsc::channel(FRAMES);
    tokio::spawn(pump(answer, shape, frames, STALL));
    let body = Body::from_stream(ReceiverStream::new(reader).map(Ok::<_, Infallible>));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // A proxy that gathers a stream before it passes it on would undo it.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}

/// A task of its own, since a connection whose client stops reading isn't asked for more: nobody would
/// notice, and the slot would be held for ever. Ending it drops the answer, which frees the slot and books what
/// was generated.
async fn pump(mut answer: Source, shape: impl Shape, frames: mpsc::Sender<Bytes>, stall: Duration) {
    let mut writer = Writer {
        shape,
        begun: HashSet::new(),
        ends: Vec::new(),
        relays: false,
    };
    loop {
        let event = {
            // It is waited for to its end: half of a commit, or of a change of workers, can't be taken back.
            let mut next = std::pin::pin!(answer.next());
            loop {
                tokio::select! {
                    event = &mut next => break event,
                    () = frames.closed() => return,
                    // Whoever stands between shall not take silence for death.
                    () = tokio::time::sleep(KEEP_ALIVE) => {
                        let comment = Bytes::from_static(b":\n\n");
                        if frames.send_timeout(comment, stall).await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let (next, more) = match event {
            Some(Ok(Event::End { usage })) => (writer.end(usage), false),
            Some(Ok(event)) => (writer.event(event), true),
            Some(Err(error)) => (failure(gateway::Error::from(error).into()), false),
            None => (failure(ApiError::internal()), false),
        };
        if !next.is_empty() && frames.send_timeout(next.into(), stall).await.is_err() {
            return;
        }
        if !more {
            return;
        }
    }
}

/// Events to frames.
struct Writer<S> {
    shape: S,
    /// Choices of which something was sent.
    begun: HashSet<u32>,
    /// What says that a choice is complete. It waits for the last event, since no answer is complete before
    /// its charge is on disk.
    ends: Vec<u8>,
    /// The worker writes the frames, the last one included.
    relays: bool,
}

impl<S: Shape> Writer<S> {
    fn event(&mut self, event: Event) -> Vec<u8> {
        match event {
            Event::Delta(delta) => self.delta(delta),
            Event::Finish { choice, finish } => self.finish(choice, finish),
            Event::Relay { frames, ends, .. } => {
                self.relays = true;
                if ends {
                    self.ends.extend_from_slice(&frames);
                    Vec::new()
                } else {
                    frames.into()
                }
            }
            Event::End { .. } => Vec::new(),
        }
    }

    fn first(&mut self, choice: u32) -> Vec<u8> {
        if !self.begun.insert(choice) {
            return Vec::new();
        }
        let first = self.shape.first(choice);
        first.map(|chunk| frame(&chunk)).unwrap_or_default()
    }

    fn delta(&mut self, delta: Delta) -> Vec<u8> {
        let mut frames = self.first(delta.choice);
        frames.extend(frame(&self.shape.delta(delta)));
        frames
    }

    fn finish(&mut self, choice: u32, finish: Finish) -> Vec<u8> {
        self.ends.extend(frame(&self.shape.finish(choice, finish)));
        self.first(choice)
    }

    fn end(&mut self, usage: Usage) -> Vec<u8> {
        let mut frames = std::mem::take(&mut self.ends);
        if !self.relays {
            let usage = self.shape.usage(usage);
            frames.extend(usage.map(|chunk| frame(&chunk)).unwrap_or_default());
            frames.extend(b"data: [DONE]\n\n");
        }
        frames
    }
}

/// JSON has no line breaks, so it is one line of data.
fn frame(chunk: &impl Serialize) -> Vec<u8> {
    let mut frame = b"data: ".to_vec();
    // Our own shapes always serialise.
    let written = serde_json::to_writer(&mut frame, chunk);
    if written.is_err() {
        tracing::error!("a frame could not be written");
    }
    frame.extend_from_slice(b"\n\n");
    frame
}

/// A stream that fails ends without `[DONE]`.
fn failure(error: ApiError) -> Vec<u8> {
    format!("data: {}\n\n", error.event()).into()
}

/// What the model's rules did to the request, each rule with its action.
pub(super) fn with_found(mut response: Response, found: &Found) -> Response {
    let all = found.all().map(|(rule, action)| format!("{rule}={action}"));
    let all = all.collect::<Vec<_>>().join(", ");
    if !all.is_empty()
        && let Ok(value) = HeaderValue::from_str(&all)
    {
        response.headers_mut().insert("x-forebay-guard", value);
    }
    response
}

/// What `auto` came to, and why.
fn routed(headers: &mut HeaderMap, decision: &Decision) {
    let mut insert = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    insert("x-forebay-model", &decision.model);
    insert("x-forebay-route-by", decision.by);
    let took_ms = decision.took.as_secs_f64() * 1000.0;
    insert("x-forebay-route-ms", &format!("{took_ms:.3}"));
    if let Some((vertical, score)) = &decision.nearest {
        insert("x-forebay-route-nearest", vertical);
        insert("x-forebay-route-score", &format!("{score:.4}"));
    }
}

const QUEUE_MS: HeaderName = HeaderName::from_static("x-forebay-queue-ms");
const SERVED_BY: HeaderName = HeaderName::from_static("x-forebay-served-by");
const REVISION: HeaderName = HeaderName::from_static("x-forebay-revision");
/// Headers that an answer usually has, the server's own included.
const HEADERS: usize = 12;

/// Who served, how long the request waited, and how the caller stands to its limits.
pub(super) fn with_headers(mut response: Response, served: &Served) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    let queued = u64::try_from(served.queued.as_millis()).unwrap_or(u64::MAX);
    headers.reserve(HEADERS);
    headers.insert(QUEUE_MS, HeaderValue::from(queued));
    if let Ok(worker) = HeaderValue::from_str(&served.worker) {
        headers.insert(SERVED_BY, worker);
    }
    if let Some(decision) = &served.decision {
        routed(headers, decision);
    }
    if served.shows_revision
        && let Ok(revision) = HeaderValue::from_str(&served.revision)
    {
        headers.insert(REVISION, revision);
    }
    limits::insert(headers, &served.standing);
    response
}

#[cfg(test)]
mod tests;
