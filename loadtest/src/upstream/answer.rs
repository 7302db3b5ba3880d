use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::script::{Fault, Pace, Script, UsageKind};
use super::{Break, Running, full};

pub(crate) type Body = BoxBody<Bytes, Break>;

/// Pieces that may be on their way; a client that doesn't read holds the rest up.
const AHEAD: usize = 16;
/// Between the bytes of [`Fault::Trickle`].
const TRICKLE: Duration = Duration::from_millis(20);

pub(crate) fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(text.to_owned()));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// An answer that is being made.
struct Answer {
    body: Value,
    script: Script,
    running: Running,
    chat: bool,
    /// Pieces that an unfinished answer in the request has already.
    from: usize,
}

pub(crate) async fn whole_or_stream(
    path: &str,
    body: Value,
    script: Script,
    running: Running,
) -> Result<Response<Body>, Break> {
    if path == "/v1/embeddings" {
        return Ok(plain(StatusCode::OK, &embeddings(&body)));
    }
    let answer = Answer {
        chat: path == "/v1/chat/completions",
        from: resumed(&body, &script),
        body,
        script,
        running,
    };
    if answer.body["stream"] == true {
        Ok(answer.stream())
    } else {
        answer.whole().await
    }
}

fn embeddings(body: &Value) -> String {
    let count = body["input"].as_array().map_or(1, Vec::len);
    let row = |index| json!({"object": "embedding", "index": index, "embedding": [0.6, 0.8]});
    let rows: Vec<_> = (0..count).map(row).collect();
    let usage = json!({"prompt_tokens": 3 * count, "total_tokens": 3 * count});
    json!({"object": "list", "data": rows, "model": body["model"], "usage": usage}).to_string()
}

/// An assistant's message at the end is the begin of the answer.
fn resumed(body: &Value, script: &Script) -> usize {
    let last = body["messages"]
        .as_array()
        .and_then(|messages| messages.last());
    let begun = last.filter(|message| message["role"] == "assistant");
    let begun = begun
        .and_then(|message| message["content"].as_str())
        .unwrap_or("");
    let mut left = begun;
    script
        .pieces
        .iter()
        .take_while(|piece| {
            left.strip_prefix(piece.as_str())
                .map(|rest| left = rest)
                .is_some()
        })
        .count()
}

impl Answer {
    fn pieces(&self) -> &[String] {
        let most = ["max_completion_tokens", "max_tokens"];
        let most = most.iter().find_map(|name| self.body[name].as_u64());
        let most = usize::try_from(most.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let left = &self.script.pieces[self.from..];
        &left[..left.len().min(most)]
    }

    fn finish(&self) -> &'static str {
        if self.from + self.pieces().len() < self.script.pieces.len() {
            "length"
        } else {
            "stop"
        }
    }

    /// Four bytes of the prompt are a token.
    fn prompt_tokens(&self) -> usize {
        let prompt = if self.chat {
            &self.body["messages"]
        } else {
            &self.body["prompt"]
        };
        prompt.to_string().len().div_ceil(4)
    }

    fn usage(&self, completion: usize) -> Value {
        let prompt = self.prompt_tokens();
        match self.script.usage {
            UsageKind::Wrong => {
                json!({"prompt_tokens": 4_000_000_000_u32, "completion_tokens": 4_000_000_000_u32})
            }
            _ => {
                json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
            }
        }
    }

    /// Waits as long as the pace says before the first piece. What is given has to be kept to the end.
    async fn first(&self) -> Option<OwnedSemaphorePermit> {
        match self.script.pace {
            Pace::Instant => None,
            Pace::Steady { first, .. } => {
                sleep(first).await;
                None
            }
            Pace::Batching { prefill_per_s, .. } => {
                let slot = self.running.slots().acquire_owned().await.ok()?;
                let _alone = self.running.prefill().await;
                #[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
                let tokens = self.prompt_tokens() as f64;
                sleep(Duration::from_secs_f64(tokens / prefill_per_s)).await;
                Some(slot)
            }
        }
    }

    fn gap(&self) -> Option<Duration> {
        match self.script.pace {
            Pace::Instant => None,
            Pace::Steady { gap, .. } => Some(gap),
            Pace::Batching { decode_per_s, .. } => {
                Some(Duration::from_secs_f64(1.0 / decode_per_s))
            }
        }
    }

