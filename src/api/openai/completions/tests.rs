use proptest::prelude::*;
use serde_json::{Value, json};

use super::answer::Text;
use super::logprobs::{Logprobs, Place};
use super::request::Request;
use crate::api::body;
use crate::api::error::ApiError;
use crate::api::openai::answer::{Choice, Shape, Whole};
use crate::types::{Delta, Finish, Generate, Prompt, TokenLogprob, TopLogprob, Usage};

fn decode(fields: &Value) -> Result<Generate, ApiError> {
    let mut whole = json!({"model": "m", "prompt": "Once"});
    for (name, value) in fields.as_object().unwrap() {
        whole[name] = value.clone();
    }
    body::decode::<Request>(whole.to_string().as_bytes())?.decode()
}

fn good(fields: Value) -> Generate {
    decode(&fields).unwrap_or_else(|error| panic!("{fields}: {}", error.event()))
}

#[test]
fn a_prompt_comes_in_four_forms() {
    let words = |prompts: Vec<Prompt>| -> Vec<String> {
        let word = |prompt| match prompt {
            Prompt::Text(text) => text,
            Prompt::Tokens(ids) => format!("{ids:?}"),
            Prompt::Chat(_) => panic!("a chat"),
        };
        prompts.into_iter().map(word).collect()
    };
    for (prompt, expected) in [
        (json!("a"), vec!["a"]),
        (json!(["a", "b"]), vec!["a", "b"]),
        (json!([1, 2]), vec!["[1, 2]"]),
        (json!([[1, 2], [3]]), vec!["[1, 2]", "[3]"]),
        (json!(["a", [3]]), vec!["a", "[3]"]),
        (json!([2_147_483_647]), vec!["[2147483647]"]),
    ] {
        assert_eq!(words(good(json!({"prompt": prompt})).prompts), expected);
    }
}

#[test]
fn what_isnt_said_has_openais_defaults() {
    let request = good(json!({"n": null, "echo": null, "logprobs": null, "best_of": null}));
    assert_eq!((request.choices, request.max_tokens), (1, Some(16)));
    assert!(!request.echo && request.top_logprobs.is_none());
}

#[test]
fn with_echo_no_token_may_be_asked_for() {
    let request = good(json!({"echo": true, "max_tokens": 0, "logprobs": 0}));
    assert_eq!(
        (request.max_tokens, request.top_logprobs),
        (Some(0), Some(0))
    );
    assert!(request.echo);
}

#[test]
fn as_many_answers_as_one_request_may_have_are_accepted() {
    let prompts = vec!["x"; 64];
    let request = good(json!({"prompt": prompts, "n": 2, "best_of": 2}));
    assert_eq!(request.answers(), 128);
}

#[test]
fn what_makes_no_sense_is_named() {
    for (fields, param) in [
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": [[1], []]}), "prompt[1]"),
        (json!({"prompt": [1, "a"]}), "prompt"),
        (json!({"prompt": [[1], 2]}), "prompt"),
        (json!({"prompt": [1, -2]}), "prompt[1]"),
        (json!({"prompt": [[1, 2_147_483_648_u32]]}), "prompt[0][1]"),
        (json!({"prompt": [1.5]}), "prompt[0]"),
        (json!({"prompt": [[[1]]]}), "prompt[0][0]"),
        (json!({"prompt": 7}), "prompt"),
        (json!({"prompt": {}}), "prompt"),
        (json!({"prompt": vec!["x"; 129]}), "prompt"),
        (json!({"prompt": vec!["x"; 65], "n": 2}), "n"),
        (json!({"n": 0}), "n"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"n": 2, "best_of": 1}), "best_of"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"min_tokens": 17}), "min_tokens"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"suffix": "end"}), "suffix"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
    ] {
        let Err(error) = decode(&fields) else {
            panic!("{fields} was accepted");
        };
        let body: Value = serde_json::from_str(&error.event()).unwrap();
        assert_eq!(error.status, 400, "{fields}: {body}");
        assert_eq!(body["error"]["param"], param, "{fields}: {body}");
    }
}

fn token(bytes: &[u8], logprob: Option<f32>, top: &[(&[u8], f32)]) -> TokenLogprob {
    let top = top.iter().map(|(bytes, logprob)| TopLogprob {
        bytes: bytes.to_vec(),
        logprob: *logprob,
    });
    TokenLogprob {
        id: 0,
        bytes: bytes.to_vec(),
        logprob,
        top: top.collect(),
    }
}

