//! Requests that run together each give what they give alone.
//!
//! A batch of other sizes sums in another order, so the logits of one request move by rounding. How far, is
//! seen in the log-probabilities of the tokens that both runs have in common; a leak of another request's
//! state moves them by whole nats. So an answer may differ from the solo one only from a token on where the
//! solo run's choice and the batched run's were within that noise of each other.

use serde_json::{Value, json};

use crate::harness::{Server, quickstart_with};

/// How far rounding moves a log-probability, in nats: on the mean over an answer, and at one token of it. The
/// test prints what it saw.
const MEAN_NOISE: f64 = 0.2;
const TOKEN_NOISE: f64 = 1.0;

const WORDS: [&str; 32] = [
    "walnut", "harbor", "violin", "copper", "meadow", "lantern", "saffron", "glacier", "pepper",
    "compass", "marble", "orchid", "thunder", "velvet", "anchor", "biscuit", "canyon", "dolphin",
    "ember", "falcon", "ginger", "hammer", "island", "jasmine", "kettle", "lemon", "magnet",
    "nectar", "olive", "pebble", "quartz", "ribbon",
];

/// Without a prefix cache: every run computes its whole prompt.
async fn cold() -> Server {
    let config = quickstart_with("slots = 32", "slots = 32\nprefix_cache_mib = 0");
    Server::start_on(config, &[]).await
}

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

/// How far the log-probabilities moved on the common way: on the mean, and at most.
#[derive(Debug, Default, Clone, Copy)]
struct Moved {
    mean: f64,
    most: f64,
}

/// An error says where the ways part without a reason.
fn moved(solo: &Value, batched: &Value) -> Result<Moved, String> {
    let of = |token: &Value| token["logprob"].as_f64().unwrap();
    let (mut moved, mut common) = (Moved::default(), 0.0);
    for (alone, together) in tokens(solo).iter().zip(tokens(batched)) {
        if alone["bytes"] != together["bytes"] {
            // The solo run must have had the other token as near as noise allows.
            let top = alone["top_logprobs"].as_array().unwrap();
            let rival = top.iter().find(|top| top["bytes"] == together["bytes"]);
            let rival = rival.ok_or_else(|| format!("{together} was not likely alone: {alone}"))?;
            let gap = of(alone) - of(rival);
            if gap > TOKEN_NOISE {
                return Err(format!(
                    "the solo run was sure by {gap} nats, and the batch chose otherwise"
                ));
            }
            break;
        }
        let by = (of(alone) - of(together)).abs();
        moved.most = moved.most.max(by);
        moved.mean += by;
        common += 1.0;
    }
    moved.mean /= f64::max(common, 1.0);
    Ok(moved)
}

fn is_noise(moved: Moved) -> bool {
    moved.mean <= MEAN_NOISE && moved.most <= TOKEN_NOISE
}

#[tokio::test]
async fn thirty_two_at_once_each_give_what_they_give_alone() {
    let server = cold().await;
    let together =
        futures_util::future::join_all((0..WORDS.len()).map(|index| server.chat(request(index))))
            .await;
    let (mut worst, mut same) = (Moved::default(), 0);
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
        let moved = moved(&solo, batched).unwrap_or_else(|why| panic!("answer {index}: {why}"));
        assert!(
            is_noise(moved),
            "answer {index} moved by {moved:?} nats: {answer}"
        );
        worst = Moved {
            mean: worst.mean.max(moved.mean),
            most: worst.most.max(moved.most),
        };
    }
    println!("{same} of 32 texts are the same; log-probabilities moved by {worst:?} nats at most");
}

/// The judge must be able to convict: what another prompt of the same form gives is no noise.
#[tokio::test]
async fn an_answer_to_another_prompt_is_told_from_noise() {
    let server = cold().await;
    for (one, other) in [(0, 7), (1, 8), (2, 9)] {
        // The same length of prompt and the same question: only the word is another's.
        let (one, other) = (
            server.chat(request(one)).await,
            server.chat(request(other)).await,
        );
        assert!(!moved(&one, &other).is_ok_and(is_noise));
    }
}
