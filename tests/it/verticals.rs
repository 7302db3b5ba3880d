//! Verticals: what they say before their clients, whose they are, and how good.

use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{CHAT, KEY, Server, chat, quickstart_with};
use crate::tenancy::{Admin, ask};

const SYSTEM: &str = "You answer with one word.";

/// The quickstart's models, and verticals over its chat model.
fn config(folder: &Path) -> PathBuf {
    let examples = folder.join("examples.jsonl");
    let lines = "{\"input\": \"One plus one?\", \"output\": \"Two.\"}\n\n{\"input\": \"Up?\", \"output\": \"Down.\"}\n";
    std::fs::write(&examples, lines).unwrap();
    let models = format!(
        "[[model]]
         name = \"short\"
         base = \"{CHAT}\"
         system = \"{SYSTEM}\"
         examples = \"{}\"
         defaults = {{ max_tokens = 5, stop = [\"#\"] }}
         locked = {{ temperature = 0, n = 2 }}
         [[model]]
         name = \"wordy\"
         base = \"{CHAT}\"
         system = \"{}\"
         [[model]]
         name = \"near\"
         base = \"{CHAT}\"
         examples = \"{}\"
         nearest = {{ count = 1, embedding = \"all-minilm-l6-v2\" }}
         [[model]]
         name = \"private\"
         base = \"{CHAT}\"
         projects = [\"inside\"]
         aliases = [\"secret\"]

         [[model]]\nname = \"{CHAT}\"",
        examples.display(),
        wordy(),
        examples.display()
    );
    quickstart_with(&format!("[[model]]\nname = \"{CHAT}\""), &models)
}

/// Orders of some hundreds of tokens.
fn wordy() -> String {
    let rules =
        (1..=20).map(|number| format!("Rule {number}: never give more than {number} reasons."));
    rules.collect::<Vec<_>>().join(" ")
}

async fn server() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Server::start_on(config(folder.path()), &[]).await, folder)
}

#[tokio::test]
async fn a_vertical_speaks_first_fills_in_and_locks() {
    let (server, _folder) = server().await;
    let question = json!({"role": "user", "content": "Left?"});
    let body = json!({"model": "short", "messages": [question], "temperature": 2, "n": 1});
    let answer = server.chat(body.clone()).await;
    assert_eq!(
        answer["choices"].as_array().unwrap().len(),
        2,
        "n is locked"
    );
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let whole = json!([
        turn("system", SYSTEM),
        turn("user", "One plus one?"),
        turn("assistant", "Two."),
        turn("user", "Up?"),
        turn("assistant", "Down."),
        question,
    ]);
    let plain = chat(json!({"messages": whole, "max_tokens": 5, "n": 2, "stop": ["#"]}));
    let plain = server.chat(plain).await;
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        plain["usage"]["prompt_tokens"]
    );
    for choice in 0..2 {
        // Temperature is locked, so the client's own changes nothing.
        assert_eq!(
            answer["choices"][choice],
            plain["choices"][0]
                .as_object()
                .map_or(json!(null), |first| {
                    let mut first = first.clone();
                    first["index"] = choice.into();
                    first.into()
                })
        );
    }
    // What it says has no place before a bare text.
    let text = json!({"model": "short", "prompt": "Left?"});
    let error = server.refused("/v1/completions", &text, 400).await;
    assert_eq!(error["param"], "model", "{error}");
    // Its tokens are those of all that is said; and a client's own limit goes before the default.
    let told = json!({"model": "short", "messages": [question]});
    let told: Value = server
        .post("/v1/tokenize", &told)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(told["count"], answer["usage"]["prompt_tokens"]);
    let mut longer = body;
    longer["max_completion_tokens"] = 7.into();
    longer["ignore_eos"] = true.into();
    longer["stop"] = json!(null);
    let longer = server.chat(longer).await;
    assert_eq!(longer["usage"]["completion_tokens"], 14, "{longer}");
    assert_ne!(longer["system_fingerprint"], plain["system_fingerprint"]);
}

#[tokio::test]
async fn what_a_vertical_says_is_read_once_for_all_its_tenants() {
    let (server, _folder) = server().await;
    let admin = Admin::of(&server);
    let question = json!({"role": "user", "content": "Why does the tide turn?"});
    // Prompt tokens, and those of them that nothing was computed for.
    let count = async |key: &str, model: &str, messages: Value| {
        let body = json!({"model": model, "messages": messages, "max_tokens": 2});
        let answer = ask(&server, key, Method::POST, "/v1/chat/completions", body).await;
        assert_eq!(answer.status(), 200);
        let usage = answer.json::<Value>().await.unwrap()["usage"].take();
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        (
            usage["prompt_tokens"].as_u64().unwrap(),
            cached.unwrap_or(0),
        )
    };
    let (_, first) = admin.project("first", json!({})).await;
    let (_, second) = admin.project("second", json!({})).await;
    let (_, third) = admin.project("third", json!({})).await;
    let (prompt, cached) = count(&first, "wordy", json!([question])).await;
    assert!(prompt > 200 && cached == 0, "{cached} of {prompt}");
    // The same words, where they are a client's own.
    let own = json!([{"role": "system", "content": wordy()}, question]);
    let (same, cached) = count(&third, CHAT, own).await;
    assert_eq!((same, cached), (prompt, 0));
    let (_, cached) = count(&second, "wordy", json!([question])).await;
    assert!(
        cached + 64 > prompt && cached + 16 < prompt,
        "{cached} of {prompt}"
    );
}

#[tokio::test]
async fn the_examples_nearest_to_a_question_are_shown() {
    let (server, _folder) = server().await;
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let count = async |model: &str, messages: Value| {
        let body = json!({"model": model, "messages": messages});
        let told = server.post("/v1/tokenize", &body).send().await.unwrap();
        let told: Value = told.json().await.unwrap();
        told["count"].as_u64().unwrap()
    };
    let shown = [
        [turn("user", "One plus one?"), turn("assistant", "Two.")],
        [turn("user", "Up?"), turn("assistant", "Down.")],
    ];
    for (question, [asked, answer]) in [
        ("What is three plus four?", &shown[0]),
        ("And what about upwards?", &shown[1]),
    ] {
        let alone = count("near", json!([turn("user", question)])).await;
        let expected = count(CHAT, json!([asked, answer, turn("user", question)])).await;
        assert_eq!(alone, expected, "{question}");
        // The last thing that the user said is the question.
        let before = [
            turn("user", "x"),
            turn("assistant", "y"),
            turn("user", question),
        ];
        let later = count("near", json!(before)).await;
        let expected = count(
            CHAT,
            json!([asked, answer, before[0], before[1], before[2]]),
        )
        .await;
        assert_eq!(later, expected, "{question}");
    }
    let lengths = [
        count(CHAT, json!(shown[0])).await,
        count(CHAT, json!(shown[1])).await,
    ];
    assert_ne!(lengths[0], lengths[1], "or the counts would say nothing");
    // Nothing of it stands in the ledger.
    let body = json!({"model": "near", "messages": [turn("user", "Down?")], "max_tokens": 1});
    server.chat(body).await;
    assert_eq!(server.billed("near")[0], 1);
    assert_eq!(server.usage().len(), 1);
}

#[tokio::test]
async fn a_vertical_of_some_projects_is_none_to_others() {
    let (server, _folder) = server().await;
    let admin = Admin::of(&server);
    let (_, inside) = admin.project("inside", json!({})).await;
    let (_, outside) = admin.project("outside", json!({})).await;
    for (key, seen, status) in [(&inside, true, 200), (&outside, false, 404)] {
        let list = ask(&server, key, Method::GET, "/v1/models", json!(null)).await;
        let list: Value = list.json().await.unwrap();
        let ids: Vec<_> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| &model["id"])
            .collect();
        for name in ["private", "secret"] {
            assert_eq!(ids.contains(&&json!(name)), seen, "{ids:?}");
            let path = format!("/v1/models/{name}");
            let answer = ask(&server, key, Method::GET, &path, json!(null)).await;
            assert_eq!(answer.status(), status);
            let mut body = chat(json!({"ask": "Hi", "max_tokens": 1}));
            body["model"] = name.into();
            let answer = ask(&server, key, Method::POST, "/v1/chat/completions", body).await;
            assert_eq!(answer.status(), status);
        }
    }
    let unknown = json!({"model": "none", "prompt": "a"});
    let unknown: Value = ask(&server, &outside, Method::POST, "/v1/tokenize", unknown)
        .await
        .json()
        .await
        .unwrap();
    let private = json!({"model": "private", "prompt": "a"});
    let private: Value = ask(&server, &outside, Method::POST, "/v1/tokenize", private)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        private.to_string().replace("private", "none"),
        unknown.to_string()
    );
}

/// The sum of the log-probabilities of an answer's tokens.
fn sum(answer: &Value) -> f64 {
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    tokens
        .iter()
        .map(|token| token["logprob"].as_f64().unwrap())
        .sum()
}

#[tokio::test]
async fn an_answer_goes_on_from_what_it_is_given_and_tells_how_likely_that_was() {
    let server = Server::start().await;
    let wrote = chat(json!({"ask": "Name three fruits.", "max_tokens": 12, "logprobs": true}));
    let wrote = server.chat(wrote).await;
    let text = wrote["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    let given = json!([
        {"role": "user", "content": "Name three fruits."},
        {"role": "assistant", "content": text},
    ]);
    let ask = |echo: bool| {
        chat(json!({
            "messages": given, "max_tokens": 1, "logprobs": true, "echo": echo,
            "continue_final_message": true, "add_generation_prompt": false,
        }))
    };
    // Twice: the second one begins with what the first has left in the cache of prefixes.
    for _ in 0..2 {
        let echoed = server.chat(ask(true)).await;
        let content = echoed["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(content.starts_with(&text), "{content:?}");
        let mut own = echoed.clone();
        let tokens = own["choices"][0]["logprobs"]["content"]
            .as_array_mut()
            .unwrap();
        let last = tokens.pop().unwrap();
        assert_eq!(tokens.len(), 12);
        // Read at once or token by token: the same, up to the noise of another order of sums.
        let (read, written) = (sum(&own), sum(&wrote));
        assert!((read - written).abs() < 0.2, "{read} and {written}");
        let plain = server.chat(ask(false)).await;
        let tokens = plain["choices"][0]["logprobs"]["content"]
            .as_array()
            .unwrap();
        assert_eq!(tokens.len(), 1);
        assert_eq!(tokens[0]["token"], last["token"]);
        assert_eq!(
            plain["usage"]["prompt_tokens"],
            echoed["usage"]["prompt_tokens"]
        );
    }
    let mut wrong = ask(true);
    wrong["messages"].as_array_mut().unwrap().pop();
    server.refused("/v1/chat/completions", &wrong, 400).await;
}

/// A suite whose items are easy and impossible; gives its path.
fn suite(folder: &Path) -> String {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let item = |id: usize, input: &str, expected: &str| {
        json!({"id": id.to_string(), "input": input, "expected": expected}).to_string() + "\n"
    };
    let rows = [
        item(1, "Say the next word: Monday, Tuesday,", "Wednesday"),
        item(2, "Say the next word: Saturday, Sunday,", "Monday"),
    ];
    write("rows.jsonl", &rows.concat());
    write("words.jsonl", &item(3, "Say nothing.", "zzz"));
    write(
        "suite.toml",
        "name = \"days\"
         [[task]]\nname = \"likeliest\"\nitems = \"rows.jsonl\"
         score = { by = \"choice\", choices = [\"Wednesday\", \"Monday\", \"Zebra crossing\"] }
         [[task]]\nname = \"written\"\nitems = \"words.jsonl\"\nmax_tokens = 3\nscore = { by = \"exact\" }\n",
    )
}

#[tokio::test]
async fn models_are_tried_on_a_suite_and_compared() {
    let (server, folder) = server().await;
    let suite = suite(folder.path());
    let run = |models: &[&str], more: &[&str]| -> Vec<String> {
        let models = models.join(",");
        let own = ["eval", "run", &suite, "--key", KEY, "--models", &models];
        own.iter()
            .chain(more)
            .map(|word| (*word).to_owned())
            .collect()
    };
    let refused = |arguments: Vec<String>| {
        server.refusal(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let printed = |format: &str| {
        let arguments = run(
            &[CHAT, "short"],
            &["--url", &server.url, "--format", format],
        );
        server.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let private = refused(run(&[CHAT, "private"], &["--url", &server.url]));
    assert!(
        private.contains("may not ask a model \"private\""),
        "{private}"
    );
    let silent = refused(run(&[CHAT], &["--url", "http://127.0.0.1:9"]));
    assert!(
        silent.contains("no gateway at http://127.0.0.1:9"),
        "{silent}"
    );

    let report: Value = serde_json::from_str(&printed("json")).unwrap();
    assert_eq!(
        (&report["suite"], &report["items"]),
        (&json!("days"), &json!(3))
    );
    let base = &report["models"][0];
    assert_eq!((&base["model"], &base["failed"]), (&json!(CHAT), &json!(0)));
    assert_eq!(base["tasks"][1]["score"], 0.0);
    let tried = base["tried"].as_array().unwrap();
    let ids: Vec<_> = tried
        .iter()
        .map(|tried| tried["item"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["1", "2", "3"]);
    // What continues a row is far likelier than what doesn't.
    assert!(["Wednesday", "Monday"].contains(&tried[0]["said"].as_str().unwrap()));
    // A request for each choice, and one for the text.
    let prompts = base["prompt_tokens"].as_u64().unwrap();
    assert!(prompts > 7 * 20, "{prompts}");
    assert_eq!(report["comparisons"][0]["model"], "short");
    assert!(printed("table").contains("short beside "));
    assert!(printed("html").contains("<svg"));
    // It is paid for as everything is.
    assert!(server.billed(CHAT)[0] >= 3 * 7);
}
