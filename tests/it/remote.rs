//! Remote workers, scripted: what goes to them, what comes back, and what is booked.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use loadtest::upstream::{Fault, Pace, Script, Upstream, UsageKind};
use serde_json::{Value, json};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use crate::books::count;
use crate::harness::{Joined, KEY, Server};

pub(crate) const MODEL: &str = "big";

/// A config of remote workers that serve [`MODEL`].
pub(crate) fn config(workers: &[&Upstream], each: &str, more: &str) -> PathBuf {
    let mut text = "[tenancy]\nbootstrap_key = \"fb-local\"\n".to_owned();
    for (number, upstream) in workers.iter().enumerate() {
        let url = upstream.url();
        text += &format!(
            "[[worker]]\nname = \"w{number}\"\nengine = \"remote\"\nurl = \"{url}\"\nmodels = [\"{MODEL}\"]\nprobe_ms = 200\n{each}\n"
        );
    }
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text + more).unwrap();
    file.keep().unwrap().1
}

pub(crate) async fn gateway(workers: &[&Upstream], each: &str, more: &str) -> Server {
    Server::start_on(config(workers, each, more), &[]).await
}

pub(crate) fn ask() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "Where does the water go?"}]})
}

fn streaming() -> Value {
    let mut body = ask();
    body["stream"] = json!(true);
    body
}

pub(crate) async fn post(server: &Server, body: &Value) -> (u16, String) {
    let answer = server
        .post("/v1/chat/completions", body)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, answer.text().await.unwrap_or_default())
}

/// A row of the ledger: attempt, worker, state, source, tokens of the answer, amount.
pub(crate) type Row = (i64, String, String, String, i64, i64);

pub(crate) async fn rows(server: &Server) -> Vec<Row> {
    let query = "SELECT attempt, worker, state, source, completion_tokens, amount_pico FROM charge
                 ORDER BY started_ms, attempt";
    let options = SqliteConnectOptions::new()
        .filename(server.store())
        .read_only(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let rows = sqlx::query_as(query).fetch_all(&pool).await.unwrap();
    pool.close().await;
    rows
}

#[tokio::test]
async fn the_body_goes_on_as_it_is_and_the_answer_comes_back_as_it_is() {
    let upstream = Upstream::start(Script::words(5), 0).await.unwrap();
    let server = gateway(
        &[&upstream],
        "",
        &format!(
            "[[model]]\nname = \"legal\"\nbase = \"{MODEL}\"\nprice = {{ completion = \"1\" }}\n"
        ),
    )
    .await;
    let body = json!({
        "model": "legal", "messages": [{"role": "user", "content": [{"type": "text", "text": "水 \u{1f30a}"}]}],
        "guided_regex": "a+", "priority": -5, "cache_salt": "x", "temperature": 0.25, "user": "ann"
    });
    let answer = server
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-forebay-served-by"], "w0");
    assert!(answer.headers().contains_key("x-forebay-queue-ms"));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["model"], "legal");
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        "w0 w1 w2 w3 w4 "
    );
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.path, "/v1/chat/completions");
    let mut expected = body.clone();
    for ours in ["priority", "cache_salt"] {
        expected.as_object_mut().unwrap().remove(ours);
    }
    expected["model"] = json!(MODEL);
    assert_eq!(seen.body, expected);
    // The client's key and headers stay here.
    assert!(
        !format!("{:?}", seen.headers).contains(KEY),
        "{:?}",
        seen.headers
    );
    assert!(seen.headers.iter().all(|(name, _)| name != "authorization"));
    let usage = server.billed("legal");
    assert_eq!(usage[0], 1);
    assert_eq!(usage[1], answer["usage"]["prompt_tokens"].as_u64().unwrap());
    assert_eq!(usage[2], 5);
}

#[tokio::test]
async fn usage_is_asked_for_booked_and_hidden() {
    let upstream = Upstream::start(Script::words(5), 0).await.unwrap();
    let server = gateway(&[&upstream], "", "").await;
    let (status, text) = post(&server, &streaming()).await;
    assert_eq!(status, 200);
    assert!(!text.contains("usage"), "{text}");
    let joined = Joined::read(&text);
    assert_eq!(
        (joined.text.as_str(), joined.done),
        ("w0 w1 w2 w3 w4 ", true)
    );
    assert_eq!(joined.finish, "stop");
    let mut body = streaming();
    body["stream_options"] = json!({"include_usage": true});
    let (_, text) = post(&server, &body).await;
    let joined = Joined::read(&text);
    assert_eq!(joined.usage["completion_tokens"], 5);
    assert!(joined.done);
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.body["stream_options"]["include_usage"] == true)
    );
    assert_eq!(server.billed(MODEL)[2], 10);
}

