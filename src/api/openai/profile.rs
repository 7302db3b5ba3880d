//! What a vertical adds to a request, in the request's own words: so it holds for engines in this process and for remote
//! workers alike, for every field there is.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::incoming::admitted;
use super::relay::{Peeked, Shadow, peek, written};
use crate::api::Api;
use crate::api::asked::Asked;
use crate::api::error::ApiError;
use crate::gateway::Decision;
use crate::guard::{Found, Side};
use crate::router::Choice;
use crate::tenancy::Access;
use crate::types::{AUTO, Class, Endpoint, Example, Profile};

/// Fields that say the same.
const SAME: [[&str; 2]; 4] = [
    ["max_completion_tokens", "max_tokens"],
    ["tools", "functions"],
    ["tool_choice", "function_call"],
    ["safety_identifier", "user"],
];

/// A request as it came, with what the vertical has to add.
pub(super) async fn profiled(
    api: &Api,
    asked: &Asked,
    body: Bytes,
    endpoint: Endpoint,
) -> Result<Peeked, ApiError> {
    let peeked = peek(body, asked.deployment())?;
    with_profile(api, (asked.access(), asked.class(None)), peeked, endpoint).await
}

/// The request as the vertical has it. A model that the key may not ask is left to be refused.
pub(super) async fn with_profile(
    api: &Api,
    (access, class): (&Access, Class),
    mut peeked: Peeked,
    endpoint: Endpoint,
) -> Result<Peeked, ApiError> {
    if peeked.model == AUTO && api.gateway.router.auto().is_some() {
        if let Some((choice, decision)) = decided(api, (access, class), &peeked).await {
            let verticals = &api.gateway.metrics.verticals;
            verticals.routed(choice.model(), decision.by);
            peeked.choice = Some(choice);
            peeked.decision = Some(Arc::new(decision));
        }
    } else {
        let end_user = peeked.end_user();
        peeked.choice = api
            .gateway
            .choose(access, &peeked.model, end_user.as_deref());
    }
    let Some(choice) = peeked.choice.clone() else {
        return Ok(peeked);
    };
    let shadow = choice.shadow().map(|choice| Shadow {
        body: peeked.body().clone(),
        choice,
    });
    let (model, mut found) = (Arc::clone(choice.model()), Found::default());
    let decision = peeked.decision.clone();
    let turns = (peeked, choice);
    let told = told(api, (access, class), turns, endpoint, &mut found).await;
    let verticals = &api.gateway.metrics.verticals;
    verticals.guard(&model, Side::Input, &found);
    let mut peeked = told?;
    peeked.decision = decision;
    peeked.found = found;
    peeked.shadow = shadow;
    Ok(peeked)
}

/// What a request for `auto` comes to. `None` where there is no `auto`, or nothing that this key may ask.
pub(super) async fn decided(
    api: &Api,
    caller: (&Access, Class),
    peeked: &Peeked,
) -> Option<(Choice, Decision)> {
    let (text, tools) = (question(peeked), peeked.names_tools());
    let end_user = peeked.end_user();
    let routed = api.gateway.route(caller, &text, tools, end_user.as_deref());
    routed.await
}

/// The request as this revision has it; what its rules find in it goes into `found`.
pub(super) async fn told(
    api: &Api,
    (access, class): (&Access, Class),
    (peeked, choice): (Peeked, Choice),
    endpoint: Endpoint,
    found: &mut Found,
) -> Result<Peeked, ApiError> {
    let peeked = admitted(peeked, choice.guards(), endpoint, found)?;
    let Some(profile) = choice.profile() else {
        return Ok(peeked);
    };
    if endpoint == Endpoint::Completions && !profile.is_of_texts() {
        let message = "this model answers chats, and continues no texts";
        return Err(ApiError::invalid(Some("model"), message));
    }
    let has_turns = peeked.values().any(|(name, _)| name == "messages");
    let shown: Vec<_> = match &profile.nearest {
        Some(_) if has_turns => {
            let question = question(&peeked);
            let nearest = api
                .gateway
                .nearest((access, class), &choice, profile, &question);
            let nearest = nearest.await?.into_iter();
            nearest
                .filter_map(|index| profile.examples.get(index))
                .collect()
        }
        _ => profile.examples.iter().collect(),
    };
    let mut told = applied(&peeked, profile, &shown, endpoint)?;
    told.choice = Some(choice);
    Ok(told)
}

