//! The same for answers that a worker wrote in the client's own format.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Outgoing, Passing};
use crate::guard::Side;
use crate::types::{CallDelta, Finish};

const DATA: &str = "data: ";
/// All that a guarded answer may hold beside its choices, and a choice beside its text: what isn't known can't be guarded.
const OF_ANSWERS: [&str; 9] = [
    "choices",
    "created",
    "error",
    "id",
    "model",
    "object",
    "service_tier",
    "system_fingerprint",
    "usage",
];
const OF_CHOICES: [&str; 5] = ["delta", "finish_reason", "index", "message", "text"];
const OF_TURNS: [&str; 5] = [
    "content",
    "reasoning",
    "reasoning_content",
    "role",
    "tool_calls",
];

impl Outgoing {
    /// Whole frames of a stream, or a whole body.
    pub(super) fn frames(&mut self, frames: &Bytes) -> Bytes {
        let Ok(text) = std::str::from_utf8(frames) else {
            return Bytes::new();
        };
        if !text.starts_with(DATA) {
            return self.body(text).unwrap_or_default().into();
        }
        let mut out = String::with_capacity(text.len());
        for frame in text.split_inclusive("\n\n") {
            let data = frame.trim_end().strip_prefix(DATA).unwrap_or_default();
            match serde_json::from_str::<Value>(data) {
                Ok(mut chunk) => {
                    self.chunk(&mut chunk);
                    out += DATA;
                    out += &chunk.to_string();
                    out += "\n\n";
                }
                // `[DONE]`, and comments.
                Err(_) if data == "[DONE]" => out += frame,
                Err(_) => {}
            }
        }
        out.into()
    }

    fn body(&mut self, text: &str) -> Option<String> {
        let mut body: Value = serde_json::from_str(text).ok()?;
        self.only(&mut body, &OF_ANSWERS);
        for choice in body["choices"].as_array_mut().into_iter().flatten() {
            self.whole(choice);
        }
        Some(body.to_string())
    }

    fn chunk(&mut self, chunk: &mut Value) {
        self.only(chunk, &OF_ANSWERS);
        for choice in chunk["choices"].as_array_mut().into_iter().flatten() {
            self.part(choice);
        }
    }

    /// A choice that is read: its number, whether it is one of a chat, and what it says, which is taken out.
    fn taken(&self, choice: &mut Value, turn: &str) -> (u32, bool, Read) {
        self.only(choice, &OF_CHOICES);
        let is_chat = choice.get(turn).is_some_and(Value::is_object);
        let place = if is_chat { turn } else { "text" };
        // What isn't read is left out where anything is hidden.
        if let Some(fields) = choice.as_object_mut()
            && self.guards.hold(Side::Output)
        {
            fields.retain(|name, _| {
                name == place || !["delta", "message", "text"].contains(&name.as_str())
            });
        }
        let read = if is_chat {
            self.only(&mut choice[turn], &OF_TURNS);
            read(&mut choice[turn], "content")
        } else {
            read(choice, "text")
        };
        (index(choice), is_chat, read)
    }

    /// A choice of a chunk.
    fn part(&mut self, choice: &mut Value) {
        let (index, is_chat, read) = self.taken(choice, "delta");
        let mut passing = self.more(index, &read.text, &read.thought, read.calls);
        if let Some(reason) = finish_of(choice) {
            let (rest, finish) = self.rest(index, reason);
            passing.text += &rest.text;
            passing.thought += &rest.thought;
            passing.calls.extend(rest.calls);
            if finish != reason {
                choice["finish_reason"] = json!(finish.as_str());
            }
        }
        if is_chat {
            write(&mut choice["delta"], passing, "content");
        } else {
            choice["text"] = json!(passing.text);
        }
    }

    /// A choice of a whole answer.
    fn whole(&mut self, choice: &mut Value) {
        let (index, is_chat, read) = self.taken(choice, "message");
        let reason = finish_of(choice).unwrap_or(Finish::Stop);
        let (passing, finish) = self.entire(index, read, reason);
        if finish != reason {
            choice["finish_reason"] = json!(finish.as_str());
        }
        if is_chat {
            let message = &mut choice["message"];
            let had_none = passing.text.is_empty() && !passing.calls.is_empty();
            message["content"] = if had_none { Value::Null } else { json!("") };
            write(message, passing, "content");
        } else {
            choice["text"] = json!(passing.text);
        }
    }

    /// What isn't known is left out where anything is hidden.
    fn only(&self, value: &mut Value, known: &[&str]) {
        if !self.guards.hold(Side::Output) {
            return;
        }
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|name, _| known.contains(&name.as_str()));
        }
    }
}

#[derive(Default)]
pub(super) struct Read {
    pub(super) text: String,
    pub(super) thought: String,
    pub(super) calls: Vec<CallDelta>,
}

fn index(choice: &Value) -> u32 {
    let index = choice["index"].as_u64().unwrap_or(0);
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Takes out what is looked at.
fn read(turn: &mut Value, text: &str) -> Read {
    let Some(fields) = turn.as_object_mut() else {
        return Read::default();
    };
    let mut take = |name: &str| match fields.shift_remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    // Some workers tell the thoughts twice.
    let (text, told, also) = (take(text), take("reasoning_content"), take("reasoning"));
    let thought = if told.is_empty() { also } else { told };
    let calls = match fields.shift_remove("tool_calls") {
        Some(Value::Array(calls)) => calls,
        _ => Vec::new(),
    };
    Read {
        text,
        thought,
        calls: (0..)
            .zip(&calls)
            .map(|(place, call)| call_of(place, call))
            .collect(),
    }
}

fn call_of(place: u32, call: &Value) -> CallDelta {
    let told = call["index"]
        .as_u64()
        .and_then(|index| u32::try_from(index).ok());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let function = &call["function"];
    let opens = text(&function["name"]).map(|name| (text(&call["id"]).unwrap_or_default(), name));
    CallDelta {
        index: told.unwrap_or(place),
        opens,
        arguments: text(&function["arguments"]).unwrap_or_default(),
    }
}

/// Puts back what may pass.
fn write(turn: &mut Value, passing: Passing, text: &str) {
    let Some(fields) = turn.as_object_mut() else {
        return;
    };
    let is_chunk = !fields.contains_key(text);
    if !passing.text.is_empty() {
        fields.insert(text.to_owned(), passing.text.into());
    }
    if !passing.thought.is_empty() {
        fields.insert("reasoning_content".to_owned(), passing.thought.into());
    }
    if !passing.calls.is_empty() {
        let calls = passing.calls.into_iter().map(|call| told(call, is_chunk));
        fields.insert("tool_calls".to_owned(), calls.collect());
    }
}

fn told(call: CallDelta, is_chunk: bool) -> Value {
    let mut told = Map::new();
    if is_chunk {
        told.insert("index".into(), call.index.into());
    }
    let mut function = Map::new();
    if let Some((id, name)) = call.opens {
        told.insert("id".into(), id.into());
        told.insert("type".into(), "function".into());
        function.insert("name".into(), name.into());
    }
    function.insert("arguments".into(), call.arguments.into());
    told.insert("function".into(), function.into());
    told.into()
}

fn finish_of(choice: &Value) -> Option<Finish> {
    Some(match choice["finish_reason"].as_str()? {
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "content_filter" => Finish::ContentFilter,
        _ => Finish::Stop,
    })
}
