//! The second engine: the same trait, the same API.

use serde_json::json;

use crate::harness::{CHAT, Joined, Server, quickstart_with};

async fn server() -> Server {
    let config = quickstart_with("engine = \"llama\"", "engine = \"mistralrs\"");
    Server::start_on(config, &[]).await
}

#[tokio::test]
async fn mistralrs_answers_and_is_billed() {
    let server = server().await;
    let body = json!({"ask": "What is the capital of France?", "max_tokens": 24});
    let whole = server.chat(body.clone()).await;
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    // Two engines on one file: they begin alike, and rounding may part them later.
    let begins = text.chars().take(12).collect::<String>();
    let other = Server::start().await.chat(body.clone()).await;
    let other = other["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(
        begins.len() >= 12 && other.starts_with(&begins),
        "{text} | {other}"
    );
    let joined = Joined::read(&server.stream(body).await.text().await.unwrap());
    assert_eq!(joined.text, text);
    assert_eq!(joined.usage, whole["usage"]);
    let [requests, prompt, completion] = server.billed(CHAT);
    let told = |kind: &str| 2 * whole["usage"][kind].as_u64().unwrap();
    assert_eq!(
        [requests, prompt, completion],
        [2, told("prompt_tokens"), told("completion_tokens")]
    );
}

#[tokio::test]
async fn mistralrs_runs_one_sequence_at_a_time_and_mixes_none_up() {
    let server = server().await;
    let asks = [
        "Name a fruit.",
        "What is the capital of France? Answer in one word.",
        "Say hello.",
    ];
    let together = futures_util::future::join_all(
        asks.iter()
            .map(|ask| server.chat(json!({"ask": ask, "max_tokens": 12}))),
    )
    .await;
    for (ask, batched) in asks.iter().zip(together) {
        let solo = server.chat(json!({"ask": ask, "max_tokens": 12})).await;
        assert_eq!(batched["choices"], solo["choices"], "{ask}");
    }
}

#[tokio::test]
async fn mistralrs_refuses_by_name_what_it_has_no_means_for() {
    let server = server().await;
    for (param, value) in [
        ("seed", json!(1)),
        ("n", json!(2)),
        ("response_format", json!({"type": "json_object"})),
        ("frequency_penalty", json!(0.5)),
        ("logprobs", json!(true)),
        ("ignore_eos", json!(true)),
    ] {
        let body = crate::harness::chat(json!({"ask": "Hello", param: value}));
        let error = server.refused("/v1/chat/completions", &body, 400).await;
        assert_eq!(error["param"], param);
    }
}