/// "Né 🌊!", where the é is in two tokens and the wave in three.
fn wave() -> Vec<TokenLogprob> {
    vec![
        token(b"N\xc3", None, &[]),
        token(b"\xa9 ", Some(-1.2), &[(b"\xa9 ", -1.2)]),
        token(b"\xf0\x9f", Some(-0.5), &[(b"\xf0\x9e", -0.3)]),
        token(b"\x8c", Some(f32::NEG_INFINITY), &[]),
        token(b"\x8a", Some(-0.1), &[]),
        token(b"!", Some(-2.0), &[(b"!", -2.0), (b"?", -3.0)]),
    ]
}

#[test]
fn log_probabilities_are_in_the_older_shape() {
    let shown = serde_json::to_value(Logprobs::new(wave(), &mut Place::default())).unwrap();
    let tokens = json!([
        r"bytes:N\xc3",
        r"bytes:\xa9 ",
        r"bytes:\xf0\x9f",
        r"bytes:\x8c",
        r"bytes:\x8a",
        "!",
    ]);
    assert_eq!(shown["tokens"], tokens);
    assert_eq!(shown["text_offset"], json!([0, 1, 3, 3, 3, 4]));
    let logprobs = Logprobs::new(wave(), &mut Place::default());
    let text = serde_json::to_string(&logprobs).unwrap();
    // The same number is written alike in both lists: clients compare them.
    let numbers = r#""token_logprobs":[null,-1.2,-0.5,-9999.0,-0.1,-2.0]"#;
    assert!(text.contains(numbers), "{text}");
    let tops = [
        "null",
        r#"{"bytes:\\xa9 ":-1.2}"#,
        r#"{"bytes:\\xf0\\x9e":-0.3,"bytes:\\xf0\\x9f":-0.5}"#,
        r#"{"bytes:\\x8c":-9999.0}"#,
        r#"{"bytes:\\x8a":-0.1}"#,
        r#"{"!":-2.0,"?":-3.0}"#,
    ];
    let tops = format!(r#""top_logprobs":[{}]"#, tops.join(","));
    assert!(text.contains(&tops), "{text}");
}

fn text() -> Text {
    Text::new("cmpl-1".into(), 1, ("m".into(), "fp_1".into()), true, true)
}

#[test]
fn a_stream_says_of_each_choice_what_the_whole_answer_says() {
    let choice = || Choice {
        thought: String::new(),
        text: "Né 🌊!".into(),
        calls: Vec::new(),
        logprobs: wave(),
        finish: Finish::Length,
    };
    let whole = Whole {
        choices: vec![choice(), choice()],
        usage: Usage::default(),
    };
    let whole = serde_json::to_value(text().completion(whole)).unwrap();
    assert_eq!(whole["choices"][1]["index"], 1);
    assert_eq!(whole["choices"][1]["finish_reason"], "length");

    let mut streaming = text();
    let mut lists: [Vec<Value>; 2] = Default::default();
    for logprob in wave() {
        for choice in [1, 0] {
            let delta = Delta {
                choice,
                logprobs: vec![logprob.clone()],
                ..Delta::default()
            };
            let chunk = serde_json::to_value(streaming.delta(delta)).unwrap();
            let shown = &chunk["choices"][0];
            assert_eq!(shown["index"], choice);
            let offset = shown["logprobs"]["text_offset"][0].clone();
            lists[usize::try_from(choice).unwrap()].push(offset);
        }
    }
    for (index, list) in lists.into_iter().enumerate() {
        let expected = &whole["choices"][index]["logprobs"]["text_offset"];
        assert_eq!(*expected, json!(list));
    }
}

proptest! {
    /// However a text is cut into tokens, each offset is the character that the token begins in.
    #[test]
    fn offsets_count_characters(text in "\\PC{0,24}", cuts in prop::collection::vec(1_usize..4, 0..40)) {
        let mut rest = text.as_bytes();
        let mut tokens = Vec::new();
        let mut begins = Vec::new();
        for cut in cuts.into_iter().chain(std::iter::repeat(3)) {
            if rest.is_empty() {
                break;
            }
            let (bytes, more) = rest.split_at(cut.min(rest.len()));
            begins.push(text.len() - rest.len());
            tokens.push(token(bytes, Some(-1.0), &[]));
            rest = more;
        }
        let starts: Vec<usize> = text.char_indices().map(|(start, _)| start).collect();
        let expected: Vec<usize> = begins
            .into_iter()
            .map(|begin| starts.partition_point(|start| *start <= begin) - 1)
            .collect();
        let shown = serde_json::to_value(Logprobs::new(tokens, &mut Place::default())).unwrap();
        prop_assert_eq!(&shown["text_offset"], &json!(expected));
    }
}