    async fn whole(self) -> Result<Response<Body>, Break> {
        let _slot = self.first().await;
        if let Some(gap) = self.gap() {
            sleep(gap * u32::try_from(self.pieces().len()).unwrap_or(u32::MAX)).await;
        }
        match self.script.fault {
            Fault::Cut(_) => return Err(Break),
            Fault::Hang(_) => std::future::pending::<()>().await,
            Fault::Garbage(_) => return Ok(plain(StatusCode::OK, "{\"choices\":[")),
            Fault::Error(_) => {
                return Ok(plain(
                    StatusCode::OK,
                    "{\"error\":{\"message\":\"told to\"}}",
                ));
            }
            _ => {}
        }
        let text = self.pieces().concat();
        let choice = if self.chat {
            json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self.finish()})
        } else {
            json!({"index": 0, "text": text, "finish_reason": self.finish()})
        };
        let mut answer = json!({"id": "up-1", "object": "x", "created": 1, "model": self.body["model"], "choices": [choice]});
        if self.script.usage != UsageKind::Never {
            answer["usage"] = self.usage(self.pieces().len());
        }
        self.running.ended();
        Ok(plain(StatusCode::OK, &answer.to_string()))
    }

    fn stream(self) -> Response<Body> {
        let (frames, reader) = tokio::sync::mpsc::channel::<Result<Bytes, Break>>(AHEAD);
        tokio::spawn(async move {
            let gone = frames.clone();
            // A client that goes ends it wherever it is.
            tokio::select! {
                () = gone.closed() => {}
                () = self.write(frames) => {}
            }
        });
        let reader = futures_util::stream::unfold(reader, async |mut reader| {
            let next = reader.recv().await?;
            Some((next.map(Frame::data), reader))
        });
        let mut response = Response::new(StreamBody::new(reader).boxed());
        let events = header::HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, events);
        response
    }

    async fn write(self, frames: tokio::sync::mpsc::Sender<Result<Bytes, Break>>) {
        let _slot = self.first().await;
        let mut out = Out {
            frames,
            split_at: self.script.split_at,
            held: BytesMut::new(),
            trickles: self.script.fault == Fault::Trickle,
        };
        if self.chat
            && out
                .frame(&self.chunk(json!({"role": "assistant", "content": ""}), None, 0))
                .await
                .is_none()
        {
            return;
        }
        for (number, piece) in self.pieces().iter().enumerate() {
            if !self.fault_at(number, &mut out).await {
                return;
            }
            if let Some(gap) = self.gap() {
                sleep(gap).await;
            }
            let delta = if self.chat {
                json!({"content": piece})
            } else {
                json!(piece)
            };
            if out
                .frame(&self.chunk(delta, None, number + 1))
                .await
                .is_none()
            {
                return;
            }
        }
        if !self.fault_at(self.pieces().len(), &mut out).await {
            return;
        }
        let done = self.pieces().len();
        let delta = if self.chat { json!({}) } else { json!("") };
        let last = self.chunk(delta, Some(self.finish()), done);
        if out.frame(&last).await.is_none() {
            return;
        }
        let asks = self.body["stream_options"]["include_usage"] == true;
        if asks && self.script.usage != UsageKind::Never {
            let mut chunk = self.chunk(json!(null), None, done);
            chunk["choices"] = json!([]);
            chunk["usage"] = self.usage(done);
            if out.frame(&chunk).await.is_none() {
                return;
            }
        }
        if out.send(b"data: [DONE]\n\n").await.is_some() && out.rest().await.is_some() {
            self.running.ended();
        }
    }

    /// What the script has go wrong after so many pieces. False where nothing follows.
    async fn fault_at(&self, number: usize, out: &mut Out) -> bool {
        match self.script.fault {
            Fault::Cut(at) if at == number => {
                // What was written before shall be seen before.
                sleep(Duration::from_millis(20)).await;
                let _gone = out.frames.send(Err(Break)).await;
                false
            }
            Fault::Hang(at) if at == number => std::future::pending().await,
            Fault::Garbage(at) if at == number => {
                out.send(b"data: {\"choices\":[{\"de\n\n").await;
                true
            }
            Fault::Error(at) if at == number => {
                out.send(b"data: {\"error\":{\"message\":\"told to\",\"code\":500}}\n\n")
                    .await;
                false
            }
            _ => true,
        }
    }

    fn chunk(&self, delta: Value, finish: Option<&str>, done: usize) -> Value {
        let choice = if self.chat {
            json!({"index": 0, "delta": delta, "finish_reason": finish})
        } else {
            json!({"index": 0, "text": delta, "finish_reason": finish})
        };
        let mut chunk = json!({"id": "up-1", "object": "x", "created": 1, "model": self.body["model"], "choices": [choice]});
        let asks = self.body["stream_options"]["continuous_usage_stats"] == true;
        if asks && self.script.usage == UsageKind::Continuous {
            chunk["usage"] = self.usage(done);
        }
        chunk
    }
}

/// The way to the client.
struct Out {
    frames: tokio::sync::mpsc::Sender<Result<Bytes, Break>>,
    split_at: Option<usize>,
    /// All of a stream that is to be cut at one place.
    held: BytesMut,
    trickles: bool,
}

impl Out {
    /// `None` where nobody reads any more.
    async fn frame(&mut self, chunk: &Value) -> Option<()> {
        self.send(format!("data: {chunk}\n\n").as_bytes()).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Option<()> {
        if self.split_at.is_some() {
            self.held.extend_from_slice(bytes);
            return Some(());
        }
        if self.trickles {
            for byte in bytes {
                self.frames
                    .send(Ok(Bytes::copy_from_slice(&[*byte])))
                    .await
                    .ok()?;
                sleep(TRICKLE).await;
            }
            return Some(());
        }
        self.frames
            .send(Ok(Bytes::copy_from_slice(bytes)))
            .await
            .ok()
    }

    async fn rest(&mut self) -> Option<()> {
        let Some(at) = self.split_at else {
            return Some(());
        };
        let all = self.held.split().freeze();
        let at = at.min(all.len());
        self.frames.send(Ok(all.slice(..at))).await.ok()?;
        sleep(Duration::from_millis(3)).await;
        self.frames.send(Ok(all.slice(at..))).await.ok()
    }
}
