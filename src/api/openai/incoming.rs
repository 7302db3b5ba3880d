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
        let is_text = name == place || name == "suffix";
        let passes = match serde_json::from_str::<Value>(value) {
            Ok(mut content) if is_text => {
                look(&mut content, guards, found)?;
                content.to_string()
            }
            _ => value.to_owned(),
        };
        fields.push((name, passes));
    }
    if let Some(rule) = &found.blocked {
        return Err(ApiError::filtered(place, rule));
    }
    let mut admitted = written(&fields, &peeked.model)?;
    admitted.choice.clone_from(&peeked.choice);
    Ok(admitted)
}

/// A prompt, prompts, or the turns of a conversation.
fn look(content: &mut Value, guards: &Guards, found: &mut Found) -> Result<(), ApiError> {
    match content {
        Value::String(text) => *text = guards.text(Side::Input, text, found),
        Value::Array(parts) => {
            for part in parts {
                match part {
                    Value::Object(turn) => {
                        for (name, value) in turn.iter_mut() {
                            match name.as_str() {
                                "content" | "text" | "refusal" | "reasoning_content" => {
                                    look(value, guards, found)?;
                                }
                                "tool_calls" => calls(value, guards, found),
                                "function_call" => call(value, guards, found),
                                _ => {}
                            }
                        }
                    }
                    other => look(other, guards, found)?,
                }
            }
        }
        Value::Number(_) => {
            let message = "this model's requests are guarded: it takes texts, and no tokens";
            return Err(ApiError::invalid(Some("prompt"), message));
        }
        // What is no text is the decoder's to refuse.
        Value::Null | Value::Bool(_) | Value::Object(_) => {}
    }
    Ok(())
}

fn calls(value: &mut Value, guards: &Guards, found: &mut Found) {
    for each in value.as_array_mut().into_iter().flatten() {
        if let Some(function) = each.get_mut("function") {
            call(function, guards, found);
        }
    }
}

fn call(function: &mut Value, guards: &Guards, found: &mut Found) {
    let Some(arguments) = function.get("arguments").and_then(Value::as_str) else {
        return;
    };
    let passes = guards.arguments(Side::Input, arguments, found);
    if let Some(place) = function.get_mut("arguments") {
        *place = json!(passes);
    }
}
