//! What stands in a frame or a body, as far as the gateway has to know or to change it. The rest goes on byte by byte.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::types::{Count, Endpoint, Failure, Usage};

/// The fields of a chunk or of a whole answer that are looked at.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// Whatever of it holds something was generated.
#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireUsage {
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

/// A frame of a stream, as the client is to see it.
#[derive(Debug, PartialEq)]
pub(super) struct Chunk {
    /// Its JSON.
    pub(super) json: Vec<u8>,
    /// Something was generated.
    pub(super) has_token: bool,
    /// A tool is called in it.
    pub(super) calls: bool,
    /// When the answer was begun, as the worker says.
    pub(super) created: Option<i64>,
    /// The last choice that it says something of.
    pub(super) choice: Option<u32>,
    /// The choices that it ends.
    pub(super) ends: Vec<u32>,
    /// It holds no choice: it is there for the usage alone.
    pub(super) is_usage: bool,
    /// What the worker says was used until now.
    pub(super) usage: Option<Count>,
    /// Its text, where it holds nothing else that was generated.
    pub(super) text: Option<String>,
}

/// How an answer is called to the client: JSON texts.
pub(super) struct Names {
    pub(super) id: String,
    pub(super) model: String,
    /// The door that the client came in by.
    pub(super) endpoint: Endpoint,
}

impl Chunk {
    /// Reads a frame. It gets the client's names; what was used is left out unless it is to be shown.
    ///
    /// # Errors
    /// It is no JSON object, or tells of an error.
    pub(super) fn read(data: &[u8], names: &Names, shows_usage: bool) -> Result<Self, Failure> {
        let parts = parts(data)?;
        let choices: Vec<Choice<'_>> = match parts.choices {
            Some(choices) => {
                serde_json::from_str(choices.get()).map_err(|_| garbled("its choices"))?
            }
            None => Vec::new(),
        };
        let is_usage = choices.is_empty() && parts.usage.is_some_and(|usage| usage.get() != "null");
        let mut changes = Changes::new(data);
        changes.rename(&parts, names);
        let shown = shows_usage && is_usage;
        if let Some(usage) = parts.usage.filter(|_| !shown) {
            changes.remove("usage", usage);
        }
        Ok(Self {
            json: changes.apply(),
            has_token: choices.iter().any(Choice::has_token),
            calls: choices.iter().any(Choice::calls),
            created: parts.created.and_then(seconds),
            choice: choices.iter().map(|choice| choice.index).max(),
            ends: choices
                .iter()
                .filter(|choice| choice.finish_reason.is_some())
                .map(|choice| choice.index)
                .collect(),
            is_usage,
            usage: parts.usage.and_then(count),
            text: match choices.as_slice() {
                [] => Some(String::new()),
                [choice] => choice.plain_text(),
                _ => None,
            },
        })
    }
}

/// A whole answer as the client is to see it, and what it took.
pub(super) fn whole(body: &[u8], names: &Names) -> Result<(Vec<u8>, Option<Count>), Failure> {
    let parts = parts(body)?;
    if parts.choices.is_none() {
        return Err(garbled("its answer, which has no choices"));
    }
    let mut changes = Changes::new(body);
    changes.rename(&parts, names);
    Ok((changes.apply(), parts.usage.and_then(count)))
}

/// A whole answer with what a worker may leave out and clients look for: each choice's end, and the usage.
pub(super) fn completed(body: Vec<u8>, usage: Usage, cut: bool) -> Vec<u8> {
    let Ok(mut whole) = serde_json::from_slice::<Map<String, Value>>(&body) else {
        return body;
    };
    let choices = whole.get_mut("choices").and_then(Value::as_array_mut);
    let choices = choices.into_iter().flatten();
    for choice in choices.filter_map(Value::as_object_mut) {
        let calls = choice
            .get("message")
            .and_then(|message| message.get("tool_calls"));
        let calls = calls
            .and_then(Value::as_array)
            .is_some_and(|calls| !calls.is_empty());
        let reason = choice.entry("finish_reason").or_insert(Value::Null);
        if reason.is_null() {
            *reason = finish(calls, cut).into();
        }
    }
    let told = whole.entry("usage").or_insert(Value::Null);
    if told.is_null() {
        *told = usage_object(usage);
    }
    serde_json::to_vec(&whole).unwrap_or(body)
}

