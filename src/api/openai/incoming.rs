//! What a vertical's rules let into it, before anything else is made of a request.

use serde_json::{Value, json};

use super::relay::{Peeked, written};
use crate::api::error::ApiError;
use crate::guard::{Found, Guards, Side};
use crate::types::Endpoint;

/// Fields by which a client would be shown what the rules hide.
const SHOWS_TOKENS: [&str; 5] = [
    "logprobs",
    "prompt_logprobs",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "top_logprobs",
];

/// Fields that no model reads.
const PLAIN: [&str; 9] = [
    "metadata",
    "model",
    "prompt_cache_key",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "stop",
    "tool_choice",
    "user",
];

/// The request as the rules let it in; what they find goes into `found`.
pub(super) fn admitted(
    peeked: Peeked,
    guards: &Guards,
    endpoint: Endpoint,
    found: &mut Found,
) -> Result<Peeked, ApiError> {
    if guards.hold(Side::Output) {
        let shows = |(name, value): &(&str, &str)| {
            SHOWS_TOKENS.contains(name) && !["null", "false"].contains(value)
        };
        if let Some((name, _)) = peeked.values().find(shows) {
            let message = "this model's answers are guarded: their tokens are not shown";
            return Err(ApiError::invalid(Some(name), message));
        }
    }
    if !guards.look_at(Side::Input) {
        return Ok(peeked);
    }
    let place = match endpoint {
        Endpoint::Chat => "messages",
        Endpoint::Completions | Endpoint::Embeddings => "prompt",
    };
    let mut fields: Vec<(&str, String)> = Vec::new();
    for (name, value) in peeked.values() {
        if PLAIN.contains(&name) {
            fields.push((name, value.to_owned()));
            continue;
        }
        let mut content: Value = serde_json::from_str(value).map_err(|_| {
            let message = "it can't be read, and this model's requests are guarded";
            ApiError::invalid(Some(name), message)
        })?;
        let before = content.clone();
        match name {
            "messages" => turns(&mut content, guards, found),
            "prompt" => prompts(&mut content, guards, found)?,
            // How it is to be sampled is no text.
            _ if content.is_number() => {}
            _ => guards.texts_in(Side::Input, &mut content, found),
        }
        let same = content == before;
        fields.push((
            name,
            if same {
                value.to_owned()
            } else {
                content.to_string()
            },
        ));
    }
    if let Some(rule) = &found.blocked {
        return Err(ApiError::filtered(place, rule));
    }
    let mut admitted = written(&fields, &peeked.model)?;
    admitted.choice.clone_from(&peeked.choice);
    Ok(admitted)
}

/// A prompt, or several.
fn prompts(content: &mut Value, guards: &Guards, found: &mut Found) -> Result<(), ApiError> {
    let has_tokens = match content {
        Value::Array(prompts) => prompts.iter().any(|prompt| {
            let numbers = prompt.as_array().into_iter().flatten();
            prompt.is_number() || numbers.into_iter().any(Value::is_number)
        }),
        _ => false,
    };
    if has_tokens {
        let message = "this model's requests are guarded: it takes texts, and no tokens";
        return Err(ApiError::invalid(Some("prompt"), message));
    }
    guards.texts_in(Side::Input, content, found);
    Ok(())
}

/// The turns of a conversation.
fn turns(content: &mut Value, guards: &Guards, found: &mut Found) {
    for turn in content.as_array_mut().into_iter().flatten() {
        let Some(fields) = turn.as_object_mut() else {
            continue;
        };
        for (name, value) in fields.iter_mut() {
            match (name.as_str(), value) {
                ("role" | "tool_call_id", _) => {}
                ("content", Value::Array(parts)) => joined(parts, guards, found),
                ("tool_calls", Value::Array(calls)) => {
                    for each in calls {
                        if let Some(function) = each.get_mut("function") {
                            call(function, guards, found);
                        }
                    }
                }
                ("function_call", function) => call(function, guards, found),
                (_, value) => guards.texts_in(Side::Input, value, found),
            }
        }
    }
}

