//! The figures of a run: as tables, and as JSON.

use std::{
    collections::BTreeMap,
    fs,
    io::{Write, stdout},
    path::Path,
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Args, Pair, Results, long_prompt, long_stream, prefix, throughput};
use crate::machine::Machine;

const SHOWN_FAILURES: usize = 5;

#[derive(Serialize)]
pub(super) struct Report {
    machine: Machine,
    weights: String,
    rounds: u64,
    /// False where the time was up before the last round.
    whole: bool,
    throughput: throughput::Figures,
    long_prompt: long_prompt::Figures,
    long_stream: long_stream::Figures,
    prefix: prefix::Figures,
    failures: Pair<Vec<String>>,
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        weights: &Path,
        args: &Args,
        whole: bool,
        results: Results,
    ) -> Result<Self> {
        let weights = weights.file_name().unwrap_or_default();
        Ok(Self {
            machine,
            weights: weights.to_string_lossy().into_owned(),
            rounds: args.rounds,
            whole,
            throughput: throughput::Figures::new(args.tokens, &results.throughput)?,
            long_prompt: long_prompt::Figures::new(results.long_prompt),
            long_stream: long_stream::Figures::new(args.long_words, results.long_stream),
            prefix: prefix::Figures::new(results.prefix),
            failures: results.failures,
        })
    }

    pub(super) fn is_clean(&self) -> bool {
        self.whole && self.failures.peer.is_empty() && self.failures.forebay.is_empty()
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        fs::write(file, json).with_context(|| format!("can't write {}", file.display()))
    }

    pub(super) fn print(&self) -> Result<()> {
        let mut out = stdout().lock();
        writeln!(
            out,
            "Forebay's engine against llama.cpp's server on the same weights ({}), {} rounds, medians",
            self.weights, self.rounds
        )?;
        writeln!(out, "machine: {}\n", self.machine)?;
        self.throughput.print(&mut out)?;
        self.long_prompt.print(&mut out)?;
        self.long_stream.print(&mut out)?;
        self.prefix.print(&mut out)?;
        for (name, failures) in self.failures.named() {
            print_failures(&mut out, name, failures)?;
        }
        if !self.whole {
            writeln!(out, "STOPPED EARLY: the time was up before the last round")?;
        }
        Ok(())
    }
}

fn print_failures(out: &mut impl Write, side: &str, failures: &[String]) -> Result<()> {
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
