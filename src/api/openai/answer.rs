//! An answer to HTTP: whole, or as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event as Sse, KeepAlive};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::error::ApiError;
use crate::gateway::{self, Served};
use crate::metering::Meter;
use crate::types::{Delta, Event, Finish, Usage};

/// Frames that may wait for a slow client.
const FRAMES: usize = 16;
/// How long a client may take none of them before it counts as gone.
const STALL: Duration = Duration::from_secs(30);

/// The shapes of one endpoint.
pub(super) trait Shape: Send + 'static {
    type Chunk: Serialize;

    /// Before the text; chat names the role.
    fn first(&self) -> Option<Self::Chunk>;
    fn delta(&self, delta: Delta) -> Self::Chunk;
    fn finish(&self, choice: u32, finish: Finish) -> Self::Chunk;
    /// After the text, where the client asked for it.
    fn usage(&self, usage: Usage) -> Option<Self::Chunk>;
}

/// A whole answer.
pub(super) struct Whole {
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Usage,
}

/// One of its answers.
#[derive(Default)]
pub(super) struct Choice {
    pub(super) delta: Delta,
    pub(super) finish: Option<Finish>,
}

/// Reads an answer to its end.
pub(super) async fn whole(mut meter: Meter, answers: u32) -> Result<Whole, ApiError> {
    let mut choices: Vec<_> = (0..answers).map(|_| Choice::default()).collect();
    while let Some(event) = meter.next().await {
        match event.map_err(gateway::Error::from)? {
            Event::Delta(more) => {
                if let Some(choice) = choices.get_mut(more.choice as usize) {
                    choice.delta.text.push_str(&more.text);
                    choice.delta.logprobs.extend(more.logprobs);
                }
            }
            Event::Finish { choice, finish } => {
                if let Some(choice) = choices.get_mut(choice as usize) {
                    choice.finish = Some(finish);
                }
            }
            Event::End { usage } => return Ok(Whole { choices, usage }),
        }
    }
    Err(ApiError::internal())
}

/// Sends an answer as it comes. Each event becomes frames; the last ones come once its charge stands.
pub(super) fn streamed(mut meter: Meter, shape: impl Shape) -> Response {
    meter.delivers();
    let (frames, reader) = mpsc::channel(FRAMES);
    tokio::spawn(pump(meter, shape, frames, STALL));
    let events = ReceiverStream::new(reader).map(Ok::<_, Infallible>);
    let mut response = axum::response::Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response();
    // A proxy that gathers a stream before it passes it on would undo it.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A task of its own, since a connection whose client stops reading isn't asked for more: nobody would
/// notice, and the slot would be held for ever. Ending it drops the meter, which frees the slot and books what
/// was generated.
async fn pump(mut meter: Meter, shape: impl Shape, frames: mpsc::Sender<Sse>, stall: Duration) {
    let mut next: Vec<_> = shape
        .first()
        .map(|chunk| frame(&chunk))
        .into_iter()
        .collect();
    let mut more = true;
    loop {
        for frame in next {
            if frames.send_timeout(frame, stall).await.is_err() {
                return;
            }
        }
        if !more {
            return;
        }
        let event = tokio::select! {
            event = meter.next() => event,
            () = frames.closed() => return,
        };
        (next, more) = match event {
            Some(Ok(Event::Delta(delta))) => (vec![frame(&shape.delta(delta))], true),
            Some(Ok(Event::Finish { choice, finish })) => {
                (vec![frame(&shape.finish(choice, finish))], true)
            }
            Some(Ok(Event::End { usage })) => (last(&shape, usage), false),
            Some(Err(error)) => (vec![failure(gateway::Error::from(error).into())], false),
            None => (vec![failure(ApiError::internal())], false),
        };
    }
}

fn last(shape: &impl Shape, usage: Usage) -> Vec<Sse> {
    let mut frames: Vec<_> = shape
        .usage(usage)
        .map(|chunk| frame(&chunk))
        .into_iter()
        .collect();
    frames.push(Sse::default().data("[DONE]"));
    frames
}

fn frame(chunk: &impl Serialize) -> Sse {
    // Our own shapes always serialise.
    Sse::default().data(serde_json::to_string(chunk).unwrap_or_default())
}

/// A stream that fails ends without `[DONE]`.
fn failure(error: ApiError) -> Sse {
    Sse::default().data(error.event())
}

/// Who served, and how long the request waited.
pub(super) fn with_headers(mut response: Response, served: &Served) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    let queued = u64::try_from(served.queued.as_millis()).unwrap_or(u64::MAX);
    headers.insert("x-forebay-queue-ms", HeaderValue::from(queued));
    if let Ok(worker) = HeaderValue::from_str(&served.worker) {
        headers.insert("x-forebay-served-by", worker);
    }
    response
}

#[cfg(test)]
mod tests;