/// Parts are read one after another, with nothing between them: so are they looked at.
fn joined(parts: &mut [Value], guards: &Guards, found: &mut Found) {
    let texts = parts.iter().filter_map(|part| part["text"].as_str());
    let text: String = texts.collect();
    let passes = guards.text(Side::Input, &text, found);
    let mut left = (passes != text).then_some(passes);
    let is_changed = left.is_some();
    for part in parts {
        let Some(fields) = part.as_object_mut() else {
            guards.texts_in(Side::Input, part, found);
            continue;
        };
        for (name, value) in fields.iter_mut() {
            match name.as_str() {
                "type" => {}
                "text" if is_changed => *value = json!(left.take().unwrap_or_default()),
                "text" => {}
                _ => guards.texts_in(Side::Input, value, found),
            }
        }
    }
}

fn call(function: &mut Value, guards: &Guards, found: &mut Found) {
    let Some(fields) = function.as_object_mut() else {
        return;
    };
    for (name, value) in fields.iter_mut() {
        match (name.as_str(), value.as_str()) {
            ("arguments", Some(arguments)) => {
                *value = json!(guards.arguments(Side::Input, arguments, found));
            }
            _ => guards.texts_in(Side::Input, value, found),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::relay::peek;
    use super::*;

    /// The body as it is let in by a rule that hides a word of two parts, or why it isn't.
    fn let_in(then: &str, body: &str, endpoint: Endpoint) -> Result<Value, u16> {
        let rules = json!([{"name": "r", "then": then, "words": ["launch code"], "on": "input"}]);
        let guards = Guards::new(&serde_json::from_value::<Vec<_>>(rules).unwrap()).unwrap();
        let peeked = peek(Bytes::from(body.to_owned()), None).ok().unwrap();
        let admitted = admitted(peeked, &guards, endpoint, &mut Found::default());
        let admitted = admitted.map_err(|error| error.status.as_u16())?;
        Ok(admitted.decode().ok().unwrap())
    }

    fn chat(more: &Value) -> String {
        let mut body = json!({"model": "m", "seed": 7, "temperature": 0.5, "messages": [{"role": "user", "content": "Hi"}]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body.to_string()
    }

    #[test]
    fn parts_are_looked_at_as_they_are_read() {
        let parts = |texts: [&str; 2]| json!([{"type": "text", "text": texts[0]}, {"type": "text", "text": texts[1]}]);
        let turn = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
        let body = chat(&turn(parts(["my lau", "nch code"])));
        assert_eq!(let_in("block", &body, Endpoint::Chat), Err(400));
        let hidden = let_in("mask", &body, Endpoint::Chat).unwrap();
        assert_eq!(hidden["messages"][0]["content"], parts(["my [r]", ""]));
        let harmless = chat(&turn(parts(["a", "b"])));
        assert_eq!(
            let_in("mask", &harmless, Endpoint::Chat)
                .unwrap()
                .to_string(),
            harmless
        );
    }

    #[test]
    fn no_place_of_a_request_is_passed_over() {
        let secret = "launch code";
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":\"launch\\u0020code\"}"}});
        for more in [
            json!({"tools": [{"type": "function", "function": {"name": "f", "description": secret}}]}),
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [secret]}}}}),
            json!({"prediction": {"type": "content", "content": secret}}),
            json!({"messages": [{"role": "user", "name": secret, "content": "Hi"}]}),
            json!({"messages": [{"role": "assistant", "reasoning": secret, "content": "Hi"}]}),
            json!({"messages": [{"role": "assistant", "tool_calls": [call]}]}),
        ] {
            assert_eq!(
                let_in("block", &chat(&more), Endpoint::Chat),
                Err(400),
                "{more}"
            );
        }
        // Who asks, and how it is sampled, is no text.
        let plain = chat(&json!({"user": secret, "metadata": {"a": secret}}));
        assert_eq!(
            let_in("block", &plain, Endpoint::Chat).unwrap().to_string(),
            plain
        );
        // What can't be read can't be looked at.
        let broken = "{\"model\":\"m\",\"messages\":[],\"suffix\":\"\\ud800\"}";
        assert_eq!(let_in("mask", broken, Endpoint::Chat), Err(400));
    }

    #[test]
    fn prompts_are_texts() {
        let prompt = |prompt: Value| json!({"model": "m", "prompt": prompt}).to_string();
        for tokens in [json!([1, 2]), json!([[1, 2], [3]])] {
            assert_eq!(
                let_in("mask", &prompt(tokens), Endpoint::Completions),
                Err(400)
            );
        }
        let hidden = let_in(
            "mask",
            &prompt(json!(["a", "launch code"])),
            Endpoint::Completions,
        );
        assert_eq!(hidden.unwrap()["prompt"], json!(["a", "[r]"]));
    }
}
