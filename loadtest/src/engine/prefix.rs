//! The second request whose prompt begins with the same 600 tokens, with prompt caches on.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::sleep;

use super::{Args, Pair, Results, servers::Servers};
use crate::{
    client::Client,
    figures::{Spread, table},
    prompt::{Rng, story},
    target::Target,
};

const SHARED_WORDS: usize = 600;
const OWN_WORDS: usize = 12;
const TOKENS: u32 = 8;
/// A repetition takes a second or two, and others minutes.
const REPETITIONS_A_ROUND: u64 = 3;
/// Somebody who asks again reads the answer first.
const PAUSE: Duration = Duration::from_millis(300);
/// Apart from the numbers at once that give throughput's prompts.
const PROMPTS: u64 = 1003;

/// One repetition on one server.
#[derive(Serialize)]
pub(super) struct Seen {
    first: Request,
    second: Request,
    /// The second's time to its first token over the first's.
    ratio: f64,
}

#[derive(Serialize)]
struct Request {
    first_text_ms: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
}

pub(super) async fn round(args: &Args, servers: &Servers, round: u64, results: &mut Results) {
    for repetition in 0..REPETITIONS_A_ROUND {
        let mut rng = Rng::new(args.seed, round * REPETITIONS_A_ROUND + repetition, PROMPTS);
        let shared = story(&mut rng, SHARED_WORDS);
        let own = [(); 2].map(|()| story(&mut rng, OWN_WORDS));
        let load = async |target: &_| measure(target, &shared, &own).await;
        let seen = servers.in_turn(round + repetition, load).await;
        results.prefix.push(seen, &mut results.failures);
    }
}

async fn measure(target: &Target, shared: &str, own: &[String; 2]) -> Result<Seen> {
    let first = ask(target, shared, &own[0]).await?;
    sleep(PAUSE).await;
    let second = ask(target, shared, &own[1]).await?;
    let ratio = second.first_text_ms / first.first_text_ms;
    Ok(Seen {
        first,
        second,
        ratio,
    })
}

async fn ask(target: &Target, shared: &str, own: &str) -> Result<Request> {
    let body = target.chat(&format!("{shared} {own}"), TOKENS);
    let answer = Client::new().chat(target, body).await;
    let answer = answer.context("a request with a shared prefix")?;
    Ok(Request {
        first_text_ms: answer.first_text()?.as_secs_f64() * 1e3,
        prompt_tokens: answer.usage.prompt_tokens,
        cached_tokens: answer.usage.cached_tokens(),
    })
}

#[derive(Serialize)]
pub(super) struct Figures {
    sides: Pair<Side>,
    repetitions: Pair<Vec<Seen>>,
}

#[derive(Serialize)]
struct Side {
    first_ms: Spread,
    second_ms: Spread,
    ratio: Spread,
    first_cached_tokens: Spread,
    second_cached_tokens: Spread,
    prompt_tokens: Spread,
}

impl Figures {
    pub(super) fn new(repetitions: Pair<Vec<Seen>>) -> Self {
        Self {
            sides: repetitions.as_ref().map(|seen| Side::new(seen)),
            repetitions,
        }
    }

    pub(super) fn print(&self, out: &mut impl Write) -> Result<()> {
        if self
            .repetitions
            .named()
            .iter()
            .all(|(_, seen)| seen.is_empty())
        {
            return Ok(());
        }
        writeln!(
            out,
            "Prefix: two requests, one after another, that share their first 600 tokens; prompt caches on\n"
        )?;
        let head = [
            "",
            "first token of the first, ms",
            "of the second, ms",
            "ratio (min to max)",
            "cached in the first",
            "in the second",
            "of tokens",
        ];
        let rows = self.sides.named().map(|(name, side)| side.cells(name));
        table(out, &head, &rows)
    }
}

impl Side {
    fn new(seen: &[Seen]) -> Self {
        let spread = |figure: fn(&Seen) -> f64| Spread::of(seen.iter().map(figure));
        Self {
            first_ms: spread(|seen| seen.first.first_text_ms),
            second_ms: spread(|seen| seen.second.first_text_ms),
            ratio: spread(|seen| seen.ratio),
            first_cached_tokens: spread(|seen| seen.first.cached_tokens as f64),
            second_cached_tokens: spread(|seen| seen.second.cached_tokens as f64),
            prompt_tokens: spread(|seen| seen.second.prompt_tokens as f64),
        }
    }

    fn cells(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("{:.0}", self.first_ms.median),
            format!("{:.0}", self.second_ms.median),
            self.ratio.cell(2),
            format!("{:.0}", self.first_cached_tokens.median),
            format!("{:.0}", self.second_cached_tokens.median),
            format!("{:.0}", self.prompt_tokens.median),
        ]
    }
}
