//! The figures of a run: as a table, and as JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Write, stdout},
    path::Path,
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    driver::{Sample, histogram},
    engine::Pair,
    machine::Machine,
};

const SHOWN_FAILURES: usize = 5;

#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    weights: String,
    tokens_per_answer: u32,
    rounds: u64,
    /// False where the time was up before the last round.
    whole: bool,
    rows: Vec<Row>,
    peer_failures: Vec<String>,
    forebay_failures: Vec<String>,
}

/// All rounds at one concurrency.
#[derive(Serialize)]
struct Row {
    concurrency: usize,
    peer: Side,
    forebay: Side,
    ratio: Ratio,
    pairs: Vec<PairFigures>,
}

#[derive(Serialize)]
struct Side {
    tokens_per_second_median: f64,
    first_text_p50_ms: f64,
    first_text_p95_ms: f64,
    gap_p99_ms: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
}

/// Forebay's tokens per second over the peer's, pair by pair.
#[derive(Serialize)]
struct Ratio {
    median: f64,
    min: f64,
    max: f64,
}

#[derive(Serialize)]
struct PairFigures {
    round: u64,
    peer_tokens_per_second: f64,
    forebay_tokens_per_second: f64,
}

impl Report {
    pub(crate) fn new(
        machine: Machine,
        weights: &Path,
        tokens: u32,
        rounds: u64,
        whole: bool,
        pairs: &[Pair],
    ) -> Result<Self> {
        let concurrencies: BTreeSet<_> = pairs.iter().map(|pair| pair.concurrency).collect();
        let rows = concurrencies
            .into_iter()
            .map(|c| Row::new(c, pairs))
            .collect::<Result<_>>()?;
        let failures = |side: fn(&Pair) -> &Sample| {
            pairs
                .iter()
                .flat_map(|pair| side(pair).failures.clone())
                .collect()
        };
        Ok(Self {
            machine,
            weights: weights
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            tokens_per_answer: tokens,
            rounds,
            whole,
            rows,
            peer_failures: failures(|pair| &pair.peer),
            forebay_failures: failures(|pair| &pair.forebay),
        })
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.whole && self.peer_failures.is_empty() && self.forebay_failures.is_empty()
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        fs::write(file, json).with_context(|| format!("can't write {}", file.display()))
    }

    pub(crate) fn print(&self) -> Result<()> {
        let mut out = stdout().lock();
        writeln!(
            out,
            "Forebay's engine against llama.cpp's server on the same weights ({})",
            self.weights
        )?;
        writeln!(
            out,
            "{} tokens an answer, {} rounds, streamed, prompts of 10 to 300 words",
            self.tokens_per_answer, self.rounds
        )?;
        writeln!(out, "machine: {}\n", self.machine)?;
        self.print_table(&mut out)?;
        self.print_failures(&mut out, "peer", &self.peer_failures)?;
        self.print_failures(&mut out, "forebay", &self.forebay_failures)?;
        if !self.whole {
            writeln!(out, "STOPPED EARLY: the time was up before the last round")?;
        }
        Ok(())
    }

    fn print_table(&self, out: &mut impl Write) -> Result<()> {
        writeln!(
            out,
            "        tokens/s, median    forebay / peer         first text, ms (p50 / p95)     gap p99, ms       cached"
        )?;
        writeln!(
            out,
            "at once   peer  forebay  median   min   max           peer        forebay     peer  forebay  peer  forebay"
        )?;
        for Row {
            concurrency,
            peer,
            forebay,
            ratio,
            ..
        } in &self.rows
        {
            writeln!(
                out,
                "{concurrency:>7} {:>6.1} {:>8.1}  {:>6.2} {:>5.2} {:>5.2}  {:>13} {:>14}  {:>7.0} {:>8.0}  {:>3.0}% {:>7.0}%",
                peer.tokens_per_second_median,
                forebay.tokens_per_second_median,
                ratio.median,
                ratio.min,
                ratio.max,
                peer.first_text(),
                forebay.first_text(),
                peer.gap_p99_ms,
                forebay.gap_p99_ms,
                peer.cached_percent(),
                forebay.cached_percent(),
            )?;
        }
        writeln!(out)?;
        Ok(())
    }

    fn print_failures(&self, out: &mut impl Write, side: &str, failures: &[String]) -> Result<()> {
        writeln!(out, "{side}: {} wrong or failed answers", failures.len())?;
        let mut counts = BTreeMap::<_, u64>::new();
        for failure in failures {
            *counts.entry(failure).or_default() += 1;
        }
        for (failure, count) in counts.iter().take(SHOWN_FAILURES) {
            writeln!(out, "  {count} x {failure}")?;
        }
        Ok(())
    }
}

impl Row {
    fn new(concurrency: usize, pairs: &[Pair]) -> Result<Self> {
        let pairs: Vec<_> = pairs
            .iter()
            .filter(|pair| pair.concurrency == concurrency)
            .collect();
        let figures = pairs.iter().map(|pair| PairFigures {
            round: pair.round,
            peer_tokens_per_second: pair.peer.tokens_per_second(),
            forebay_tokens_per_second: pair.forebay.tokens_per_second(),
        });
        let figures: Vec<_> = figures.collect();
        // A pair in which the peer gave nothing says nothing about a ratio.
        let ratios = figures
            .iter()
            .filter(|pair| pair.peer_tokens_per_second > 0.0);
        let ratios =
            ratios.map(|pair| pair.forebay_tokens_per_second / pair.peer_tokens_per_second);
        Ok(Self {
            concurrency,
            peer: Side::new(pairs.iter().map(|pair| &pair.peer))?,
            forebay: Side::new(pairs.iter().map(|pair| &pair.forebay))?,
            ratio: Ratio::new(ratios.collect()),
            pairs: figures,
        })
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
        rates.sort_by(f64::total_cmp);
        let first_text_ms = |quantile| first_text_us.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Self {
            tokens_per_second_median: median(&rates),
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

    fn cached_percent(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens.max(1) as f64 * 100.0
    }
}

impl Ratio {
    fn new(mut ratios: Vec<f64>) -> Self {
        ratios.sort_by(f64::total_cmp);
        let end = |ratio: Option<&f64>| ratio.copied().unwrap_or_default();
        Self {
            median: median(&ratios),
            min: end(ratios.first()),
            max: end(ratios.last()),
        }
    }
}

/// Of sorted values; 0 where there are none.
fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::{Ratio, median};

    #[test]
    fn a_median_lies_between_the_middle_two() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn a_ratio_knows_its_ends() {
        let ratio = Ratio::new(vec![1.2, 0.9, 1.0]);
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.9, 1.0, 1.2));
    }
}
