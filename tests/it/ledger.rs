//! The books: what clients were told, to the token, and across a `kill -9`.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt, future, stream};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::harness::{CHAT, EMBEDDINGS, Joined, Server, chat};

fn tokens(usage: &Value, kind: &str) -> u64 {
    usage[kind].as_u64().unwrap()
}

#[tokio::test]
async fn two_hundred_answers_are_billed_token_for_token() {
    let server = Server::start().await;
    let ask = |index: u64| {
        let server = &server;
        async move {
            let body = json!({"ask": format!("Tell me {index} things about rivers."), "max_tokens": 4 + index % 9});
            match index % 3 {
                0 => server.chat(body).await["usage"].clone(),
                1 => Joined::read(&server.stream(body).await.text().await.unwrap()).usage,
                _ => {
                    let request = json!({"model": CHAT, "prompt": format!("River {index}"), "max_tokens": 3 + index % 5});
                    let answer = server
                        .post("/v1/completions", &request)
                        .send()
                        .await
                        .unwrap();
                    answer.json::<Value>().await.unwrap()["usage"].clone()
                }
            }
        }
    };
    let usages: Vec<Value> = stream::iter(0..180)
        .map(ask)
        .buffer_unordered(24)
        .collect()
        .await;
    let mut embedded = 0;
    for index in 0..20 {
        let request = json!({"model": EMBEDDINGS, "input": ["a river", format!("number {index}")]});
        let answer: Value = server
            .post("/v1/embeddings", &request)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        embedded += tokens(&answer["usage"], "prompt_tokens");
    }
    let sum = |kind| usages.iter().map(|usage| tokens(usage, kind)).sum::<u64>();
    assert_eq!(
        server.billed(CHAT),
        [180, sum("prompt_tokens"), sum("completion_tokens")]
    );
    assert_eq!(server.billed(EMBEDDINGS), [20, embedded, 0]);

    // The bill in money: prompt 0.02 and completion 0.06 a million tokens, in 10^-12.
    let pico = sum("prompt_tokens") * 20_000 + sum("completion_tokens") * 60_000;
    let row = server
        .usage()
        .into_iter()
        .find(|row| row["model"] == CHAT)
        .unwrap();
    assert_eq!(row["amount"].as_str().unwrap(), decimal(pico));
    assert_eq!(row["project"], "local");
}

fn decimal(pico: u64) -> String {
    let digits = format!("{:012}", pico % 1_000_000_000_000);
    format!(
        "{}.{}",
        pico / 1_000_000_000_000,
        digits.trim_end_matches('0')
    )
}

/// The rows of the ledger: request id, state, prompt and completion tokens.
async fn rows(server: &Server) -> Vec<(String, String, i64, i64)> {
    let options = SqliteConnectOptions::new()
        .filename(server.store())
        .read_only(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let rows =
        sqlx::query_as("SELECT request_id, state, prompt_tokens, completion_tokens FROM charge")
            .fetch_all(&pool)
            .await
            .unwrap();
    pool.close().await;
    rows
}

async fn in_flight(server: &Server) -> i64 {
    count(server, "SELECT count(*) FROM in_flight").await
}

/// Attempts whose checkpoint on disk has part of an answer.
async fn begun(server: &Server) -> i64 {
    count(
        server,
        "SELECT count(*) FROM in_flight WHERE prompt_tokens > 0 AND completion_tokens > 0",
    )
    .await
}

async fn count(server: &Server, query: &'static str) -> i64 {
    let options = SqliteConnectOptions::new()
        .filename(server.store())
        .read_only(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let count = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
    pool.close().await;
    count
}

/// What one client saw: its request's id, and the usage if the answer came whole.
async fn client(server: &Server, index: u64) -> Option<(String, Option<Value>)> {
    // Every third is short and may end before the kill, the others run on.
    let max_tokens = if index.is_multiple_of(3) {
        2 + index
    } else {
        1900
    };
    let body = chat(json!({
        "ask": format!("Tell me a story about {index} mice."), "max_tokens": max_tokens, "ignore_eos": true,
        "stream": index.is_multiple_of(2), "stream_options": {"include_usage": true},
    }));
    let answer = server
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .ok()?;
    let id = answer.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let streams = index.is_multiple_of(2);
    // A body that breaks off is an answer that did not come whole.
    let Ok(text) = answer.text().await else {
        return Some((id, None));
    };
    let usage = if streams {
        let joined = Joined::read(&text);
        joined.done.then_some(joined.usage)
    } else {
        serde_json::from_str::<Value>(&text)
            .ok()
            .map(|answer| answer["usage"].clone())
    };
    Some((id, usage))
}

#[tokio::test]
async fn after_kill_9_whole_answers_stand_once_and_running_ones_are_recovered() {
    let mut server = Server::start().await;
    let seen = {
        let server = &server;
        let clients = future::join_all((0..50).map(|index| client(server, index)));
        let kill = async {
            // Late enough that short ones have ended and those that run have checkpoints with an answer begun.
            let settled = "forebay_ledger_charges_total{state=\"settled\"}";
            while server.metric(settled).await < 8.0 || begun(server).await < 30 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            kill_9(server);
        };
        future::join(clients, kill).await.0
    };
    server.kill_and_restart().await;

    let whole: Vec<_> = seen
        .into_iter()
        .flatten()
        .filter_map(|(id, usage)| Some((id, usage?)))
        .collect();
    assert!(
        whole.len() >= 5,
        "only {} answers came whole before the kill",
        whole.len()
    );
    let rows = rows(&server).await;
    let ids: HashSet<_> = rows.iter().map(|row| &row.0).collect();
    assert_eq!(ids.len(), rows.len(), "a request stands twice");
    for (id, usage) in &whole {
        let (_, state, prompt, completion) = rows.iter().find(|row| row.0 == *id).unwrap();
        assert_eq!(state, "settled");
        let told = (
            tokens(usage, "prompt_tokens"),
            tokens(usage, "completion_tokens"),
        );
        assert_eq!(told, (prompt.unsigned_abs(), completion.unsigned_abs()));
    }
    let recovered: Vec<_> = rows.iter().filter(|row| row.1 == "recovered").collect();
    assert!(
        recovered.len() >= 30,
        "only {} were recovered",
        recovered.len()
    );
    let begun = recovered.iter().filter(|row| row.2 > 0 && row.3 > 0);
    assert!(begun.count() >= 30, "{recovered:?}");
    assert_eq!(in_flight(&server).await, 0);

    // A second start finds nothing more to book.
    let before = rows.len();
    server.kill_and_restart().await;
    assert_eq!(self::rows(&server).await.len(), before);
}

/// Kills without the exclusive borrow that `Server::kill` needs, while clients still read.
fn kill_9(server: &Server) {
    let done = std::process::Command::new("kill")
        .args(["-9", &server.id().to_string()])
        .status()
        .unwrap();
    assert!(done.success());
}

#[tokio::test]
async fn one_store_is_served_by_one_process() {
    let server = Server::start().await;
    let second = crate::harness::forebay()
        .args(["serve", "--config", "config/quickstart.toml"])
        .env(
            "FOREBAY_STORE__URL",
            format!("sqlite://{}", server.store().display()),
        )
        .env("FOREBAY_SERVER__LISTEN", "127.0.0.1:0")
        .env("FOREBAY_METRICS__LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another forebay serves"));
}
