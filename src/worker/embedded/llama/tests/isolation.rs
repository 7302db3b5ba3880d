//! Sequences that run together don't touch each other, whatever joins, leaves or is put aside beside them.
//!
//! Every token of every answer is scored again by a solo run over the same tokens. Batches of other sizes sum in
//! another order, and round activations to 8 bits in other blocks, so log-probabilities move: by 0.88 nats at one
//! token at most, and by 0.18 on an answer's mean, in 3,200 answers of SmolLM2-135M; by 0.47 in 160 of Gemma 3 270M.
//! The bounds leave room beyond that. Cells or logits of another sequence move them by whole nats (12 and 27 in the planted faults below).

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::worker::embedded::llama::bank::Fault;

/// On the mean over an answer, in nats.
const MEAN_NOISE: f64 = 0.25;
/// At one token.
const TOKEN_NOISE: f64 = 1.5;
const PROMPTS: usize = 16;
const SLOTS: usize = 5;
/// More than a reader is given ahead: an answer of so many can't end before somebody reads it.
const HOLDING_TOKENS: u32 = 80;

/// `FOREBAY_ROUNDS` makes it longer: `make test-long` asks for 200.
fn rounds() -> usize {
    std::env::var("FOREBAY_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap())
}

/// Rounds after which the judge has a look.
const SITTING: usize = 10;

/// `FOREBAY_SEED` draws other prompts and moments: long forms may be run in parts.
fn seed() -> u64 {
    std::env::var("FOREBAY_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// How many of the prompts are longer than a window of attention: some where the model has one, a few in the
/// long form for any.
fn long_prompts() -> f64 {
    if model().cuttable_tokens() < CONTEXT as usize {
        0.125
    } else if rounds() >= 50 {
        0.02
    } else {
        0.0
    }
}

/// A word that no other prompt has. No syllable stands in it twice: a model that stutters shall not spell another's.
fn canary(random: &mut StdRng) -> String {
    let syllables = [
        "zor", "vex", "qui", "bal", "mip", "tuk", "yag", "fen", "dro", "wix", "lun", "pog", "ska",
        "hib", "jat", "nerv", "oth", "cru", "gli", "wump", "dax", "fro", "kep", "smi", "tov",
        "ulb", "vop", "zeb", "yor", "quil",
    ];
    let chosen = syllables.choose_multiple(random, 5);
    chosen.copied().collect()
}

struct Answered {
    canary: String,
    prompt: Vec<u32>,
    read: Read,
}

#[expect(
    clippy::disallowed_methods,
    reason = "requests that come at random moments"
)]
fn wait(random: &mut StdRng) {
    std::thread::sleep(std::time::Duration::from_millis(random.random_range(0..30)));
}

/// Until it has begun to answer, or has failed.
#[expect(clippy::disallowed_methods, reason = "the engine tells by a count")]
fn wait_for_start(asked: &Reading) {
    while asked.progress.read().completion_tokens == 0 && !asked.progress.is_closed() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Rounds of prompts that come at random moments, some of which leave early, over fewer slots than prompts. The
/// first of each round hold every slot with work of the batch class: some are put aside however fast the
/// machine is.
fn run(handle: &Handle, rounds: usize, random: &mut StdRng) -> Vec<Answered> {
    let mut answers = Vec::new();
    let share = long_prompts();
    for _ in 0..rounds {
        let mut reading = Vec::new();
        for index in 0..PROMPTS {
            let holds = index < SLOTS;
            let canary = canary(random);
            let lines = if random.random_bool(share) {
                random.random_range(90..200)
            } else {
                random.random_range(0..8)
            };
            let padding = "Read all of this with care. ".repeat(lines);
            let text = format!("{padding}The word is {canary}. Say {canary} again and again.");
            let (max_tokens, classes) = if holds {
                (HOLDING_TOKENS, &[Class::Batch][..])
            } else {
                (
                    random.random_range(4..20),
                    &[Class::Batch, Class::Standard, Class::Interactive][..],
                )
            };
            let class = *classes.choose(random).unwrap();
            let tenant = *["proj_a", "proj_b"].choose(random).unwrap();
            let asked = handle.ask_as(tenant, class, greedy(chat(&text), max_tokens));
            let leaves = !holds && random.random_bool(0.25);
            let at_most = if leaves {
                random.random_range(1..max_tokens) as usize
            } else {
                usize::MAX
            };
            reading.push((canary, asked, at_most));
            if index + 1 == SLOTS {
                let holding = reading.iter();
                holding.for_each(|(_, asked, _)| wait_for_start(asked));
            } else if !holds {
                wait(random);
            }
        }
        for (canary, mut asked, at_most) in reading {
            // What a planted fault breaks is no answer.
            if let Ok((mut choices, _)) = asked.read(at_most) {
                answers.push(Answered {
                    canary,
                    prompt: asked.prompt,
                    read: choices.swap_remove(0),
                });
            }
        }
    }
    answers
}

/// What a solo run says of the same tokens.
fn solo(handle: &Handle, answered: &Answered) -> Vec<f64> {
    let mut tokens = answered.prompt.clone();
    tokens.extend(answered.read.tokens.iter().map(|token| token.id));
    let scored = Generate {
        echo: true,
        ..greedy(Prompt::Tokens(tokens), 0)
    };
    let (mut choices, _) = handle.ask(scored).whole();
    let scores = choices
        .swap_remove(0)
        .tokens
        .split_off(answered.prompt.len());
    scores
        .iter()
        .map(|token| token.logprob.unwrap().into())
        .collect()
}

/// How far an answer is from its solo run: on the mean, and at most.
fn distance(answered: &Answered, solo: &[f64]) -> (f64, f64) {
    let tokens = answered.read.tokens.iter();
    let moved: Vec<_> = tokens
        .zip(solo)
        .map(|(token, solo)| (f64::from(token.logprob.unwrap()) - solo).abs())
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a few tokens")]
    let mean = moved.iter().sum::<f64>() / moved.len() as f64;
    (mean, moved.into_iter().fold(0.0, f64::max))
}

/// The faults that the judge finds in the answers from `first` on, a line each. None may hold the canary of any.
fn judge(handle: &Handle, answers: &[Answered], first: usize) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut means, mut worst_mean, mut most) = (0.0, 0.0_f64, 0.0_f64);
    for answered in &answers[first..] {
        let text = &answered.read.text;
        let others = answers
            .iter()
            .filter(|other| other.canary != answered.canary);
        for other in others {
            if text.contains(&other.canary) {
                faults.push(format!("{text:?} holds another's canary {}", other.canary));
            }
        }
        let (mean, worst) = distance(answered, &solo(handle, answered));
        if mean > MEAN_NOISE || worst > TOKEN_NOISE {
            faults.push(format!(
                "{text:?} is {mean:.3} nats off, {worst:.3} at one token"
            ));
        }
        means += mean;
        worst_mean = worst_mean.max(mean);
        most = most.max(worst);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand answers")]
    let mean = means / (answers.len() - first).max(1) as f64;
    eprintln!(
        "answers {first} to {}: {mean:.4} nats off on the mean, {worst_mean:.3} on an answer's mean at most, {most:.3} at one token",
        answers.len()
    );
    faults
}

fn busy(fault: Option<Fault>) -> Settings {
    let mut settings = settings(SLOTS);
    settings.bank.fault = fault;
    settings.prefix_cache_bytes = 64 << 20;
    settings
}

#[test]
fn answers_are_what_they_are_alone() {
    let mut random = StdRng::seed_from_u64(seed());
    with_engine(busy(None), |handle| {
        let rounds = rounds();
        let mut answers = Vec::new();
        while answers.len() < rounds * PROMPTS {
            let first = answers.len();
            let left = rounds - first / PROMPTS;
            answers.extend(run(handle, left.min(SITTING), &mut random));
            assert_eq!(answers.len(), first + left.min(SITTING) * PROMPTS);
            let preempted = handle.metrics.preemptions.get();
            assert!(preempted > 0, "nothing was put aside");
            let broken_off = handle.metrics.broken_off.get();
            eprintln!(
                "{preempted} times a sequence was put aside, {broken_off} steps were broken off"
            );
            let faults = judge(handle, &answers, first);
            assert!(faults.is_empty(), "{faults:#?}");
        }
    });
}

#[test]
fn a_planted_fault_is_found() {
    for fault in [Fault::NeighboursLogits, Fault::OthersState] {
        let mut random = StdRng::seed_from_u64(2);
        let answers = with_engine(busy(Some(fault)), |handle| run(handle, 1, &mut random));
        let faults = with_engine(busy(None), |handle| judge(handle, &answers, 0));
        assert!(!faults.is_empty(), "{fault:?} was not found");
    }
}
