//! Whether a long prompt stalls the answers that run beside it.
//!
//! 8 answers run. Once they have run evenly for a while, a request with a prompt of 1,500 tokens
//! arrives. How long do the others wait for their next token until its first one is there?

use std::{
    io::Write,
    iter,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{Args, Pair, Results, servers::Servers, streams::Streams};
use crate::{
    client::Client,
    figures::{Spread, median, quantile, table},
    prompt::{Rng, story},
    target::Target,
};

const STREAMS: usize = 8;
const STREAM_WORDS: usize = 20;
/// More than any of them gets until the measurement ends.
const STREAM_TOKENS: u32 = 1500;
const LONG_WORDS: usize = 1480;
const LONG_TOKENS: u32 = 8;
/// Pieces of text until all have joined and run evenly, and after that until the long prompt arrives.
const JOINING: usize = 8;
const EVENLY: usize = 32;
/// Apart from the numbers at once that give throughput's prompts.
const PROMPTS: u64 = 1001;

/// One repetition on one server.
#[derive(Serialize)]
pub(super) struct Seen {
    /// Between tokens of the 8, before the long prompt came.
    gap_before_p50_ms: f64,
    /// Between tokens of the 8, from its arrival to its first token.
    gap_during_p99_ms: f64,
    gap_during_max_ms: f64,
    gaps_during: usize,
    stall: f64,
    first_text_ms: f64,
    prompt_tokens: u64,
}

pub(super) async fn round(args: &Args, servers: &Servers, round: u64, results: &mut Results) {
    let load = async |target: &_| measure(target, args.seed, round).await;
    let seen = servers.in_turn(round, load).await;
    results.long_prompt.push(seen, &mut results.failures);
}

async fn measure(target: &Target, seed: u64, round: u64) -> Result<Seen> {
    let mut rng = Rng::new(seed, round, PROMPTS);
    let asks = (0..STREAMS).map(|_| {
        let prompt = story(&mut rng, STREAM_WORDS);
        iter::once(target.chat(&prompt, STREAM_TOKENS))
    });
    let mut streams = Streams::start(target, asks);
    streams.each_has(JOINING).await?;
    let even = Instant::now();
    streams.each_has(JOINING + EVENLY).await?;

    let body = target.chat(&story(&mut rng, LONG_WORDS), LONG_TOKENS);
    let arrival = Instant::now();
    // Read to its end: the gaps in which its first token falls have ended by then too.
    let answer = Client::new().chat(target, body).await?;
    streams.still_run().await?;
    let first = arrival + answer.first_text()?;

    let texts = streams.texts();
    let before = gaps(&texts, |start, end| start >= even && end <= arrival);
    // Whatever part of a gap lies in between: the wait that the first token ends counts as well.
    let during = gaps(&texts, |start, end| end > arrival && start < first);
    ensure!(
        !before.is_empty() && !during.is_empty(),
        "too little text to measure"
    );
    let (before_p50, during_p99) = (median(&before), quantile(&during, 0.99));
    Ok(Seen {
        gap_before_p50_ms: before_p50,
        gap_during_p99_ms: during_p99,
        gap_during_max_ms: quantile(&during, 1.0),
        gaps_during: during.len(),
        stall: during_p99 / before_p50,
        first_text_ms: millis(first - arrival),
        prompt_tokens: answer.usage.prompt_tokens,
    })
}

/// Sorted, in milliseconds.
fn gaps(texts: &[Vec<Instant>], taken: impl Fn(Instant, Instant) -> bool) -> Vec<f64> {
    let pairs = texts.iter().flat_map(|texts| texts.windows(2));
    let taken = pairs.filter(|pair| taken(pair[0], pair[1]));
    let mut gaps: Vec<_> = taken.map(|pair| millis(pair[1] - pair[0])).collect();
    gaps.sort_by(f64::total_cmp);
    gaps
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[derive(Serialize)]
pub(super) struct Figures {
    sides: Pair<Side>,
    repetitions: Pair<Vec<Seen>>,
}

#[derive(Serialize)]
struct Side {
    gap_before_p50_ms: Spread,
    gap_during_p99_ms: Spread,
    /// The p99 during over the median before, repetition by repetition.
    stall: Spread,
    first_text_ms: Spread,
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
            "Long prompt: {STREAMS} answers run, a prompt of 1,500 tokens arrives (aim: ratio at most 2)\n"
        )?;
        let head = [
            "",
            "gap before, p50, ms",
            "gap until its first token, p99, ms",
            "ratio (min to max)",
            "its first token, ms",
            "its prompt, tokens",
        ];
        let rows = self.sides.named().map(|(name, side)| side.cells(name));
        table(out, &head, &rows)
    }
}

impl Side {
    fn new(seen: &[Seen]) -> Self {
        let spread = |figure: fn(&Seen) -> f64| Spread::of(seen.iter().map(figure));
        Self {
            gap_before_p50_ms: spread(|seen| seen.gap_before_p50_ms),
            gap_during_p99_ms: spread(|seen| seen.gap_during_p99_ms),
            stall: spread(|seen| seen.stall),
            first_text_ms: spread(|seen| seen.first_text_ms),
            prompt_tokens: spread(|seen| seen.prompt_tokens as f64),
        }
    }

    fn cells(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("{:.0}", self.gap_before_p50_ms.median),
            format!("{:.0}", self.gap_during_p99_ms.median),
            self.stall.cell(2),
            self.first_text_ms.cell(0),
            format!("{:.0}", self.prompt_tokens.median),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::gaps;

    #[test]
    fn a_gap_that_reaches_into_the_window_counts_whole() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let texts = [vec![at(0), at(10), at(60), at(75)], vec![at(5), at(100)]];
        let (arrival, first) = (at(20), at(50));
        let seen = gaps(&texts, |start, end| end > arrival && start < first);
        assert_eq!(seen, [50.0, 95.0]);
    }
}
