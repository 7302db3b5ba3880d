//! Rules of verticals: each kind in its three modes, on streams and whole answers, of engines here and of remote workers; and
//! thoughts of models that weren't made to think.

use std::path::PathBuf;

use loadtest::upstream::{Script, Upstream};
use serde_json::{Value, json};

use crate::harness::{CHAT, Joined, KEY, Server, quickstart_with};
use crate::remote::MODEL;

const ANSWER: &str = "Write to jo@mail.example.org today";

/// A scripted worker that answers so, a few characters at a time.
async fn upstream(answer: &str) -> Upstream {
    let characters: Vec<_> = answer.chars().collect();
    let script = Script {
        pieces: characters
            .chunks(3)
            .map(|piece| piece.iter().collect())
            .collect(),
        ..Script::words(0)
    };
    Upstream::start(script, 0).await.unwrap()
}

fn config(upstream: &Upstream, models: &str) -> PathBuf {
    let text = format!(
        "[tenancy]\nbootstrap_key = \"{KEY}\"\n[[worker]]\nname = \"w\"\nengine = \"remote\"\nurl = \"{}\"\nmodels = [\"{MODEL}\"]\n{models}",
        upstream.url()
    );
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    file.keep().unwrap().1
}

/// A vertical with one rule, named after what it does.
fn vertical(name: &str, base: &str, rule: &str) -> String {
    let then = name.rsplit('-').next().unwrap();
    format!(
        "[[model]]\nname = \"{name}\"\nbase = \"{base}\"\n[[model.guard]]\nname = \"rule\"\nthen = \"{then}\"\n{rule}\n"
    )
}

fn asking(model: &str, text: &str) -> Value {
    json!({"model": model, "temperature": 0, "max_tokens": 24, "messages": [{"role": "user", "content": text}]})
}

/// The text of an answer and its end; a stream's pieces must be one after another what the whole is.
async fn both(server: &Server, body: &Value) -> (String, Value) {
    let whole = server
        .post("/v1/chat/completions", body)
        .send()
        .await
        .unwrap();
    let status = whole.status();
    let whole: Value = whole.json().await.unwrap();
    assert_eq!(status, 200, "{whole}");
    let choice = &whole["choices"][0];
    let text = choice["message"]["content"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut streaming = body.clone();
    streaming["stream"] = json!(true);
    let stream = server
        .post("/v1/chat/completions", &streaming)
        .send()
        .await
        .unwrap();
    let stream = stream.text().await.unwrap();
    let joined = Joined::read(&stream);
    assert!(joined.done, "{stream}");
    assert_eq!(
        (&joined.text, &joined.finish),
        (&text, &choice["finish_reason"]),
        "{stream}"
    );
    (text, joined.finish)
}

async fn counted(server: &Server, model: &str, side: &str, action: &str) -> f64 {
    let name = format!(
        "forebay_guarded_total{{action=\"{action}\",model=\"{model}\",rule=\"rule\",side=\"{side}\"}}"
    );
    server.metric(&name).await
}

#[tokio::test]
async fn what_a_remote_worker_answers_is_masked_blocked_or_told() {
    let upstream = upstream(ANSWER).await;
    let kinds = [
        ("pii", "pii = [\"email\"]", "Write to [email] today"),
        (
            "words",
            "words = [\"jo@mail.example.org\"]",
            "Write to [rule] today",
        ),
        ("regex", "regex = 'jo@[a-z.]+'", "Write to [rule] today"),
        ("length", "max_chars = 9", "Write to "),
    ];
    let mut models = String::new();
    for (kind, rule, _) in kinds {
        for then in ["mask", "block", "flag"] {
            let rule = format!("on = \"output\"\n{rule}");
            models += &vertical(&format!("{kind}-{then}"), MODEL, &rule);
        }
    }
    let server = Server::start_on(config(&upstream, &models), &[]).await;
    for (kind, _, masked) in kinds {
        let cut = json!(if kind == "length" { "length" } else { "stop" });
        for (then, text, finish) in [
            ("mask", masked, cut),
            ("block", "Write to ", json!("content_filter")),
            ("flag", ANSWER, json!("stop")),
        ] {
            let model = format!("{kind}-{then}");
            let answer = both(&server, &asking(&model, "Whom do I ask?")).await;
            assert_eq!(answer, (text.to_owned(), finish), "{model}");
            assert_eq!(
                counted(&server, &model, "output", then).await,
                2.0,
                "{model}"
            );
        }
    }
    // Tokens would spell what is hidden.
    let mut body = asking("pii-mask", "Whom?");
    body["logprobs"] = json!(true);
    server.refused("/v1/chat/completions", &body, 400).await;
}

#[tokio::test]
async fn what_clients_send_is_masked_blocked_or_told() {
    let upstream = upstream("Yes").await;
    let rules = [
        ("pii", "pii = [\"email\"]", "My mail is [email]"),
        (
            "words",
            "words = [\"jo@mail.example.org\"]",
            "My mail is [rule]",
        ),
        ("regex", "regex = 'jo@[a-z.]+'", "My mail is [rule]"),
        ("length", "max_chars = 11", "My mail is "),
    ];
    let question = "My mail is jo@mail.example.org";
    let mut models = String::new();
    for (kind, rule, _) in rules {
        for then in ["mask", "block", "flag"] {
            let rule = format!("on = \"input\"\n{rule}");
            models += &vertical(&format!("{kind}-{then}"), MODEL, &rule);
        }
    }
    let server = Server::start_on(config(&upstream, &models), &[]).await;
    for (kind, _, masked) in rules {
        let model = |then: &str| format!("{kind}-{then}");
        let sent = async |model: &str| {
            let (text, _) = both(&server, &asking(model, question)).await;
            assert_eq!(text, "Yes");
            let seen = upstream.seen();
            let sent =
                |seen: &loadtest::upstream::Seen| seen.body["messages"][0]["content"].clone();
            let last: Vec<_> = seen.iter().rev().take(2).map(sent).collect();
            assert_eq!(last[0], last[1]);
            last[0].clone()
        };
        assert_eq!(sent(&model("mask")).await, json!(masked), "{kind}");
        assert_eq!(sent(&model("flag")).await, json!(question), "{kind}");
        let answer = server.post("/v1/chat/completions", &asking(&model("flag"), question));
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.headers()["x-forebay-guard"], "rule=flag");
        let asked = upstream.started();
        for stream in [false, true] {
            let mut body = asking(&model("block"), question);
            body["stream"] = json!(stream);
            let error = server.refused("/v1/chat/completions", &body, 400).await;
            assert_eq!(
                (&error["code"], &error["param"]),
                (&json!("content_filter"), &json!("messages"))
            );
            assert!(!error.to_string().contains("jo@"), "{error}");
        }
        assert_eq!(
            upstream.started(),
            asked,
            "what is refused is asked of nobody"
        );
        assert_eq!(
            counted(&server, &model("block"), "input", "block").await,
            2.0
        );
    }
}