/// Whether a whole answer lacks what [`completed`] brings. By its bytes: a name in a text has other quotes.
pub(super) fn is_incomplete(body: &[u8], told: Option<Count>) -> bool {
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""finish_reason""#));
    let mut ends = NAME
        .find_iter(body)
        .map(|at| &body[at + NAME.needle().len()..]);
    let is_null = |end: &[u8]| end.starts_with(b":null") || end.starts_with(b": null");
    told.is_none() || ends.next().is_none_or(is_null) || ends.any(is_null)
}

/// The end of choices of which a worker said none, and the usage that a client wants to see.
pub(super) fn ends(
    names: &Names,
    created: i64,
    open: impl Iterator<Item = u32>,
    (calls, cut): (bool, bool),
) -> Vec<Value> {
    let ending = |index| {
        let mut choice =
            json!({"index": index, "finish_reason": finish(calls, cut), "logprobs": null});
        match names.endpoint {
            Endpoint::Chat => choice["delta"] = json!({}),
            Endpoint::Completions | Endpoint::Embeddings => choice["text"] = json!(""),
        }
        names.frame(created, vec![choice])
    };
    open.map(ending).collect()
}

pub(super) fn usage_frame(names: &Names, created: i64, usage: Usage) -> Value {
    let mut frame = names.frame(created, Vec::new());
    frame["usage"] = usage_object(usage);
    frame
}

fn usage_object(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens(),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

fn finish(calls: bool, cut: bool) -> &'static str {
    match (calls, cut) {
        (_, true) => "length",
        (true, false) => "tool_calls",
        (false, false) => "stop",
    }
}

impl Names {
    fn frame(&self, created: i64, choices: Vec<Value>) -> Value {
        let text = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions | Endpoint::Embeddings => "text_completion",
        };
        json!({
            "id": text(&self.id), "object": object, "created": created, "model": text(&self.model),
            "choices": choices,
        })
    }
}

fn parts(data: &[u8]) -> Result<Parts<'_>, Failure> {
    let parts: Parts<'_> = serde_json::from_slice(data).map_err(|_| garbled("no JSON object"))?;
    match parts.error.filter(|error| error.get() != "null") {
        Some(_) => Err(Failure::Broken("it told of an error".into())),
        None => Ok(parts),
    }
}

/// The worker's own words stay out of it: they may be the client's.
fn garbled(what: &str) -> Failure {
    Failure::Broken(format!("it sent what can't be read: {what}"))
}

/// Whole seconds, as some servers don't give them.
fn seconds(created: &RawValue) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast of a float saturates"
    )]
    let whole = |seconds: f64| seconds as i64;
    created.get().parse().ok().map(whole)
}

fn count(usage: &RawValue) -> Option<Count> {
    let usage: Option<WireUsage> = serde_json::from_str(usage.get()).ok()?;
    let usage = usage?;
    let details = usage.prompt_tokens_details;
    Some(Count {
        prompt_tokens: usage.prompt_tokens,
        cached_tokens: details
            .and_then(|details| details.cached_tokens)
            .unwrap_or(0),
        completion_tokens: usage.completion_tokens,
    })
}

impl Choice<'_> {
    fn has_token(&self) -> bool {
        let delta = self.delta.as_ref();
        holds(self.text) || delta.is_some_and(|delta| holds(delta.content) || delta.has_more())
    }

    fn calls(&self) -> bool {
        let delta = self.delta.as_ref();
        delta.is_some_and(|delta| holds(delta.tool_calls))
    }

    /// Its content, where it has nothing else.
    fn plain_text(&self) -> Option<String> {
        let Some(delta) = &self.delta else {
            return Some(String::new());
        };
        match delta.content {
            _ if delta.has_more() => None,
            Some(content) => serde_json::from_str::<Option<String>>(content.get())
                .ok()
                .map(Option::unwrap_or_default),
            None => Some(String::new()),
        }
    }
}

