//! What the SDKs don't show: bounds, drains, and what stays out of the logs.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future};
use loadtest::ports;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{CHAT, EMBEDDINGS, Joined, KEY, Server, chat, forebay, root};

#[tokio::test]
async fn over_the_queues_bound_503_says_when_to_come_again() {
    let server = Server::start_with(&[("FOREBAY_SCHEDULER__MAX_QUEUE", "2")]).await;
    let asks = (0..48).map(|index| {
        let body = chat(
            json!({"ask": format!("Count to {index}."), "max_tokens": 40, "ignore_eos": true}),
        );
        let request = server.post("/v1/chat/completions", &body);
        async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let retry = answer.headers().get("retry-after").cloned();
            (status, retry, answer.json::<Value>().await.unwrap())
        }
    });
    let answers = future::join_all(asks).await;
    let refused: Vec<_> = answers
        .iter()
        .filter(|(status, ..)| *status == 503)
        .collect();
    assert_eq!(
        answers.iter().filter(|(status, ..)| *status == 200).count() + refused.len(),
        48
    );
    // 32 slots and 2 places in the queue: some that come later find a place again.
    assert!(
        (1..=14).contains(&refused.len()),
        "{} were refused",
        refused.len()
    );
    for (_, retry, body) in refused {
        assert!(
            retry
                .as_ref()
                .is_some_and(|value| value.to_str().unwrap().parse::<u32>().unwrap() >= 1)
        );
        assert_eq!(body["error"]["code"], "queue_full");
    }
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_queue_timeout() {
    let settings = [("FOREBAY_SCHEDULER__QUEUE_TIMEOUT_MS", "300")];
    let server = Server::start_with(&settings).await;
    let long = json!({"ask": "Go on.", "max_tokens": 1500, "ignore_eos": true});
    let held = future::join_all((0..32).map(|_| server.stream(long.clone()))).await;
    let error = server
        .refused("/v1/chat/completions", &chat(json!({"ask": "Hello"})), 503)
        .await;
    assert_eq!(error["code"], "queue_timeout");
    drop(held);
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_413_in_the_envelope() {
    let server = Server::start_with(&[("FOREBAY_SERVER__MAX_BODY_BYTES", "2000")]).await;
    let body = chat(json!({"ask": "x".repeat(3000)}));
    let error = server.refused("/v1/chat/completions", &body, 413).await;
    assert_eq!(error["code"], "request_too_large");
}

#[tokio::test]
async fn an_error_names_the_field_to_the_index() {
    let server = Server::start().await;
    let user = json!({"role": "user", "content": "Hi"});
    for (field, value, param) in [
        (
            "messages",
            json!([user, {"role": "alien", "content": "x"}]),
            "messages[1].role",
        ),
        ("messages", json!([{"role": "user"}]), "messages[0].content"),
        (
            "messages",
            json!([{"role": "tool", "content": "x"}]),
            "messages[0].tool_call_id",
        ),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content[0].type",
        ),
        ("max_tokens", json!(-1), "max_tokens"),
        ("temperature", json!("hot"), "temperature"),
        ("stop", json!(["1", "2", "3", "4", "5"]), "stop"),
        ("top_logprobs", json!(3), "top_logprobs"),
        ("frequency_penalty", json!(2.5), "frequency_penalty"),
        ("logit_bias", json!({"1": 500}), "logit_bias"),
        ("tool_choice", json!("required"), "tool_choice"),
        ("user", json!("x".repeat(257)), "user"),
    ] {
        let mut body = chat(json!({"ask": "Hello"}));
        body[field] = value;
        let error = server.refused("/v1/chat/completions", &body, 400).await;
        assert_eq!(error["param"], param, "{body}: {error}");
    }
}

#[tokio::test]
async fn a_prompt_of_megabytes_is_refused_by_its_bytes() {
    let server = Server::start().await;
    // Without a space it is one word to the tokenizer, whose memory would be gigabytes.
    let text = "a".repeat(12 << 20);
    for (path, body, param) in [
        (
            "/v1/chat/completions",
            chat(json!({"ask": text})),
            "messages",
        ),
        (
            "/v1/completions",
            json!({"model": CHAT, "prompt": text}),
            "prompt",
        ),
        (
            "/v1/embeddings",
            json!({"model": EMBEDDINGS, "input": text}),
            "input",
        ),
    ] {
        let error = server.refused(path, &body, 400).await;
        assert_eq!(error["param"], param);
    }
    assert!(server.usage().is_empty());
}