#[tokio::test]
async fn what_the_engine_here_answers_is_masked_blocked_or_told() {
    let question = "Write two sentences about a river in the mountains.";
    let plain = Server::start().await;
    let (text, finish) = both(&plain, &asking(CHAT, question)).await;
    // Some word in the middle, as it stands there alone.
    let words: Vec<_> = text.split(|c: char| !c.is_alphanumeric()).collect();
    let once = |word: &&&str| word.len() > 2 && text.matches(**word).count() == 1;
    let word = words[1..].iter().find(once).unwrap();
    let (before, behind) = text.split_once(word).unwrap();
    drop(plain);
    let named = format!("[[model]]\nname = \"{CHAT}\"");
    let rule = format!("words = [\"{word}\"]\non = \"output\"");
    let models: String = ["mask", "block", "flag"]
        .map(|then| vertical(&format!("v-{then}"), CHAT, &rule))
        .concat();
    let config = quickstart_with(&named, &format!("{models}{named}"));
    let server = Server::start_on(config, &[]).await;
    for (then, expected, finish) in [
        ("mask", format!("{before}[rule]{behind}"), &finish),
        ("block", before.to_owned(), &json!("content_filter")),
        ("flag", text.clone(), &finish),
    ] {
        let answer = both(&server, &asking(&format!("v-{then}"), question)).await;
        assert_eq!(answer, (expected, finish.clone()), "{then}");
    }
    // It is paid as it was generated.
    let [_, masked, _] = server.billed("v-mask");
    let [_, flagged, _] = server.billed("v-flag");
    assert_eq!(masked, flagged);
}

#[tokio::test]
async fn thoughts_are_split_off_at_the_verticals_own_mark() {
    let upstream = upstream("Two and two are four.\nAnswer: four").await;
    let model = format!(
        "[[model]]\nname = \"thinks\"\nbase = \"{MODEL}\"\nsystem = \"Be kind.\"\n
         reasoning = {{ prompt = \"Think, then write Answer: and the answer.\", until = \"Answer:\" }}\n"
    );
    let server = Server::start_on(config(&upstream, &model), &[]).await;
    let body = asking("thinks", "Two and two?");
    assert_eq!(both(&server, &body).await.0, "four");
    let whole = server.chat(body.clone()).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Two and two are four.");
    let told = upstream.seen()[0].body["messages"][0]["content"].clone();
    assert_eq!(
        told,
        "Be kind.\n\nThink, then write Answer: and the answer."
    );
    let mut streaming = body;
    streaming["stream"] = json!(true);
    let stream = server
        .post("/v1/chat/completions", &streaming)
        .send()
        .await
        .unwrap();
    let stream = stream.text().await.unwrap();
    let chunks = stream
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let thought: String = chunks
        .filter_map(|chunk| {
            Some(
                chunk["choices"][0]["delta"]["reasoning_content"]
                    .as_str()?
                    .to_owned(),
            )
        })
        .collect();
    assert_eq!(thought, "Two and two are four.");
}
