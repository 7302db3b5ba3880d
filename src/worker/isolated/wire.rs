//! What the gateway and a worker's process say to each other: all of it, and how it is framed.
//!
//! A frame is its length in four bytes and a message in MessagePack, which, unlike JSON, holds floats that are
//! no numbers. The process gets [`Down::Start`] or [`Down::Probe`] first and once. After that the gateway opens
//! requests under ids that it never uses again; each is answered by [`Up::Reply`]s and ends with an [`Up::Done`],
//! whether it ran to its end, failed or was cancelled. The socket's end is the end of both sides' words: the
//! process leaves when it reads it, the gateway takes the process for dead.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::telemetry::WorkerReading;
use crate::types::{Count, Embed, Embedded, Event, Failure, Job, Tokenize, Tokenized};
use crate::worker::{Health, Options};

/// Events of one request that may be on their way to a reader that takes none: then its sequence pauses, and
/// no other.
pub(super) const CREDITS: u32 = 64;
/// A larger frame is an error: four times what a request's body may have by default.
pub(super) const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// From the gateway to the process.
#[derive(Serialize, Deserialize)]
pub(super) enum Down {
    /// Be this worker.
    Start(Options),
    /// Load these weights, say how that went, and end.
    Probe(PathBuf),
    /// Generate an answer. It comes with [`CREDITS`] credits.
    Generate { id: u64, job: Job },
    /// Turn texts into vectors.
    Embed { id: u64, request: Embed },
    /// Take a prompt apart.
    Tokenize { id: u64, ask: Tokenize },
    /// Put a text together.
    Detokenize { id: u64, tokens: Vec<u32> },
    /// So many events of the request were taken: as many more may be sent.
    Credit { id: u64, events: u32 },
    /// Nobody waits for it any more.
    Cancel { id: u64 },
}

/// From the process to the gateway.
#[derive(Serialize, Deserialize)]
pub(super) enum Up {
    /// How the worker is, each time that it changes.
    Health(Health),
    /// What its metrics stand at, since the process began.
    Metrics(WorkerReading),
    /// Of a request. `counted` is what was counted until now, so that what is generated is never unbilled.
    Reply {
        id: u64,
        counted: Count,
        reply: Reply,
    },
    /// The last that is said of a request: its place is free.
    Done { id: u64 },
}

/// What is said of a request.
#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    /// The worker took it; events follow.
    Started,
    /// Only the count has grown.
    Counted,
    /// Costs a credit.
    Event(Event),
    /// The whole answer of an [`Down::Embed`].
    Embedded(Embedded),
    /// The whole answer of a [`Down::Tokenize`].
    Tokenized(Tokenized),
    /// The whole answer of a [`Down::Detokenize`].
    Text(String),
    /// There will be no more.
    Failed(Failure),
}

/// A message that can't be written or read: on the reading side, a fault of the other one.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("a message can't be written: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    #[error("a message can't be read: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    #[error("the socket broke: {0}")]
    Io(#[from] std::io::Error),
}

/// Where messages come from.
pub(super) struct Source(FramedRead<OwnedReadHalf, LengthDelimitedCodec>);

impl Source {
    /// The next message; `None` once the other side has closed. Safe to be cancelled.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        match self.0.next().await {
            Some(frame) => Ok(Some(rmp_serde::from_slice(&frame?)?)),
            None => Ok(None),
        }
    }
}

/// The two halves of a socket.
pub(super) fn split(socket: UnixStream) -> (Source, OwnedWriteHalf) {
    let (read, write) = socket.into_split();
    (Source(FramedRead::new(read, codec())), write)
}

/// A message's bytes, made by whoever sends it: the task that writes shall do nothing else.
pub(super) fn encode(message: &impl Serialize) -> Result<Bytes, WireError> {
    let bytes = rmp_serde::to_vec_named(message)?;
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(WireError::TooLong(bytes.len()));
    }
    Ok(bytes.into())
}

/// Writes what comes until no more can, and then closes this direction. What has gathered meanwhile goes out at
/// once: the tokens of one step are one system call.
pub(super) async fn write(
    mut frames: mpsc::Receiver<Bytes>,
    half: OwnedWriteHalf,
) -> Result<(), WireError> {
    let mut sink = FramedWrite::new(half, codec());
    while let Some(frame) = frames.recv().await {
        sink.feed(frame).await?;
        while let Ok(frame) = frames.try_recv() {
            sink.feed(frame).await?;
        }
        SinkExt::<Bytes>::flush(&mut sink).await?;
    }
    Ok(())
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(MAX_FRAME_BYTES)
        .new_codec()
}