/// Lets a question be compared with the suite that its vertical was tried on, where its project opted in.
pub(super) fn sample(api: &Api, asked: &Asked, peeked: &Peeked) {
    let Some(choice) = peeked.choice.as_ref() else {
        return;
    };
    if choice.drift().is_some() {
        let access = asked.shared_access();
        api.gateway.sample(&access, choice, question(peeked));
    }
}

/// What the user said last; empty where it is no text, which is the decoder's to refuse.
fn question(peeked: &Peeked) -> String {
    let messages = peeked.values().find(|(name, _)| *name == "messages");
    if messages.is_none()
        && let Some((_, prompt)) = peeked.values().find(|(name, _)| *name == "prompt")
    {
        return serde_json::from_str(prompt).unwrap_or_default();
    }
    let turns = messages.and_then(|(_, turns)| serde_json::from_str::<Vec<Turn>>(turns).ok());
    let last = turns
        .into_iter()
        .flatten()
        .rfind(|turn| turn.role.as_deref() == Some("user"));
    match last.and_then(|turn| turn.content) {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn applied(
    peeked: &Peeked,
    profile: &Profile,
    shown: &[&Example],
    endpoint: Endpoint,
) -> Result<Peeked, ApiError> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for (name, value) in peeked.values() {
        // A locked field goes under whatever name it comes.
        if !named(name).any(|name| profile.locked.contains_key(name)) {
            fields.push((name, value.to_owned()));
        }
    }
    for (name, value) in &profile.locked {
        fields.push((name, value.to_string()));
    }
    for (name, value) in &profile.defaults {
        let is_given = |(given, value): &(&str, String)| {
            value != "null" && named(name).any(|name| name == *given)
        };
        if !fields.iter().any(is_given) {
            fields.retain(|(given, _)| given != name);
            fields.push((name, value.to_string()));
        }
    }
    if endpoint == Endpoint::Chat
        && let Some((_, messages)) = fields.iter_mut().find(|(name, _)| *name == "messages")
    {
        *messages = conversation(messages, profile, shown)?;
    }
    written(&fields, &peeked.model)
}

/// A field's name, and the other one that says the same.
fn named(name: &str) -> impl Iterator<Item = &str> {
    let same = SAME.iter().find(|same| same.contains(&name));
    let others = same
        .into_iter()
        .flatten()
        .copied()
        .filter(move |other| *other != name);
    std::iter::once(name).chain(others)
}

#[derive(Deserialize)]
struct Turn {
    role: Option<String>,
    content: Option<Value>,
}

/// The profile's turns and the client's. Templates know one system's turn, the first: a client's own goes on where the
/// profile's ends.
fn conversation(messages: &str, profile: &Profile, shown: &[&Example]) -> Result<String, ApiError> {
    let wrong = |error: serde_json::Error| {
        let text = error.to_string();
        let words = text.split(" at line ").next().unwrap_or_default();
        ApiError::invalid(Some("messages"), words)
    };
    let mut rest: &[&RawValue] =
        &serde_json::from_str::<Vec<&RawValue>>(messages).map_err(wrong)?;
    if rest.is_empty() {
        let message = "messages must hold at least one";
        return Err(ApiError::invalid(Some("messages"), message));
    }
    let mut turns = Vec::with_capacity(rest.len() + 1 + 2 * shown.len());
    if let Some(system) = profile.orders() {
        let mut content = json!(system);
        if let Some((first, others)) = rest.split_first()
            && let Ok(turn) = serde_json::from_str::<Turn>(first.get())
            && matches!(turn.role.as_deref(), Some("system" | "developer"))
            && let Some(own) = turn.content
        {
            content = joined(&system, own)?;
            rest = others;
        }
        turns.push(json!({"role": "system", "content": content}).to_string());
    }
    for example in shown {
        turns.push(json!({"role": "user", "content": example.input}).to_string());
        turns.push(json!({"role": "assistant", "content": example.output}).to_string());
    }
    turns.extend(rest.iter().map(|turn| turn.get().to_owned()));
    Ok(format!("[{}]", turns.join(",")))
}

/// A client's content is a text, or parts.
fn joined(system: &str, own: Value) -> Result<Value, ApiError> {
    Ok(match own {
        Value::String(own) => json!(format!("{system}\n\n{own}")),
        Value::Array(parts) => {
            let first = json!({"type": "text", "text": format!("{system}\n\n")});
            std::iter::once(first).chain(parts).collect()
        }
        other => {
            let message = format!("messages[0].content can't be {other}");
            return Err(ApiError::invalid(Some("messages[0].content"), &message));
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn profile(defaults: Value, locked: Value) -> Profile {
        let fields =
            |value: Value| -> Map<String, Value> { serde_json::from_value(value).unwrap() };
        Profile {
            defaults: fields(defaults),
            locked: fields(locked),
            ..Profile::default()
        }
    }

    fn rewritten(body: &Value, profile: &Profile, endpoint: Endpoint) -> Value {
        let peeked = peek(Bytes::from(body.to_string()), None).ok().unwrap();
        let shown: Vec<_> = profile.examples.iter().collect();
        let peeked = applied(&peeked, profile, &shown, endpoint).ok().unwrap();
        peeked.decode().ok().unwrap()
    }

    #[test]
    fn what_a_client_leaves_out_is_filled_in_and_what_is_locked_is_replaced() {
        let profile = profile(
            json!({"max_tokens": 8, "stop": ["\n"], "top_p": 0.5}),
            json!({"temperature": 0, "tools": []}),
        );
        let body = json!({
            "model": "m", "prompt": "a", "top_p": null, "stop": "x", "temperature": 2, "functions": [1],
            "max_completion_tokens": 3, "anything": {"a": 1.50},
        });
        let expected = json!({
            "model": "m", "prompt": "a", "stop": "x", "max_completion_tokens": 3, "anything": {"a": 1.50},
            "temperature": 0, "tools": [], "top_p": 0.5,
        });
        assert_eq!(rewritten(&body, &profile, Endpoint::Completions), expected);
    }

    #[test]
    fn the_profile_speaks_before_the_client() {
        let profile = Profile {
            system: Some("Be kind.".into()),
            examples: vec![Example {
                input: "Hi".into(),
                output: "\"Ho\"".into(),
            }],
            ..Profile::default()
        };
        let turn = |role: &str, content: Value| json!({"role": role, "content": content});
        let shown = [
            turn("user", json!("Hi")),
            turn("assistant", json!("\"Ho\"")),
        ];
        let asked = turn("user", json!("And?"));
        let parts = json!([{"type": "text", "text": "Be short."}]);
        for (own, expected) in [
            (None, json!("Be kind.")),
            (Some(json!("Be short.")), json!("Be kind.\n\nBe short.")),
            (
                Some(parts),
                json!([{"type": "text", "text": "Be kind.\n\n"}, {"type": "text", "text": "Be short."}]),
            ),
        ] {
            for role in ["system", "developer"] {
                let own = own.clone().map(|content| turn(role, content));
                let messages: Vec<_> = own.into_iter().chain([asked.clone()]).collect();
                let body = json!({"model": "m", "messages": messages});
                let told = rewritten(&body, &profile, Endpoint::Chat);
                let first = turn("system", expected.clone());
                assert_eq!(told["messages"], json!([first, shown[0], shown[1], asked]));
            }
        }
    }

    #[test]
    fn a_client_can_not_take_the_profiles_words_away() {
        let profile = Profile {
            system: Some("Be kind.".into()),
            ..Profile::default()
        };
        for messages in [
            json!([]),
            json!([{"role": "system", "content": true}]),
            json!([{"role": "developer", "content": {"a": 1}}, {"role": "user", "content": "x"}]),
        ] {
            let body = json!({"model": "m", "messages": messages});
            let peeked = peek(Bytes::from(body.to_string()), None).ok().unwrap();
            let error = applied(&peeked, &profile, &[], Endpoint::Chat).err();
            assert!(error.is_some_and(|error| error.status == 400), "{body}");
        }
    }

    #[test]
    fn what_is_no_conversation_is_refused_by_name() {
        let profile = profile(json!({}), json!({"n": 1}));
        let peeked = peek(
            Bytes::from_static(b"{\"model\":\"m\",\"messages\":3}"),
            None,
        );
        let error = applied(&peeked.ok().unwrap(), &profile, &[], Endpoint::Chat)
            .err()
            .unwrap();
        assert!(error.event().contains("\"messages\""), "{}", error.event());
    }
}