#[tokio::test]
async fn who_tells_no_usage_or_one_that_can_not_be_is_counted() {
    let upstream = Upstream::start(Script::words(7), 0).await.unwrap();
    let server = gateway(&[&upstream], "", "").await;
    for usage in [UsageKind::Never, UsageKind::Wrong, UsageKind::Asked] {
        upstream.change(|script| script.usage = usage);
        assert_eq!(post(&server, &streaming()).await.0, 200);
        assert_eq!(post(&server, &ask()).await.0, 200);
    }
    let sources: Vec<_> = rows(&server).await.into_iter().map(|row| row.3).collect();
    assert_eq!(
        sources,
        [
            "counted", "counted", "counted", "counted", "engine", "engine"
        ]
    );
    let streamed: Vec<_> = rows(&server)
        .await
        .into_iter()
        .step_by(2)
        .map(|row| row.4)
        .collect();
    assert_eq!(streamed, [7, 7, 7]);
}

#[tokio::test]
async fn a_stream_of_chinese_and_emoji_is_whole_wherever_it_is_cut() {
    let pieces = [
        "水",
        "力",
        "发电🌊",
        "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        " \"\\\n",
        "終",
    ];
    let mut script = Script::words(0);
    script.pieces = pieces.iter().map(|piece| (*piece).to_owned()).collect();
    let upstream = Upstream::start(script.clone(), 0).await.unwrap();
    let server = gateway(&[&upstream], "slots = 64", "").await;
    let whole = reqwest::Client::new()
        .post(format!("{}/v1/chat/completions", upstream.url()))
        .json(&streaming())
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap()
        .len();
    assert!(whole > 500);
    for cut in 0..=whole + 100 {
        upstream.change(|script| script.split_at = Some(cut));
        let (status, text) = post(&server, &streaming()).await;
        assert_eq!(status, 200);
        let joined = Joined::read(&text);
        assert_eq!(
            (joined.text, joined.done),
            (script.text(), true),
            "cut at {cut}"
        );
    }
}

#[tokio::test]
async fn a_client_that_goes_frees_the_workers_slot() {
    let pace = Pace::Steady {
        first: Duration::from_millis(10),
        gap: Duration::from_millis(20),
    };
    let upstream = Upstream::start(Script::words(10_000).at(pace), 0)
        .await
        .unwrap();
    let server = gateway(&[&upstream], "", "").await;
    let answer = server
        .post("/v1/chat/completions", &streaming())
        .send()
        .await
        .unwrap();
    let mut body = answer.bytes_stream();
    for _ in 0..10 {
        body.next().await.unwrap().unwrap();
    }
    assert_eq!(upstream.running(), 1);
    drop(body);
    gone(&upstream).await;
    // One that isn't streamed as well.
    let body = ask();
    let waits = post(&server, &body);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), waits)
            .await
            .is_err()
    );
    gone(&upstream).await;
    server
        .wait_for_metric("forebay_ledger_pending", 0.0, Duration::from_secs(1))
        .await;
    let rows = rows(&server).await;
    assert_eq!(rows.len(), 2);
    assert!((9..30).contains(&rows[0].4), "{rows:?}");
}

async fn gone(upstream: &Upstream) {
    for _ in 0..50 {
        if upstream.running() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it still runs after a second");
}

#[tokio::test]
async fn a_worker_s_refusal_is_the_client_s_to_read_and_costs_nothing() {
    let upstream = Upstream::start(Script::words(5).with(Fault::Refuse(400)), 0)
        .await
        .unwrap();
    let server = gateway(&[&upstream], "", "").await;
    let (status, text) = post(&server, &ask()).await;
    assert_eq!(status, 400);
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(error["error"]["message"], "told to refuse");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    assert_eq!(
        upstream.started(),
        1,
        "nobody else would have taken it either"
    );
    assert!(rows(&server).await.is_empty());
}

#[tokio::test]
async fn what_stands_twice_or_in_disguise_is_refused() {
    let upstream = Upstream::start(Script::words(5), 0).await.unwrap();
    let server = gateway(&[&upstream], "", "").await;
    let many: String = (0..20).map(|number| format!("\"x{number}\":1,")).collect();
    let (early, late) = (format!("{many}\"x3\":2"), format!("{many}\"x19\":2"));
    for (more, word) in [
        (early.as_str(), "duplicate field `x3`"),
        (late.as_str(), "duplicate field `x19`"),
        ("\"x\":1,\"x\":2", "duplicate field `x`"),
        ("\"mod\\u0065l\":\"other\"", "duplicate field `model`"),
        ("\"Model\":\"other\"", "another spelling"),
        ("\"me\u{17f}\u{17f}ages\":[]", "another spelling"),
    ] {
        let body = format!("{{\"model\":\"big\",\"messages\":[],{more}}}");
        let url = format!("{}/v1/chat/completions", server.url);
        let request = server.client.post(url).bearer_auth(KEY).body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{more}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(word), "{more}: {text}");
    }
    assert_eq!(upstream.started(), 0);
}

