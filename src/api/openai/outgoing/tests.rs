use serde_json::{Value, json};

use super::*;

fn outgoing(rules: Value, until: Option<&str>) -> Outgoing {
    let rules: Vec<_> = serde_json::from_value(rules).unwrap();
    let guards = Arc::new(Guards::new(&rules).unwrap());
    Outgoing::new(guards, until.map(Arc::from)).unwrap()
}

fn masking() -> Value {
    json!([{"name": "m", "then": "mask", "pii": ["email"]}])
}

fn text(text: &str) -> Event {
    Event::Delta(Delta {
        text: text.into(),
        ..Delta::default()
    })
}

/// The text and the thoughts of all events, the calls, and how it ended.
fn run(outgoing: &mut Outgoing, events: Vec<Event>) -> (String, String, Vec<CallDelta>, Finish) {
    let (mut all, mut thought) = (String::new(), String::new());
    let (mut calls, mut end) = (Vec::new(), None);
    for event in events {
        for event in outgoing.event(event) {
            match event {
                Event::Delta(delta) => {
                    all += &delta.text;
                    thought += &delta.thought;
                    calls = [calls, delta.calls].concat();
                }
                Event::Finish { finish, .. } => end = Some(finish),
                Event::Relay { .. } | Event::End { .. } => {}
            }
        }
    }
    (all, thought, calls, end.unwrap())
}

fn ended(finish: Finish) -> Event {
    Event::Finish { choice: 0, finish }
}

#[test]
fn thoughts_are_told_apart_at_the_verticals_own_mark() {
    let mut outgoing = outgoing(json!([]), Some("Answer:"));
    let events = ["2 and 2 ", "make 4.\nAns", "wer: 4", "2"].map(text);
    let all = events.into_iter().chain([ended(Finish::Stop)]).collect();
    let (answer, thought, _, _) = run(&mut outgoing, all);
    assert_eq!(
        (answer.as_str(), thought.as_str()),
        ("42", "2 and 2 make 4.")
    );
}

#[test]
fn a_rule_holds_in_thoughts_and_in_text() {
    let mut outgoing = outgoing(masking(), Some("Answer:"));
    let events = ["it is a@b.", "org\nAnswer: a@b", ".org"].map(text);
    let all = events.into_iter().chain([ended(Finish::Length)]).collect();
    let (answer, thought, _, finish) = run(&mut outgoing, all);
    assert_eq!(
        (answer.as_str(), thought.as_str()),
        ("[email]", "it is [email]")
    );
    assert_eq!(finish, Finish::Length);
}

#[test]
fn a_call_waits_for_its_end_and_is_hidden_in() {
    let mut outgoing = outgoing(masking(), None);
    let call = |opens: Option<(String, String)>, arguments: &str| {
        Event::Delta(Delta {
            calls: vec![CallDelta {
                index: 0,
                opens,
                arguments: arguments.into(),
            }],
            ..Delta::default()
        })
    };
    let opens = Some(("id".to_owned(), "send".to_owned()));
    let events = vec![
        call(opens.clone(), "{\"to\":\"a"),
        call(None, "@b.org\"}"),
        ended(Finish::ToolCalls),
    ];
    let (_, _, calls, finish) = run(&mut outgoing, events);
    let expected = CallDelta {
        index: 0,
        opens,
        arguments: "{\"to\":\"[email]\"}".into(),
    };
    assert_eq!((calls, finish), (vec![expected], Finish::ToolCalls));
}

#[test]
fn what_is_refused_ends_the_answer_and_says_so() {
    let rules = json!([{"name": "b", "then": "block", "words": ["stop"]}]);
    let mut outgoing = outgoing(rules, None);
    let events = vec![text("go st"), text("op now"), ended(Finish::Length)];
    let (answer, _, _, finish) = run(&mut outgoing, events);
    assert_eq!((answer.as_str(), finish), ("go ", Finish::ContentFilter));
    assert_eq!(outgoing.found().all().collect::<Vec<_>>(), [("b", "block")]);
}

#[test]
fn what_a_worker_wrote_in_frames_is_hidden_in_as_well() {
    let mut outgoing = outgoing(masking(), None);
    let frame = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish, "logprobs": {"content": ["a@b"]}});
        format!(
            "data: {}\n\n",
            json!({"id": "x", "choices": [choice], "prompt_token_ids": [1]})
        )
    };
    let mut all = String::new();
    for frames in [
        frame(
            json!({"role": "assistant", "content": "I am a@"}),
            Value::Null,
        ),
        frame(json!({"content": "b.org"}), Value::Null)
            + &frame(json!({"content": ", yes"}), Value::Null),
        frame(json!({}), json!("stop")) + "data: [DONE]\n\n",
    ] {
        let passes = outgoing.frames(&frames.into());
        let passes = std::str::from_utf8(&passes).unwrap().to_owned();
        assert!(
            !passes.contains("a@") && !passes.contains("logprobs") && !passes.contains("token_ids")
        );
        all += &passes;
    }
    let content: String = all
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .map(|chunk| {
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert_eq!(content, "I am [email], yes");
    assert!(all.ends_with("data: [DONE]\n\n"));
}

#[test]
fn so_it_is_in_a_whole_body_and_in_a_text() {
    let mut outgoing = outgoing(masking(), Some("Answer:"));
    let message = json!({"role": "assistant", "content": "hm. Answer: a@b.org", "tool_calls": []});
    let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"total_tokens": 3}});
    let passes = outgoing.frames(&body.to_string().into());
    let passes: Value = serde_json::from_slice(&passes).unwrap();
    let message = &passes["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["reasoning_content"]),
        (&json!("[email]"), &json!("hm."))
    );
    assert_eq!(passes["usage"], json!({"total_tokens": 3}));

    let mut outgoing = self::outgoing(masking(), None);
    let body = json!({"choices": [{"index": 0, "text": "a@b.org", "finish_reason": "length"}]});
    let passes = outgoing.frames(&body.to_string().into());
    let passes: Value = serde_json::from_slice(&passes).unwrap();
    assert_eq!(passes["choices"][0]["text"], "[email]");
}
