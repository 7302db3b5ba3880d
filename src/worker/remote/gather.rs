//! A whole answer out of a stream, for servers that see too late that nobody waits for a whole one any more.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value};

use crate::types::{Event, Events, Failure};

/// What is said once, and not piece by piece.
const SAID_ONCE: [&str; 8] = [
    "finish_reason",
    "id",
    "model",
    "name",
    "object",
    "role",
    "system_fingerprint",
    "type",
];

/// Reads a stream's frames to their end, and gives what they make together.
pub(super) async fn gathered(mut events: Events) -> Result<Events, Failure> {
    let mut whole = Map::new();
    while let Some(event) = events.next().await {
        match event? {
            Event::Relay { frames, .. } => add(&mut whole, &frames)?,
            Event::End { usage } => {
                let body = serde_json::to_vec(&finished(whole)).map_err(|_| garbled())?;
                let body = Event::Relay {
                    frames: body.into(),
                    ends: true,
                    text: None,
                };
                return Ok(Box::pin(stream::iter([Ok(body), Ok(Event::End { usage })])));
            }
            Event::Delta(_) | Event::Finish { .. } => return Err(garbled()),
        }
    }
    Err(Failure::Broken("its answer has no end".into()))
}

fn garbled() -> Failure {
    Failure::Broken("it sent what makes no whole answer".into())
}

/// Frames as they were written for a client: each is one line of data.
fn add(whole: &mut Map<String, Value>, frames: &Bytes) -> Result<(), Failure> {
    let text = std::str::from_utf8(frames).map_err(|_| garbled())?;
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    for data in data.filter(|data| *data != "[DONE]") {
        let chunk: Map<String, Value> = serde_json::from_str(data).map_err(|_| garbled())?;
        merge(whole, chunk);
    }
    Ok(())
}

/// Texts go on, lists of numbered things go on one by one, other lists are lengthened, and the rest is what was said last.
fn merge(whole: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (name, value) in piece {
        let once = SAID_ONCE.contains(&name.as_str());
        match (whole.get_mut(&name), value) {
            (Some(_), Value::Null) => {}
            (Some(Value::String(text)), Value::String(more)) => {
                if !once {
                    text.push_str(&more);
                }
            }
            (Some(Value::Array(all)), Value::Array(more)) => {
                more.into_iter().for_each(|one| join(all, one))
            }
            (Some(Value::Object(object)), Value::Object(more)) => merge(object, more),
            (_, Value::Array(more)) => {
                let mut all = Vec::new();
                more.into_iter().for_each(|one| join(&mut all, one));
                whole.insert(name, Value::Array(all));
            }
            (_, value) => {
                whole.insert(name, value);
            }
        }
    }
}

/// One more of a list, or more of the one that has its number.
fn join(all: &mut Vec<Value>, one: Value) {
    let Value::Object(one) = one else {
        return all.push(one);
    };
    let number = one.get("index").cloned();
    let known = all
        .iter_mut()
        .filter_map(Value::as_object_mut)
        .find(|known| number.is_some() && known.get("index") == number.as_ref());
    match known {
        Some(known) => merge(known, one),
        None => all.push(Value::Object(one)),
    }
}

/// The form of a whole answer: a message in the place of a delta, whose calls have no numbers.
fn finished(mut whole: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::String(object)) = whole.get_mut("object") {
        *object = object.trim_end_matches(".chunk").to_owned();
    }
    let choices = whole.get_mut("choices").and_then(Value::as_array_mut);
    for choice in choices
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        let Some(Value::Object(mut message)) = choice.remove("delta") else {
            continue;
        };
        message.entry("content").or_insert(Value::Null);
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten().filter_map(Value::as_object_mut) {
            call.remove("index");
        }
        choice.insert("message".into(), Value::Object(message));
    }
    whole
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::types::Usage;

    async fn whole(chunks: &[Value]) -> Value {
        let frames: String = chunks
            .iter()
            .map(|chunk| format!("data: {chunk}\n\n"))
            .collect();
        let frames = Event::Relay {
            frames: (frames + "data: [DONE]\n\n").into(),
            ends: true,
            text: None,
        };
        let usage = Usage::default();
        let events: Events = Box::pin(stream::iter([Ok(frames), Ok(Event::End { usage })]));
        let mut events = gathered(events).await.unwrap();
        let Some(Ok(Event::Relay {
            frames, ends: true, ..
        })) = events.next().await
        else {
            panic!("no body");
        };
        assert!(matches!(events.next().await, Some(Ok(Event::End { .. }))));
        serde_json::from_slice(&frames).unwrap()
    }

    #[tokio::test]
    async fn the_pieces_of_a_chat_make_a_whole() {
        let chunk = |choices: Value| json!({"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices});
        let piece = |index: u32, delta: Value| {
            chunk(json!([{"index": index, "delta": delta, "finish_reason": null}]))
        };
        let mut last = chunk(json!([]));
        last["usage"] = json!({"prompt_tokens": 3});
        let chunks = [
            piece(0, json!({"role": "assistant", "content": null})),
            piece(1, json!({"role": "assistant", "content": "水"})),
            piece(
                0,
                json!({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
            ),
            piece(
                0,
                json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
            ),
            piece(1, json!({"content": "力"})),
            chunk(json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])),
            chunk(json!([{"index": 1, "delta": {}, "finish_reason": "stop"}])),
            last,
        ];
        let call =
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        assert_eq!(
            whole(&chunks).await,
            json!({
                "id": "a", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": null, "tool_calls": [call]}, "finish_reason": "tool_calls"},
                    {"index": 1, "message": {"role": "assistant", "content": "水力"}, "finish_reason": "stop"},
                ],
                "usage": {"prompt_tokens": 3},
            })
        );
    }

    #[tokio::test]
    async fn log_probabilities_are_put_one_behind_the_other() {
        let piece = |text: &str| json!({"object": "text_completion", "choices": [{"index": 0, "text": text, "logprobs": {"content": [{"token": text}]}, "finish_reason": null}]});
        let answer = whole(&[piece("a"), piece("a")]).await;
        assert_eq!(answer["object"], "text_completion");
        assert_eq!(answer["choices"][0]["text"], "aa");
        assert_eq!(
            answer["choices"][0]["logprobs"]["content"],
            json!([{"token": "a"}, {"token": "a"}])
        );
    }
}
