//! Tokens per second at several numbers of requests at once, with joins and leaves throughout.

use std::{collections::BTreeSet, io::Write};

use anyhow::Result;
use serde::Serialize;

use super::{
    Args, Pair, Results,
    driver::{self, Sample},
    servers::Servers,
};
use crate::{
    figures::{Spread, histogram, table},
    prompt,
};

/// Two neighbouring measurements with the same prompts.
pub(super) struct Turn {
    round: u64,
    concurrency: usize,
    samples: Pair<Sample>,
}

pub(super) async fn round(
    args: &Args,
    servers: &Servers,
    round: u64,
    results: &mut Results,
) -> Result<()> {
    for &concurrency in &args.concurrency {
        let stream = concurrency as u64;
        let prompts = prompt::mixed(args.seed, round, stream, request_count(concurrency));
        let load = async |target: &_| driver::run(target, &prompts, concurrency, args.tokens).await;
        let Pair { peer, forebay } = servers.in_turn(round, load).await;
        let (mut peer, mut forebay) = (peer?, forebay?);
        results.failures.peer.append(&mut peer.failures);
        results.failures.forebay.append(&mut forebay.failures);
        results.throughput.push(Turn {
            round,
            concurrency,
            samples: Pair { peer, forebay },
        });
    }
    Ok(())
}

/// Enough that requests join and leave while others run.
fn request_count(concurrency: usize) -> usize {
    if concurrency == 1 {
        4
    } else {
        (2 * concurrency).max(8)
    }
}

#[derive(Serialize)]
pub(super) struct Figures {
    tokens_per_answer: u32,
    rows: Vec<Row>,
}

/// All rounds at one concurrency.
#[derive(Serialize)]
struct Row {
    concurrency: usize,
    sides: Pair<Side>,
    /// Forebay's tokens per second over the peer's, round by round.
    ratio: Spread,
    rounds: Vec<RoundFigures>,
}

#[derive(Serialize)]
struct Side {
    tokens_per_second: Spread,
    first_text_p50_ms: f64,
    first_text_p95_ms: f64,
    gap_p99_ms: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
}

#[derive(Serialize)]
struct RoundFigures {
    round: u64,
    tokens_per_second: Pair<f64>,
}

impl Figures {
    pub(super) fn new(tokens_per_answer: u32, turns: &[Turn]) -> Result<Self> {
        let concurrencies: BTreeSet<_> = turns.iter().map(|turn| turn.concurrency).collect();
        let rows = concurrencies.into_iter().map(|c| Row::new(c, turns));
        Ok(Self {
            tokens_per_answer,
            rows: rows.collect::<Result<_>>()?,
        })
    }

    pub(super) fn print(&self, out: &mut impl Write) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "Throughput: {} tokens an answer, prompts of 10 to 300 words, streamed\n",
            self.tokens_per_answer
        )?;
        let head = [
            "at once",
            "peer, tok/s",
            "Forebay, tok/s",
            "ratio (min to max)",
            "first text p50 / p95, peer, ms",
            "Forebay, ms",
            "gap p99, peer, ms",
            "Forebay, ms",
            "cached, peer",
            "Forebay",
        ];
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        table(out, &head, &rows)
    }
}

impl Row {
    fn new(concurrency: usize, turns: &[Turn]) -> Result<Self> {
        let turns: Vec<_> = turns
            .iter()
            .filter(|turn| turn.concurrency == concurrency)
            .collect();
        let rounds = turns.iter().map(|turn| RoundFigures {
            round: turn.round,
            tokens_per_second: turn.samples.as_ref().map(Sample::tokens_per_second),
        });
        let rounds: Vec<_> = rounds.collect();
        // A round in which the peer gave nothing says nothing about a ratio.
        let rates = rounds.iter().map(|round| &round.tokens_per_second);
        let ratios = rates
            .filter(|rate| rate.peer > 0.0)
            .map(|rate| rate.forebay / rate.peer);
        Ok(Self {
            concurrency,
            sides: Pair {
                peer: Side::new(turns.iter().map(|turn| &turn.samples.peer))?,
                forebay: Side::new(turns.iter().map(|turn| &turn.samples.forebay))?,
            },
            ratio: Spread::of(ratios),
            rounds,
        })
    }

    fn cells(&self) -> Vec<String> {
        let Pair { peer, forebay } = &self.sides;
        vec![
            self.concurrency.to_string(),
            format!("{:.1}", peer.tokens_per_second.median),
            format!("{:.1}", forebay.tokens_per_second.median),
            self.ratio.cell(2),
            peer.first_text(),
            forebay.first_text(),
            format!("{:.0}", peer.gap_p99_ms),
            format!("{:.0}", forebay.gap_p99_ms),
            peer.cached(),
            forebay.cached(),
        ]
    }
}

impl Side {
    fn new<'a>(samples: impl Iterator<Item = &'a Sample>) -> Result<Self> {
        let (mut first_text_us, mut gap_us) = (histogram()?, histogram()?);
        let (mut rates, mut prompt_tokens, mut cached_tokens) = (Vec::new(), 0, 0);
        for sample in samples {
            first_text_us.add(&sample.first_text_us)?;
            gap_us.add(&sample.gap_us)?;
            rates.push(sample.tokens_per_second());
            prompt_tokens += sample.prompt_tokens;
            cached_tokens += sample.cached_tokens;
        }
        let first_text_ms = |quantile| first_text_us.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Self {
            tokens_per_second: Spread::of(rates),
            first_text_p50_ms: first_text_ms(0.50),
            first_text_p95_ms: first_text_ms(0.95),
            gap_p99_ms: gap_us.value_at_quantile(0.99) as f64 / 1e3,
            prompt_tokens,
            cached_tokens,
        })
    }

    fn first_text(&self) -> String {
        format!(
            "{:.0} / {:.0}",
            self.first_text_p50_ms, self.first_text_p95_ms
        )
    }

    fn cached(&self) -> String {
        let share = self.cached_tokens as f64 / self.prompt_tokens.max(1) as f64;
        format!("{:.0}%", share * 100.0)
    }
}
