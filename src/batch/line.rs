use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Answered, Asked, Halt, Runner};
use crate::types::{BatchId, BatchLine, Caller, Endpoint, LineOutcome, Paying, RequestId};

/// How often a line is tried whose worker failed.
const TRIES: u32 = 3;
/// How long a line that there was no room for stays away, at least and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A line that is to be answered.
pub(super) struct Job {
    pub(super) runner: Arc<Runner>,
    pub(super) batch: BatchId,
    pub(super) caller: Caller,
    pub(super) endpoint: Endpoint,
    pub(super) close: CancellationToken,
    /// An answer to it was charged, and lost: it is asked for again whatever becomes of the others.
    pub(super) lost: bool,
    pub(super) number: u64,
    pub(super) text: Bytes,
}

/// <https://platform.openai.com/docs/api-reference/batch/request-input>
#[derive(Deserialize)]
struct Wire<'a> {
    custom_id: String,
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Streams {
    #[serde(default)]
    stream: Option<bool>,
}

impl Job {
    /// Asks until there is an answer, and keeps that. A line that no more is to be begun for stays without.
    pub(super) async fn run(self, room: OwnedSemaphorePermit) -> Result<(), Halt> {
        let store = &self.runner.store;
        let mut room = Some(room);
        let read = read(&self.text, self.endpoint);
        let mut tries = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut line = BatchLine {
                line: self.number,
                request: RequestId::mint(),
                custom_id: read.custom_id.clone(),
                paid: self.lost,
                outcome: None,
            };
            let place = match room.take() {
                Some(room) => room,
                None => self.place().await?,
            };
            if self.close.is_cancelled() && !self.lost {
                return Ok(());
            }
            let begun = store.begin_line(&self.batch, &self.runner.hold.replica, &line);
            // An answer to an earlier try may have been charged, and lost: then this one costs nothing.
            line.paid = begun.await?.ok_or(Halt::Lost)?;
            let answered = match &read.body {
                Ok(body) => self.ask(&line, body.clone()).await,
                Err(refusal) => refusal.answer(),
            };
            drop(place);
            tries += u32::from(answered.status == 502 || answered.status == 500);
            if !may_come_again(&answered, tries) {
                let outcome = LineOutcome {
                    status: answered.status,
                    body: text_of(&answered.body),
                };
                self.runner.metrics.batch_line(answered.status == 200);
                return Ok(store.end_line(&self.batch, &line, &outcome).await?);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            let wait = answered
                .retry_after
                .unwrap_or(pause)
                .clamp(pause, LONGEST_PAUSE);
            tokio::select! {
                () = self.close.cancelled(), if !self.lost => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Halt> {
        let room = Arc::clone(&self.runner.room).acquire_owned().await;
        room.map_err(|_| Halt::Stopped)
    }

    async fn ask(&self, line: &BatchLine, body: Bytes) -> Answered {
        let asked = Asked {
            caller: self.caller.clone(),
            endpoint: self.endpoint,
            request: line.request,
            paying: if line.paid {
                Paying::Already
            } else {
                Paying::AtTheEnd
            },
            body,
        };
        self.runner.door.ask(asked).await
    }
}

/// Limits and queues have room again some time, and workers come back. What is wrong with a request stays wrong.
fn may_come_again(answered: &Answered, tries: u32) -> bool {
    match answered.status {
        429 | 503 => !answered.is_final,
        500 | 502 => tries < TRIES,
        _ => false,
    }
}

fn text_of(body: &Bytes) -> String {
    // A worker's own words may be anything, and rows hold text.
    let text = String::from_utf8_lossy(body).replace('\0', "\u{fffd}");
    if serde_json::from_str::<&RawValue>(&text).is_ok() {
        // Where it stands on several lines, they become one: within texts JSON has no line ends.
        return text.replace(['\n', '\r'], " ");
    }
    json!({"raw": text}).to_string()
}

/// A line that was read: its name, and its body or what is wrong with it.
struct Read {
    custom_id: String,
    body: Result<Bytes, Refusal>,
}

struct Refusal {
    param: &'static str,
    message: String,
}

impl Refusal {
    fn answer(&self) -> Answered {
        let error = json!({"error": {
            "message": self.message, "type": "invalid_request_error", "param": self.param, "code": null,
        }});
        Answered {
            status: 400,
            retry_after: None,
            is_final: true,
            body: error.to_string().into(),
        }
    }
}

fn read(text: &Bytes, endpoint: Endpoint) -> Read {
    let refused = |custom_id: String, param, message: String| Read {
        custom_id,
        body: Err(Refusal { param, message }),
    };
    let wire = match serde_json::from_slice::<Wire<'_>>(text) {
        Ok(wire) => wire,
        Err(error) => {
            #[derive(Deserialize)]
            struct Named {
                custom_id: String,
            }
            // It has a name, or the file would not have been run.
            let named = serde_json::from_slice::<Named>(text);
            let custom_id = named.map(|named| named.custom_id).unwrap_or_default();
            return refused(custom_id, "body", error.to_string());
        }
    };
    let id = wire.custom_id;
    match wire.method.as_deref() {
        Some("POST") => {}
        _ => return refused(id, "method", "method must be POST".into()),
    }
    if wire.url.as_deref() != Some(endpoint.path()) {
        let message = format!(
            "url must be {}, as the batch's endpoint is",
            endpoint.path()
        );
        return refused(id, "url", message);
    }
    let Some(body) = wire.body else {
        return refused(id, "body", "there is no body".into());
    };
    let streams = serde_json::from_str::<Streams>(body.get());
    if streams.is_ok_and(|body| body.stream == Some(true)) {
        return refused(
            id,
            "stream",
            "the answers of a batch are not streamed".into(),
        );
    }
    Read {
        custom_id: id,
        body: Ok(Bytes::copy_from_slice(body.get().as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &'static str) -> Option<&'static str> {
        let read = read(&Bytes::from_static(text.as_bytes()), Endpoint::Chat);
        assert_eq!(read.custom_id, "a", "{text}");
        read.body.err().map(|refusal| refusal.param)
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_in_its_row() {
        let whole = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}"#;
        assert_eq!(refusal(whole), None);
        for (text, param) in [
            (
                r#"{"custom_id":"a","url":"/v1/chat/completions","body":{}}"#,
                "method",
            ),
            (
                r#"{"custom_id":"a","method":"GET","url":"/v1/chat/completions","body":{}}"#,
                "method",
            ),
            (
                r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}}"#,
                "url",
            ),
            (
                r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions"}"#,
                "body",
            ),
            (
                r#"{"custom_id":"a","method":1,"url":"/v1/chat/completions","body":{}}"#,
                "body",
            ),
            (
                r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"stream":true}}"#,
                "stream",
            ),
        ] {
            assert_eq!(refusal(text), Some(param), "{text}");
        }
    }

    #[test]
    fn what_has_no_room_now_comes_again_and_what_is_wrong_does_not() {
        let answered = |status, is_final| Answered {
            status,
            retry_after: None,
            is_final,
            body: Bytes::new(),
        };
        assert!(may_come_again(&answered(429, false), 0));
        assert!(may_come_again(&answered(503, false), 9));
        assert!(!may_come_again(&answered(429, true), 0));
        assert!(may_come_again(&answered(502, false), 2));
        assert!(!may_come_again(&answered(502, false), 3));
        for status in [200, 400, 401, 404, 413] {
            assert!(!may_come_again(&answered(status, false), 0));
        }
    }
}
