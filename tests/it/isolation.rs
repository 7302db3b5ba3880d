//! Requests that run together each give what they give alone.
//!
//! A batch of other sizes sums in another order, so the logits of one request move by rounding. How far, is
//! seen in the log-probabilities of the tokens that both runs have in common; a leak of another request's
//! state moves them by whole nats. So an answer may differ from the solo one only from a token on where the
//! solo run's choice and the batched run's were within that noise of each other.

use serde_json::{Value, json};

use crate::harness::Server;

/// In nats. Rounding moves a log-probability by a few hundredths (Q4_1 weights, activations quantised to
/// 8 bits per row); the test prints what it saw.
const NOISE: f64 = 0.25;

const WORDS: [&str; 32] = [
    "walnut", "harbor", "violin", "copper", "meadow", "lantern", "saffron", "glacier", "pepper",
    "compass", "marble", "orchid", "thunder", "velvet", "anchor", "biscuit", "canyon", "dolphin",
    "ember", "falcon", "ginger", "hammer", "island", "jasmine", "kettle", "lemon", "magnet",
    "nectar", "olive", "pebble", "quartz", "ribbon",
];

fn request(index: usize) -> Value {
    let word = WORDS[index];
    // Prompts of different lengths: their rows and positions never line up.
    let padding = "Please read this carefully. ".repeat(index % 7);
    json!({
        "ask": format!("{padding}The code word is {word}. Repeat the code word three times, then write a sentence with it."),
        "max_tokens": 24 + index % 5 * 8,
        "ignore_eos": true,
        "logprobs": true,
        "top_logprobs": 5,
    })
}

fn tokens(answer: &Value) -> &Vec<Value> {
    answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap()
}

fn text(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_lowercase()
}

/// The largest move of a log-probability on the common way; panics where the ways part without a reason.
fn noise_between(solo: &Value, batched: &Value) -> f64 {
    let mut noise: f64 = 0.0;
    for (alone, together) in tokens(solo).iter().zip(tokens(batched)) {
        let of = |token: &Value| token["logprob"].as_f64().unwrap();
        if alone["bytes"] == together["bytes"] {
            noise = noise.max((of(alone) - of(together)).abs());
            continue;
        }
        // The ways part here: the solo run must have had the other token as near as noise allows.
        let rival = alone["top_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|top| top["bytes"] == together["bytes"]);
        let rival = rival.unwrap_or_else(|| panic!("{together} was not likely alone: {alone}"));
        let gap = of(alone) - of(rival);
        assert!(
            gap <= 2.0 * NOISE,
            "the solo run was sure by {gap} nats, and the batch chose otherwise"
        );
        return noise;
    }
    noise
}

#[tokio::test]
async fn thirty_two_at_once_each_give_what_they_give_alone() {
    let server = Server::start().await;
    let together =
        futures_util::future::join_all((0..WORDS.len()).map(|index| server.chat(request(index))))
            .await;
    let (mut worst, mut same) = (0.0_f64, 0);
    for (index, batched) in together.iter().enumerate() {
        let solo = server.chat(request(index)).await;
        let answer = text(batched);
        for (other, word) in WORDS.iter().enumerate() {
            let foreign = other != index && !text(&solo).contains(word);
            assert!(
                !(foreign && answer.contains(word)),
                "answer {index} holds {word}: {answer}"
            );
        }
        assert_eq!(batched["usage"], solo["usage"]);
        same += usize::from(answer == text(&solo));
        worst = worst.max(noise_between(&solo, batched));
    }
    println!("{same} of 32 texts are the same; log-probabilities moved by {worst:.3} nats at most");
    assert!(worst <= NOISE, "a log-probability moved by {worst} nats");
}

/// The judge must be able to convict: another's answer in the place of one's own is no noise.
#[tokio::test]
async fn an_answer_to_another_prompt_is_told_from_noise() {
    let server = Server::start().await;
    let (one, other) = (server.chat(request(0)).await, server.chat(request(9)).await);
    let judged = std::panic::catch_unwind(|| noise_between(&one, &other));
    assert!(judged.is_err() || judged.is_ok_and(|noise| noise > NOISE));
}