#[tokio::test]
async fn messages_that_are_no_texts_are_refused_before_a_worker_sees_them() {
    let upstream = Upstream::start(Script::words(5), 0).await.unwrap();
    let server = gateway(&[&upstream], "", "").await;
    let deep = "[".repeat(200) + &"]".repeat(200);
    for content in ["\"\\ud83d\"", "1e999", &deep] {
        let body = format!(
            "{{\"model\":\"big\",\"messages\":[{{\"role\":\"user\",\"content\":{content}}}]}}"
        );
        let url = format!("{}/v1/chat/completions", server.url);
        let request = server.client.post(url).bearer_auth(KEY).body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{content:.20}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"]["type"], "invalid_request_error", "{error}");
    }
    assert_eq!(upstream.started(), 0);
}

#[tokio::test]
async fn the_limit_of_tokens_has_one_name() {
    let upstream = Upstream::start(Script::words(50), 0).await.unwrap();
    let server = gateway(&[&upstream], "dialect = \"llama-server\"", "").await;
    let mut body = ask();
    body["max_tokens"] = json!(3);
    body["n_predict"] = json!(40);
    assert_eq!(post(&server, &body).await.0, 200);
    let text = json!({"model": MODEL, "prompt": "x", "max_completion_tokens": 4});
    let answer = server.post("/v1/completions", &text).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = upstream.seen();
    assert_eq!(seen[0].body["max_tokens"], 3);
    assert_eq!(seen[0].body.get("n_predict"), None);
    assert_eq!(seen[1].body["max_tokens"], 4);
    assert_eq!(seen[1].body.get("max_completion_tokens"), None);
    assert_eq!(server.billed(MODEL)[2], 7);
}

#[tokio::test]
async fn embeddings_come_from_a_remote_worker() {
    let upstream = Upstream::start(Script::words(1), 0).await.unwrap();
    let server = gateway(&[&upstream], "kind = \"embed\"", "").await;
    let body = json!({"model": MODEL, "input": ["a", "b"], "encoding_format": "float"});
    let answer = server.post("/v1/embeddings", &body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["data"][1]["index"], 1);
    assert_eq!(answer["usage"]["prompt_tokens"], 6);
    assert_eq!(server.billed(MODEL), [1, 6, 0]);
}

#[tokio::test]
async fn a_vertical_brings_its_class_its_tools_and_the_name_of_its_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let tools = json!([{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]);
    let path = folder.path().join("tools.json");
    std::fs::write(&path, tools.to_string()).unwrap();
    let upstream = Upstream::start(Script::words(2), 0).await.unwrap();
    let vertical = format!(
        "[[model]]\nname = \"v\"\nbase = \"{MODEL}\"\nadapter_name = \"law-lora\"\ntools = \"{}\"\nclass = \"interactive\"\n",
        path.display()
    );
    let server = gateway(&[&upstream], "", &vertical).await;
    let mut body = ask();
    body["model"] = json!("v");
    assert_eq!(post(&server, &body).await.0, 200);
    let sent = upstream.seen()[0].body.clone();
    assert_eq!(
        (&sent["model"], &sent["tools"]),
        (&json!("law-lora"), &tools)
    );
    // A client has its own tools, and may ask for less.
    body["tools"] = json!([]);
    body["service_tier"] = json!("flex");
    assert_eq!(post(&server, &body).await.0, 200);
    assert_eq!(upstream.seen()[1].body["tools"], json!([]));
    for query in [
        "SELECT count(*) FROM charge WHERE class = 'interactive'",
        "SELECT count(*) FROM charge WHERE class = 'batch'",
    ] {
        assert_eq!(count(&server, query).await, 1, "{query}");
    }
}