impl Delta<'_> {
    fn has_more(&self) -> bool {
        let more = [
            self.reasoning_content,
            self.reasoning,
            self.refusal,
            self.tool_calls,
            self.function_call,
        ];
        more.into_iter().any(holds)
    }
}

fn holds(value: Option<&RawValue>) -> bool {
    value.is_some_and(|value| !matches!(value.get(), "null" | "\"\"" | "[]"))
}

/// Changes of a JSON text at known places, the first place first.
struct Changes<'a> {
    text: &'a [u8],
    changes: Vec<(usize, usize, &'a str)>,
}

impl<'a> Changes<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            changes: Vec::with_capacity(2),
        }
    }

    /// Where a value stands that was read from the text.
    fn place(&self, value: &RawValue) -> usize {
        value.get().as_ptr().addr() - self.text.as_ptr().addr()
    }

    fn rename(&mut self, parts: &Parts<'_>, names: &'a Names) {
        for (value, name) in [(parts.id, &names.id), (parts.model, &names.model)] {
            if let Some(value) = value {
                self.replace(value, name);
            }
        }
    }

    fn replace(&mut self, value: &RawValue, by: &'a str) {
        let start = self.place(value);
        self.changes.push((start, start + value.get().len(), by));
    }

    /// Takes a field out, and one of the commas beside it.
    fn remove(&mut self, name: &str, value: &RawValue) {
        let mut start = self.place(value);
        let mut end = start + value.get().len();
        let back = |from: usize| self.text[..from].trim_ascii_end().len();
        // Over the colon and the name in its quotes.
        let key = back(back(start).saturating_sub(1)).saturating_sub(name.len() + 2);
        let quoted = self.text[key..].strip_prefix(b"\"");
        if !quoted.is_some_and(|rest| rest.starts_with(name.as_bytes())) {
            // A name that is written another way stays.
            return self.replace(value, "null");
        }
        start = key;
        let before = back(start);
        if self.text[..before].ends_with(b",") {
            start = before - 1;
        } else {
            let after = &self.text[end..];
            let rest = after.trim_ascii_start();
            if rest.starts_with(b",") {
                end += after.len() - rest.len() + 1;
            }
        }
        self.changes.push((start, end, ""));
    }

    fn apply(mut self) -> Vec<u8> {
        self.changes.sort_unstable();
        let mut out = Vec::with_capacity(self.text.len() + 64);
        let mut from = 0;
        for (start, end, by) in self.changes {
            out.extend_from_slice(&self.text[from..start]);
            out.extend_from_slice(by.as_bytes());
            from = end;
        }
        out.extend_from_slice(&self.text[from..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            id: "\"own\"".into(),
            model: "\"asked\"".into(),
            endpoint: Endpoint::Chat,
        }
    }

    fn read(json: &str, shows_usage: bool) -> (String, Chunk) {
        let chunk = Chunk::read(json.as_bytes(), &names(), shows_usage).unwrap();
        let text = String::from_utf8(chunk.json.clone()).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        (text, chunk)
    }

    #[test]
    fn the_model_is_named_as_it_was_asked_for_and_the_rest_goes_on_as_it_is() {
        let (text, chunk) = read(
            r#"{"id":"a","model" : "Org/Other","choices":[{"index":0,"delta":{"content":"\"model\":\"x\" 水"},"finish_reason":null}],"x":{"model":1}}"#,
            false,
        );
        assert_eq!(
            text,
            r#"{"id":"own","model" : "asked","choices":[{"index":0,"delta":{"content":"\"model\":\"x\" 水"},"finish_reason":null}],"x":{"model":1}}"#
        );
        assert!(chunk.has_token && chunk.ends.is_empty() && !chunk.is_usage);
    }

    #[test]
    fn usage_is_read_and_hidden() {
        let count = Count {
            prompt_tokens: 5,
            cached_tokens: 4,
            completion_tokens: 2,
        };
        let usage = r#"{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}"#;
        for (json, left) in [
            (
                format!(r#"{{"usage" : {usage} , "choices":[]}}"#),
                r#"{ "choices":[]}"#,
            ),
            (
                format!(r#"{{"choices":[] , "usage":{usage}}}"#),
                r#"{"choices":[] }"#,
            ),
            (
                format!(r#"{{"choices":[],"usage":{usage},"x":1}}"#),
                r#"{"choices":[],"x":1}"#,
            ),
            (format!(r#"{{"usage":{usage}}}"#), "{}"),
            (
                format!(r#"{{"us\u0061ge":{usage}}}"#),
                r#"{"us\u0061ge":null}"#,
            ),
        ] {
            let (text, chunk) = read(&json, false);
            assert_eq!((text.as_str(), chunk.usage), (left, Some(count)));
            assert!(chunk.is_usage);
            assert_eq!(read(&json, true).0, json);
        }
    }

    #[test]
    fn a_usage_within_the_stream_is_hidden_from_who_asked_for_it_at_the_end() {
        let json = r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
        let (text, chunk) = read(json, true);
        assert_eq!(text, r#"{"choices":[{"delta":{"content":"a"}}]}"#);
        assert_eq!(chunk.usage.unwrap().completion_tokens, 2);
    }

    #[test]
    fn what_no_token_was_spent_on_is_known() {
        for (json, has_token, ends) in [
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
                false,
                0,
            ),
            (
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
                false,
                1,
            ),
            (
                r#"{"choices":[{"delta":{"tool_calls":[{}]}},{"text":"x","finish_reason":"length"}]}"#,
                true,
                1,
            ),
            (
                r#"{"choices":[{"text":"","finish_reason":null}]}"#,
                false,
                0,
            ),
        ] {
            let chunk = read(json, false).1;
            assert_eq!(
                (chunk.has_token, chunk.ends.len()),
                (has_token, ends),
                "{json}"
            );
        }
    }

    #[test]
    fn a_whole_answer_gets_the_end_and_the_usage_that_its_worker_left_out() {
        let usage = Usage {
            prompt_tokens: 3,
            cached_tokens: 0,
            completion_tokens: 2,
            reasoning_tokens: 0,
        };
        let good = r#"{"choices":[{"finish_reason":"length","message":{"content":"\"finish_reason\":null"}}]}"#;
        let told = Some(Count::default());
        assert!(!is_incomplete(good.as_bytes(), told) && is_incomplete(good.as_bytes(), None));
        for (choice, reason) in [
            (r#"{"message":{"content":"a"}}"#, "stop"),
            (
                r#"{"message":{"tool_calls":[{}]},"finish_reason": null}"#,
                "tool_calls",
            ),
            (
                r#"{"message":{"tool_calls":[]},"finish_reason":null}"#,
                "stop",
            ),
        ] {
            let body = format!(r#"{{"choices":[{choice}],"usage":null}}"#);
            assert!(is_incomplete(body.as_bytes(), told), "{body}");
            let whole: Value =
                serde_json::from_slice(&completed(body.into(), usage, false)).unwrap();
            assert_eq!(whole["choices"][0]["finish_reason"], reason);
            assert_eq!(whole["usage"]["total_tokens"], 5);
        }
    }

    #[test]
    fn a_usage_that_is_none_counts_as_none() {
        for usage in [
            "null",
            "7",
            r#"{"prompt_tokens":-1}"#,
            r#"{"prompt_tokens":99999999999}"#,
        ] {
            let json = format!(r#"{{"choices":[{{"text":"x"}}],"usage":{usage}}}"#);
            assert_eq!(read(&json, false).1.usage, None, "{usage}");
        }
    }

    #[test]
    fn what_is_no_chunk_breaks_the_answer() {
        for data in [
            "",
            "x",
            "[]",
            "{\"choices\":7}",
            "{\"error\":{\"message\":\"secret\"}}",
            "{\"model\":1,\"model\":2}",
        ] {
            let failure = Chunk::read(data.as_bytes(), &names(), false).unwrap_err();
            assert!(matches!(failure, Failure::Broken(_)));
            assert!(!failure.to_string().contains("secret"));
        }
    }
}
