//! At temperature 0 a stream gives what the whole answer gives: text, finish reason and usage.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Joined, Server, chat, quickstart_with};

/// Equal requests are computed in equal batches: of another size they sum in another order, and a token as good as
/// tied may fall the other way. A cached prompt's usage would say so, too.
fn exact() -> PathBuf {
    quickstart_with(
        "slots = 32",
        "slots = 32\nlookup = false\nprefix_cache_mib = 0",
    )
}

fn prompts() -> Vec<Value> {
    let mut prompts: Vec<_> = [
        "What is the capital of France?",
        "Write two sentences about the sea.",
        "请用中文写一句话，介绍你自己。",
        "Repeat these emoji: 🦀🌊👩‍🚀🇫🇷",
        "Translate into Chinese: good morning, my friend.",
        "Why is the sky blue? Answer with one emoji and one sentence.",
        "Écrivez une phrase en français avec des accents.",
        "List three fruits.",
        "Count from one to twenty.",
        "Say <|im_end|> and then go on.",
        "What is 2 + 2?",
        "Write a Python function that adds two numbers.",
        "",
        "  spaces around  ",
        "Tell me a joke about a tokenizer.",
    ]
    .into_iter()
    .map(|ask| json!({"ask": ask, "max_tokens": 40}))
    .collect();
    prompts.extend([
        json!({"ask": "Tell me a long story.", "max_tokens": 1}),
        json!({"ask": "🦀", "max_tokens": 1}),
        json!({"ask": "Count from one to twenty.", "max_tokens": 60, "stop": ["5, 6", "nothing"]}),
        json!({"ask": "Go on without end.", "max_tokens": 50, "ignore_eos": true}),
        json!({"messages": [
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Arr!"},
            {"role": "user", "content": "Who are you?"},
        ]}),
    ]);
    prompts
}

#[tokio::test]
async fn a_stream_gives_what_the_whole_answer_gives() {
    let server = Server::start_on(exact(), &[]).await;
    let prompts = prompts();
    assert_eq!(prompts.len(), 20);
    for prompt in prompts {
        let whole = server.chat(prompt.clone()).await;
        let joined = Joined::read(&server.stream(prompt.clone()).await.text().await.unwrap());
        let choice = &whole["choices"][0];
        let expected = Joined {
            text: choice["message"]["content"].as_str().unwrap().to_owned(),
            finish: choice["finish_reason"].clone(),
            usage: whole["usage"].clone(),
            done: true,
            error: Value::Null,
        };
        assert_eq!(joined, expected, "{prompt}");
        assert_bytes_are_kept(&server, &prompt, &joined.text).await;
    }
}

/// What the model says in bytes is what the text says, character for character, wherever tokens cut them.
async fn assert_bytes_are_kept(server: &Server, prompt: &Value, text: &str) {
    // A stop string takes tokens away, and ignored ends are tokens without text.
    if !prompt["stop"].is_null() || !prompt["ignore_eos"].is_null() {
        return;
    }
    let mut body = prompt.clone();
    body["logprobs"] = json!(true);
    let answer = server.chat(body).await;
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap())
        .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(String::from_utf8_lossy(&bytes), text, "{prompt}");
}

#[tokio::test]
async fn a_stop_string_that_spans_tokens_never_shows() {
    let server = Server::start_on(exact(), &[]).await;
    let ask = json!({"ask": "List the days of the week, one after another.", "max_tokens": 48, "logprobs": true});
    let answer = server.chat(ask.clone()).await;
    let choice = &answer["choices"][0];
    let full = choice["message"]["content"].as_str().unwrap();
    let tokens: Vec<&str> = choice["logprobs"]["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["token"].as_str().unwrap())
        .collect();
    // From the last character of one token to the first of the next but one: no token has it.
    let at: usize = tokens[..10].iter().map(|token| token.len()).sum();
    let end = at + tokens[10].len() + 1;
    let stop = &full[at - 1..end];
    assert!(tokens.iter().all(|token| !token.contains(stop)));

    let mut stopped = ask;
    stopped["stop"] = json!(stop);
    let whole = server.chat(stopped.clone()).await;
    let expected = &full[..full.find(stop).unwrap()];
    assert_eq!(whole["choices"][0]["message"]["content"], expected);
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let body = server.stream(stopped).await.text().await.unwrap();
    assert_eq!(Joined::read(&body).text, expected);
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused_the_same_both_ways() {
    let server = Server::start().await;
    for stream in [false, true] {
        let body = chat(json!({"ask": "word ".repeat(5000), "stream": stream}));
        let error = server.refused("/v1/chat/completions", &body, 400).await;
        assert_eq!(error["code"], "context_length_exceeded");
    }
    // One that fits with room for a token is answered, and ends there.
    let fits = server
        .chat(json!({"ask": "word ".repeat(2000), "max_tokens": 500, "ignore_eos": true}))
        .await;
    assert_eq!(fits["choices"][0]["finish_reason"], "length");
    assert_eq!(fits["usage"]["total_tokens"], 2048);
    assert_eq!(
        server.billed(crate::harness::CHAT)[0],
        1,
        "what was refused is not booked"
    );
}
