//! A client that goes: its sequence is gone within a second, and it pays for what was generated.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;

use crate::harness::{CHAT, Server, quickstart_with};

const RUNNING: &str = "forebay_sequences_running{worker=\"smollm2\"}";
const GENERATED: &str = "forebay_engine_tokens_total{phase=\"decode\",worker=\"smollm2\"}";
const OPEN: &str = "forebay_ledger_open";

async fn check(server: &Server, prompt_tokens: u64) {
    server
        .wait_for_metric(RUNNING, 0.0, Duration::from_secs(1))
        .await;
    server
        .wait_for_metric(OPEN, 0.0, Duration::from_secs(1))
        .await;
    server
        .wait_for_metric("forebay_ledger_pending", 0.0, Duration::from_secs(1))
        .await;
    let generated = server.metric(GENERATED).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        server.metric(GENERATED).await.to_bits(),
        generated.to_bits(),
        "the engine went on"
    );

    let [requests, prompt, completion] = server.billed(CHAT);
    assert_eq!((requests, prompt), (1, prompt_tokens));
    // The engine may have sampled one more, in the step in which the client went: nobody's, and not billed.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a counter of tokens"
    )]
    let generated = generated as u64;
    assert!(
        completion > 0 && (generated - 1..=generated).contains(&completion),
        "{completion} of {generated}"
    );
}

async fn prompt_tokens(ask: &str) -> u64 {
    // On a server of its own, so that the other's ledger stays empty.
    let server = Server::start().await;
    let answer = server.chat(json!({"ask": ask, "max_tokens": 1})).await;
    answer["usage"]["prompt_tokens"].as_u64().unwrap()
}

#[tokio::test]
async fn mid_stream() {
    let ask = "Tell me a very long story about the sea.";
    let expected = prompt_tokens(ask).await;
    let server = Server::start().await;
    let answer = server
        .stream(json!({"ask": ask, "max_tokens": 2000, "ignore_eos": true}))
        .await;
    let mut body = answer.bytes_stream();
    for _ in 0..6 {
        body.next().await.unwrap().unwrap();
    }
    drop(body);
    check(&server, expected).await;
}

#[tokio::test]
async fn mid_answer_without_streaming() {
    let ask = "Tell me a very long story about the moon.";
    let expected = prompt_tokens(ask).await;
    let server = Server::start().await;
    let answer = server.chat(json!({"ask": ask, "max_tokens": 2000, "ignore_eos": true}));
    let some_tokens = async {
        while server.metric(GENERATED).await < 6.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = answer => panic!("it was over before the client went"),
        () = some_tokens => {}
    }
    check(&server, expected).await;
}

#[tokio::test]
async fn while_waiting_for_a_slot_costs_nothing() {
    let config = quickstart_with("slots = 32", "slots = 1");
    let server = Server::start_on(config, &[]).await;
    let running = server
        .stream(json!({"ask": "Count.", "max_tokens": 1000, "ignore_eos": true}))
        .await;
    server
        .wait_for_metric(RUNNING, 1.0, Duration::from_secs(5))
        .await;
    let waiting = server.chat(json!({"ask": "Hello"}));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), waiting)
            .await
            .is_err()
    );
    server
        .wait_for_metric(
            "forebay_queue_depth{pool=\"smollm2-135m-instruct\"}",
            0.0,
            Duration::from_secs(1),
        )
        .await;
    drop(running);
    server
        .wait_for_metric(OPEN, 0.0, Duration::from_secs(1))
        .await;
    server
        .wait_for_metric("forebay_ledger_pending", 0.0, Duration::from_secs(1))
        .await;
    assert_eq!(server.billed(CHAT)[0], 1);
}
