//! The shapes of answers.

use super::*;
use crate::api::openai::answer::{Choice, Shape, Whole};
use crate::api::openai::chat::answer::Chat;
use crate::types::{CallDelta, Delta, Finish, Usage};

/// A chat that was asked for with these fields.
fn answering(fields: &Value) -> Chat {
    Chat {
        id: "chatcmpl-1".into(),
        created: 1,
        fingerprint: "fp_1".into(),
        model: "m".into(),
        tier: None,
        manner: request(fields).ok().unwrap().manner(),
    }
}

fn choice(text: &str, names: &[&str], finish: Finish) -> Choice {
    let call = |name: &&str| ToolCall {
        id: format!("call_{name}"),
        name: (*name).to_owned(),
        arguments: "{}".into(),
    };
    Choice {
        text: text.into(),
        thought: String::new(),
        calls: names.iter().map(call).collect(),
        logprobs: Vec::new(),
        finish,
    }
}

fn told(fields: &Value, choices: Vec<Choice>) -> Value {
    let usage = Usage::default();
    serde_json::to_value(answering(fields).completion(Whole { choices, usage })).unwrap()
}

#[test]
fn a_call_takes_the_place_of_content() {
    let fields = json!({"tools": [function("clock")]});
    let choices = vec![
        choice("", &["clock", "dice"], Finish::ToolCalls),
        choice("Let me see.", &["clock"], Finish::ToolCalls),
        choice("", &[], Finish::Stop),
    ];
    let answer = told(&fields, choices);
    let choices = answer["choices"].as_array().unwrap();
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
    }
    let first = json!({
        "index": 0,
        "message": {
            "role": "assistant", "content": null, "refusal": null,
            "tool_calls": [
                {"id": "call_clock", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
                {"id": "call_dice", "type": "function", "function": {"name": "dice", "arguments": "{}"}},
            ],
        },
        "logprobs": null,
        "finish_reason": "tool_calls",
    });
    assert_eq!(choices[0], first);
    assert_eq!(choices[1]["message"]["content"], "Let me see.");
    assert_eq!(choices[2]["message"]["content"], "");
    assert!(choices[2]["message"].get("tool_calls").is_none());
    assert_eq!(choices[2]["finish_reason"], "stop");
}

#[test]
fn the_reason_says_whose_choice_the_call_was() {
    let functions = json!([{"name": "clock"}]);
    for (fields, reason) in [
        (
            json!({"tools": [function("clock")], "tool_choice": "required"}),
            "tool_calls",
        ),
        (
            json!({"tools": [function("clock")], "tool_choice": function("clock")}),
            "stop",
        ),
        (json!({"functions": functions}), "function_call"),
        (
            json!({"functions": functions, "function_call": {"name": "clock"}}),
            "stop",
        ),
    ] {
        let answer = told(&fields, vec![choice("", &["clock"], Finish::ToolCalls)]);
        assert_eq!(answer["choices"][0]["finish_reason"], reason, "{fields}");
        let cut = told(&fields, vec![choice("", &["clock"], Finish::Length)]);
        assert_eq!(cut["choices"][0]["finish_reason"], "length", "{fields}");
    }
}

#[test]
fn an_older_client_gets_a_function_call() {
    let fields = json!({"functions": [{"name": "clock"}]});
    let answer = told(&fields, vec![choice("", &["clock"], Finish::ToolCalls)]);
    let message = json!({
        "role": "assistant", "content": null, "refusal": null,
        "function_call": {"name": "clock", "arguments": "{}"},
    });
    assert_eq!(answer["choices"][0]["message"], message);
}

fn call_delta(opens: bool, arguments: &str) -> Delta {
    Delta {
        choice: 1,
        calls: vec![CallDelta {
            index: 0,
            opens: opens.then(|| ("call_a".to_owned(), "clock".to_owned())),
            arguments: arguments.into(),
        }],
        ..Delta::default()
    }
}

#[test]
fn a_streamed_call_is_named_once() {
    let choice = |chunk| serde_json::to_value(chunk).unwrap()["choices"][0].clone();
    let mut chat = answering(&json!({"tools": [function("clock")]}));
    let first = choice(chat.first(1));
    assert_eq!(first["index"], 1);
    assert_eq!(first["delta"], json!({"role": "assistant", "content": ""}));
    let opens = choice(Some(chat.delta(call_delta(true, ""))));
    let call = json!({"tool_calls": [
        {"index": 0, "id": "call_a", "type": "function", "function": {"name": "clock", "arguments": ""}},
    ]});
    assert_eq!((&opens["index"], &opens["delta"]), (&json!(1), &call));
    let more = choice(Some(chat.delta(call_delta(false, "{}"))));
    let rest = json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]});
    assert_eq!(more["delta"], rest);
    let last = choice(Some(chat.finish(1, Finish::ToolCalls)));
    let end = json!({"index": 1, "delta": {}, "logprobs": null, "finish_reason": "tool_calls"});
    assert_eq!(last, end);

    let mut older = answering(&json!({"functions": [{"name": "clock"}]}));
    let opens = choice(Some(older.delta(call_delta(true, "{"))));
    let call = json!({"function_call": {"name": "clock", "arguments": "{"}});
    assert_eq!(opens["delta"], call);
}

#[test]
fn thoughts_stand_beside_the_text() {
    let thinking = Choice {
        thought: "Hm.".into(),
        ..choice("Yes.", &[], Finish::Stop)
    };
    let whole = Whole {
        choices: vec![thinking],
        usage: Usage {
            completion_tokens: 5,
            reasoning_tokens: 3,
            ..Usage::default()
        },
    };
    let answer = answering(&json!({})).completion(whole);
    let answer = serde_json::to_value(answer).unwrap();
    let message = json!({
        "role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "refusal": null,
    });
    assert_eq!(answer["choices"][0]["message"], message);
    let details = &answer["usage"]["completion_tokens_details"];
    assert_eq!(*details, json!({"reasoning_tokens": 3}));

    let mut chat = answering(&json!({}));
    let mut delta = |thought: &str, text: &str| {
        let chunk = chat.delta(Delta {
            thought: thought.into(),
            text: text.into(),
            ..Delta::default()
        });
        serde_json::to_value(chunk).unwrap()["choices"][0]["delta"].clone()
    };
    assert_eq!(delta("Hm", ""), json!({"reasoning_content": "Hm"}));
    assert_eq!(delta("", "Yes"), json!({"content": "Yes"}));
    assert_eq!(delta("", ""), json!({"content": ""}));
}

#[test]
fn an_answer_names_its_tier_where_the_request_did() {
    let chat = |tier| Chat {
        tier,
        ..answering(&json!({}))
    };
    let finish = |tier| serde_json::to_value(chat(tier).finish(0, Finish::Stop)).unwrap();
    assert_eq!(finish(Some("flex"))["service_tier"], "flex");
    assert!(finish(None).get("service_tier").is_none());
}