#[tokio::test]
async fn a_models_name_that_is_no_text_is_refused_in_the_envelope() {
    let server = Server::start().await;
    let url = format!("{}/v1/models/%ff", server.url);
    let answer = server
        .client
        .get(url)
        .bearer_auth(KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn values_that_ask_for_nothing_are_accepted() {
    let server = Server::start().await;
    let answer = server
        .chat(json!({
            "ask": "Hello", "max_tokens": 2, "n": 1, "tools": [], "tool_choice": "none", "frequency_penalty": 0,
            "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}, "stop": null,
            "service_tier": "auto", "modalities": ["text"], "logprobs": false, "unknown": {"a": 1},
        }))
        .await;
    assert_eq!(answer["usage"]["completion_tokens"], 2);
}

#[tokio::test]
async fn sigterm_lets_running_answers_end_and_takes_no_new_ones() {
    let server = Server::start().await;
    let mut body = server
        .stream(json!({"ask": "Tell me a story.", "max_tokens": 100, "ignore_eos": true}))
        .await
        .bytes_stream();
    let mut text = body.next().await.unwrap().unwrap().to_vec();
    let done = std::process::Command::new("kill")
        .args(["-TERM", &server.id().to_string()])
        .status()
        .unwrap();
    assert!(done.success());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        server
            .client
            .get(format!("{}/health", server.url))
            .send()
            .await
            .is_err()
    );
    while let Some(more) = body.next().await {
        text.extend(more.unwrap());
    }
    let joined = Joined::read(std::str::from_utf8(&text).unwrap());
    assert!(joined.done && joined.usage["completion_tokens"] == 100);
}

#[tokio::test]
async fn prompts_answers_and_secrets_stay_out_of_logs_and_metrics() {
    let server = Server::start_with(&[("RUST_LOG", "trace")]).await;
    let secret = server.cli(&["key", "create", "--project", "local"]);
    let answer = server
        .chat(json!({"ask": "The password is xylophone-zebra. Repeat it.", "user": "ada-lovelace"}))
        .await;
    let body = chat(json!({"ask": "xylophone-zebra", "model": "no-such-xylophone"}));
    server
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    let malformed = server
        .client
        .post(format!("{}/v1/chat/completions", server.url));
    malformed
        .bearer_auth(secret.trim())
        .body("{\"xylophone\": \"xylophone")
        .send()
        .await
        .unwrap();
    let body = json!({"model": EMBEDDINGS, "input": "xylophone-zebra"});
    server.post("/v1/embeddings", &body).send().await.unwrap();

    let content = answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    let words = content
        .split_whitespace()
        .take(6)
        .collect::<Vec<_>>()
        .join(" ");
    let told = server.log() + &server.metrics().await;
    for hidden in [
        "xylophone",
        "ada-lovelace",
        "fb-local",
        secret.trim(),
        words.as_str(),
    ] {
        assert!(!told.contains(hidden), "{hidden} is told");
    }
}

/// A process's own words for how it was started.
#[cfg(target_os = "linux")]
fn of_process(id: u32, what: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{id}/{what}")).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_server_asks_for_what_it_needs_of_its_process() {
    // How threads wait, unless that is said; as many open files as the administrator allows, of which a shell gives few.
    let said = Server::start_with(&[("OMP_WAIT_POLICY", "passive")]).await;
    let environment = of_process(said.id(), "environ");
    assert!(
        !environment
            .iter()
            .any(|set| set.starts_with("GOMP_SPINCOUNT="))
    );

    let folder = tempfile::tempdir().unwrap();
    let (port, metrics) = (ports::free().unwrap(), ports::free().unwrap());
    let store = folder.path().join("forebay.db");
    let binary = forebay();
    let mut shell = std::process::Command::new("sh");
    for (name, _) in binary.get_envs() {
        shell.env_remove(name);
    }
    let mut child = shell
        .args(["-c", r#"ulimit -Sn 256; exec "$0" "$@""#])
        .arg(binary.get_program())
        .args(["serve", "--config", "config/quickstart.toml"])
        .current_dir(root())
        .env_remove("OMP_WAIT_POLICY")
        .env_remove("GOMP_SPINCOUNT")
        .env("FOREBAY_SERVER__LISTEN", format!("127.0.0.1:{port}"))
        .env("FOREBAY_METRICS__LISTEN", format!("127.0.0.1:{metrics}"))
        .env(
            "FOREBAY_STORE__URL",
            format!("sqlite://{}", store.display()),
        )
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let url = format!("http://127.0.0.1:{port}/health");
    while said.client.get(&url).send().await.is_err() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let health = said.client.get(&url).send().await;
    let (environment, arguments) = (
        of_process(child.id(), "environ"),
        of_process(child.id(), "cmdline"),
    );
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(health.unwrap().status(), 200);
    assert!(environment.contains(&"GOMP_SPINCOUNT=2000".to_owned()));
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files.unwrap().split_whitespace().skip(3).collect();
    assert!(files[0] == files[1] && files[0] != "256", "{files:?}");
    assert_eq!(
        arguments[1..],
        ["serve", "--config", "config/quickstart.toml"]
    );
}

#[tokio::test]
async fn who_does_not_say_what_he_wants_in_time_is_cut_off() {
    let settings = [("FOREBAY_SERVER__HEADER_READ_TIMEOUT_S", "1")];
    let server = Server::start_with(&settings).await;
    let address = server.url.strip_prefix("http://").unwrap();
    for begun in ["", "PRI * HTTP/2.0\r\n", "GET /health HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let end = stream.read_to_end(&mut said);
        let end = tokio::time::timeout(Duration::from_secs(60), end).await;
        // What was sent and not read makes it a reset.
        let is_closed = match end.expect("it is still open") {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        assert!(is_closed && said.is_empty(), "{begun:?}");
    }
}

#[tokio::test]
async fn where_no_page_may_ask_no_preflight_is_answered() {
    let server = Server::start_with(&[("FOREBAY_SERVER__CORS_ORIGINS", "[]")]).await;
    let url = format!("{}/v1/chat/completions", server.url);
    let asked = server
        .client
        .request(reqwest::Method::OPTIONS, url)
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "POST");
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 405);
    assert!(answer.headers().contains_key("x-request-id"));
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    let error: Value = answer.json().await.unwrap();
    assert_eq!(error["error"]["type"], "invalid_request_error");
}
