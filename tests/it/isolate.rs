//! Engines in processes of their own, and weights that llama.cpp dies of.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::harness::{CHAT, EMBEDDINGS, Joined, Server, chat, forebay, quickstart_with};
use crate::layout::{models, wait_until_failed};

const READY: Duration = Duration::from_secs(60);
const RUNNING: &str = "forebay_sequences_running{worker=\"smollm2\"}";

fn isolated() -> PathBuf {
    quickstart_with("slots = 32", "slots = 8\nisolate = true")
}

/// The processes that the server started.
fn children(server: &Server) -> Vec<u32> {
    let parent = format!("PPid:\t{}", server.id());
    let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().parse().ok()
    });
    numbers
        .filter(|number: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{number}/status"));
            status.is_ok_and(|status| status.lines().any(|line| line == parent))
        })
        .collect()
}

fn only_child(server: &Server) -> u32 {
    let children = children(server);
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// Waits until the process is gone, or nothing but its number is left.
async fn wait_until_gone(process: u32) {
    for _ in 0..600 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        if !status.is_ok_and(|status| !status.contains("State:\tZ")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("process {process} stays");
}

async fn embeddings(server: &Server) -> Value {
    let body = json!({"model": EMBEDDINGS, "input": ["a river", "a lake"]});
    let answer = server.post("/v1/embeddings", &body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

async fn status(server: &Server, path: &str) -> u16 {
    let url = format!("{}{path}", server.url);
    server.client.get(url).send().await.unwrap().status().into()
}

/// The states of the rows of the ledger, with their prompt's tokens.
async fn rows(server: &Server) -> Vec<(String, i64)> {
    let options = SqliteConnectOptions::new()
        .filename(server.store())
        .read_only(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let rows = sqlx::query_as("SELECT state, prompt_tokens FROM charge")
        .fetch_all(&pool)
        .await
        .unwrap();
    pool.close().await;
    rows
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// An answer, the same streamed, and vectors.
async fn answers(server: &Server) -> (Value, Joined, Value) {
    let ask =
        json!({"ask": "Name three rivers.", "max_tokens": 24, "logprobs": true, "top_logprobs": 2});
    let whole = server.chat(ask.clone()).await;
    let streamed = server.stream(ask).await.text().await.unwrap();
    (whole, Joined::read(&streamed), embeddings(server).await)
}

#[tokio::test]
async fn isolated_workers_answer_as_others_do() {
    let apart = {
        let config = quickstart_with("[[worker]]", "[[worker]]\nisolate = true");
        let server = Server::start_on(config, &[]).await;
        assert_eq!(children(&server).len(), 2);
        let answers = answers(&server).await;
        let body = chat(json!({"ask": "word ".repeat(4000)}));
        let error = server.refused("/v1/chat/completions", &body, 400).await;
        assert_eq!(error["code"], "context_length_exceeded");
        answers
    };
    let together = answers(&Server::start().await).await;
    assert_eq!(text(&apart.0), text(&together.0));
    assert_eq!(apart.0["usage"], together.0["usage"]);
    assert_eq!(
        apart.0["choices"][0]["logprobs"],
        together.0["choices"][0]["logprobs"]
    );
    assert_eq!(apart.1, together.1);
    assert!(apart.1.done);
    assert_eq!(apart.2["data"], together.2["data"]);
    assert_eq!(apart.2["usage"], together.2["usage"]);
}

#[tokio::test]
async fn a_client_that_goes_ends_the_work_in_the_other_process_and_pays_for_what_it_got() {
    let server = Server::start_on(isolated(), &[]).await;
    let body = json!({"ask": "Tell me a story.", "max_tokens": 2000, "ignore_eos": true});
    let mut answer = server.stream(body).await;
    answer.chunk().await.unwrap().unwrap();
    server.wait_for_metric(RUNNING, 1.0, READY).await;
    drop(answer);
    server.wait_for_metric(RUNNING, 0.0, READY).await;
    server
        .wait_for_metric("forebay_ledger_open", 0.0, READY)
        .await;
    server
        .wait_for_metric("forebay_ledger_pending", 0.0, READY)
        .await;
    let [requests, prompt, completion] = server.billed(CHAT);
    assert_eq!(requests, 1);
    assert!(prompt > 0 && (1..2000).contains(&completion));
    let generated = "forebay_engine_tokens_total{phase=\"decode\",worker=\"smollm2\"}";
    #[expect(clippy::cast_precision_loss, reason = "less than 2000")]
    let billed = completion as f64;
    assert!(server.metric(generated).await >= billed);
}

#[tokio::test]
async fn a_process_that_dies_costs_its_own_requests_and_nothing_else() {
    const STREAMS: usize = 4;
    let server = Server::start_on(isolated(), &[]).await;
    let first = only_child(&server);
    let mut streams = Vec::new();
    for index in 0..STREAMS {
        let ask = format!("Tell me a story about {index} mice.");
        let body = json!({"ask": ask, "max_tokens": 2000, "ignore_eos": true});
        let mut answer = server.stream(body).await;
        let begin = answer.chunk().await.unwrap().unwrap();
        streams.push((String::from_utf8(begin.to_vec()).unwrap(), answer));
    }
    server.wait_for_metric(RUNNING, 4.0, READY).await;
    signal(first, "ABRT");

    let read = streams
        .into_iter()
        .map(|(begin, rest)| async move { Joined::read(&(begin + &rest.text().await.unwrap())) });
    for joined in future::join_all(read).await {
        assert!(!joined.error.is_null(), "{joined:?}");
        assert!(joined.finish.is_null(), "{joined:?}");
        assert!(!joined.error["message"].to_string().contains("mice"));
    }
    assert_eq!(status(&server, "/health").await, 200);
    embeddings(&server).await;

    server
        .wait_for_metric("forebay_worker_ready{worker=\"smollm2\"}", 1.0, READY)
        .await;
    assert_eq!(status(&server, "/ready").await, 200);
    let answer = server.chat(json!({"ask": "Hello"})).await;
    assert!(!text(&answer).is_empty());
    let restarts = "forebay_worker_restarts_total{worker=\"smollm2\"}";
    server.wait_for_metric(restarts, 1.0, READY).await;
    assert_ne!(only_child(&server), first);

    let rows = rows(&server).await;
    let absorbed: Vec<_> = rows.iter().filter(|row| row.0 == "absorbed").collect();
    assert_eq!(absorbed.len(), STREAMS, "{rows:?}");
    assert!(absorbed.iter().all(|row| row.1 > 0), "{rows:?}");
    assert_eq!(server.billed(CHAT)[0], 1);
    let line = server
        .log()
        .lines()
        .filter(|line| line.contains("signal 6"))
        .count();
    assert_eq!(line, 1, "{}", server.log());
}

#[tokio::test]
async fn a_process_leaves_with_its_parent_and_for_no_signal_before() {
    let patient = [("FOREBAY_SERVER__DRAIN_S", "300")];
    let mut server = Server::start_on(isolated(), &patient).await;
    let child = only_child(&server);
    let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("HOME=") && !environment.contains("FOREBAY_STORE"));

    let body = json!({"ask": "Tell me a story.", "max_tokens": 80, "ignore_eos": true});
    let mut answer = server.stream(body).await;
    answer.chunk().await.unwrap().unwrap();
    // As a service manager and a terminal do it: the child gets it as well.
    for name in ["TERM", "INT"] {
        signal(child, name);
    }
    signal(server.id(), "TERM");
    assert!(answer.text().await.unwrap().contains("[DONE]"));
    wait_until_gone(child).await;
    wait_until_gone(server.id()).await;
    assert!(server.log().contains("stopped"), "{}", server.log());

    server.kill_and_restart().await;
    let child = only_child(&server);
    server.kill();
    wait_until_gone(child).await;
}

/// A model of which llama.cpp asserts that it can't be: one token's text stands twice in its vocabulary.
fn aborting(folder: &Path) -> PathBuf {
    let models = models(folder);
    let mut file = std::fs::read(models.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let (token, other) = (b"<file_sep>", b"<gh_stars>");
    let place = file
        .windows(token.len())
        .position(|bytes| bytes == token)
        .unwrap();
    file[place..place + other.len()].copy_from_slice(other);
    let path = folder.join("aborting.gguf");
    std::fs::write(&path, file).unwrap();
    path
}

#[tokio::test]
async fn weights_that_llama_cpp_aborts_on_give_one_line_and_leave_the_rest_serving() {
    let folder = tempfile::tempdir().unwrap();
    let weights = aborting(folder.path());
    for isolate in [false, true] {
        let new = format!(
            "weights = \"{}\"\nslots = 2\nisolate = {isolate}",
            weights.display()
        );
        let config = quickstart_with("slots = 32", &new);
        let server = Server::start_until("/health", config, &[]).await;
        let refused = wait_until_failed(&server).await;
        assert!(
            refused.contains("signal 6") && !refused.contains('\n'),
            "{refused}"
        );
        if !isolate {
            assert!(refused.contains("aborting.gguf"), "{refused}");
            assert!(refused.contains("GGML_ASSERT"), "{refused}");
            let told = server.log().matches("aborting.gguf").count();
            assert_eq!(told, 1, "{}", server.log());
        }
        let body = chat(json!({"ask": "Hello"}));
        let error = server.refused("/v1/chat/completions", &body, 503).await;
        assert_eq!(error["code"], "model_not_ready");
        assert_eq!(status(&server, "/health").await, 200);
        embeddings(&server).await;
    }
}

#[tokio::test]
async fn weights_that_load_are_tried_once() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());
    let settings = [("FOREBAY_MODELS__DIR", models.to_str().unwrap())];
    let marks = || {
        let marks = std::fs::read_dir(folder.path().join("trials")).unwrap();
        marks
            .map(|mark| mark.unwrap().metadata().unwrap().modified().unwrap())
            .collect::<Vec<_>>()
    };
    let config = || quickstart_with("slots = 32", "slots = 2\nlayout = \"as-is\"");
    drop(Server::start_on(config(), &settings).await);
    let first = marks();
    assert_eq!(first.len(), 1);
    drop(Server::start_on(config(), &settings).await);
    assert_eq!(marks(), first);
}

#[tokio::test]
async fn a_worker_whose_parent_is_gone_before_its_first_word_ends() {
    let (own, parents) = UnixStream::pair().unwrap();
    drop(parents);
    let mut worker = forebay()
        .arg("worker")
        .stdin(Stdio::from(OwnedFd::from(own)))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while worker.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            worker.kill().unwrap();
            panic!("it waits for a parent that there isn't");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(worker.wait().unwrap().success());
}
