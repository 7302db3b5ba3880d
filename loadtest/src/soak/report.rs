//! What a soak found: as tables, and as JSON.

use std::{
    collections::BTreeMap,
    fs,
    io::{Write, stdout},
    ops::Range,
    path::Path,
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    Args,
    books::{Bill, Seen, Sums},
    load::Loaded,
    watch::{Reading, unseen},
};
use crate::{
    figures::{Spread, table},
    machine::Machine,
};

/// Until then caches fill and pools reach their size.
const FIRST: Range<f64> = 0.1..0.2;
const LAST: Range<f64> = 0.9..1.1;
/// Of the last tenth over the first after the warm-up.
const GROWTH: f64 = 1.10;
/// A pool of threads breathes by a few.
const MORE_THREADS: f64 = 4.0;
const SHOWN_FAILURES: usize = 10;

#[derive(Serialize)]
pub(super) struct Report {
    machine: Machine,
    requests: u32,
    concurrency: u32,
    seed: u64,
    wall_s: f64,
    requests_per_second: f64,
    resident_mib: Course,
    threads: Course,
    /// Gauges after everything ended.
    left: BTreeMap<&'static str, f64>,
    seen: Seen,
    bill: Bill,
    problems: Vec<String>,
    readings: Vec<Reading>,
}

/// A figure over the whole run, after the warm-up.
#[derive(Serialize)]
struct Course {
    first_tenth: f64,
    last_tenth: f64,
    min: f64,
    max: f64,
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        args: &Args,
        loaded: Loaded,
        left: BTreeMap<&'static str, f64>,
        bill: Bill,
    ) -> Self {
        let Loaded {
            wall,
            seen,
            readings,
        } = loaded;
        let resident_mib = Course::of(&readings, |reading| reading.resident_kib as f64 / 1024.0);
        let threads = Course::of(&readings, |reading| reading.threads as f64);
        let mut problems = bill.problems(&seen);
        if resident_mib.last_tenth > GROWTH * resident_mib.first_tenth {
            problems.push("memory grew by more than 10%".to_owned());
        }
        if threads.last_tenth > GROWTH * threads.first_tenth + MORE_THREADS {
            problems.push("threads grew by more than 10%".to_owned());
        }
        for (name, value) in left.iter().filter(|(_, value)| **value != 0.0) {
            problems.push(format!("{name} is {value} after everything ended"));
        }
        let failures: u64 = seen.failures.values().sum();
        if failures > 0 {
            problems.push(format!("{failures} requests failed"));
        }
        Self {
            machine,
            requests: args.requests,
            concurrency: args.concurrency,
            seed: args.seed,
            wall_s: wall.as_secs_f64(),
            requests_per_second: f64::from(args.requests) / wall.as_secs_f64(),
            resident_mib,
            threads,
            left,
            seen,
            bill,
            problems,
            readings,
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        fs::write(file, json).with_context(|| format!("can't write {}", file.display()))
    }

    pub(super) fn print(&self) -> Result<()> {
        let mut out = stdout().lock();
        writeln!(
            out,
            "Soak: {} requests, {} at once, seed {}: {:.0} s, {:.1} requests/s, {:.1} tokens/s booked",
            self.requests,
            self.concurrency,
            self.seed,
            self.wall_s,
            self.requests_per_second,
            (self.bill.whole.completion_tokens + self.bill.leaving.completion_tokens) as f64
                / self.wall_s,
        )?;
        writeln!(out, "machine: {}\n", self.machine)?;
        let head = ["", "first tenth after warm-up", "last tenth", "min", "max"];
        let rows = [
            self.resident_mib.cells("resident memory, MiB"),
            self.threads.cells("threads"),
        ];
        table(&mut out, &head, &rows)?;
        self.print_books(&mut out)?;
        let left = self
            .left
            .iter()
            .map(|(name, value)| format!("{name} {value}"));
        writeln!(out, "left: {}", left.collect::<Vec<_>>().join(", "))?;
        for name in unseen(&self.left) {
            writeln!(out, "not checked: the server has no {name}")?;
        }
        for (failure, count) in self.seen.failures.iter().take(SHOWN_FAILURES) {
            writeln!(out, "failed: {count} x {failure}")?;
        }
        for problem in &self.problems {
            writeln!(out, "PROBLEM: {problem}")?;
        }
        if self.is_clean() {
            writeln!(out, "nothing lost, nothing left")?;
        }
        Ok(())
    }

    fn print_books(&self, out: &mut impl Write) -> Result<()> {
        let cells = |name: &str, sums: &Sums| {
            let numbers = [sums.requests, sums.prompt_tokens, sums.completion_tokens];
            let numbers = numbers.iter().map(u64::to_string);
            std::iter::once(name.to_owned()).chain(numbers).collect()
        };
        let leaving = &self.seen.leaving;
        let left = vec![
            format!("{} that left, as they saw it", leaving.requests),
            format!("{} cut off", leaving.left),
            String::new(),
            format!(
                "{} to {}",
                leaving.answered.completion_tokens + leaving.pieces,
                leaving.max_tokens
            ),
        ];
        let rows = [
            cells("whole answers, as their clients saw them", &self.seen.whole),
            cells("in the ledger", &self.bill.whole),
            left,
            cells("in the ledger", &self.bill.leaving),
        ];
        let head = ["", "requests", "prompt tokens", "completion tokens"];
        table(out, &head, &rows)
    }
}

impl Course {
    fn of(readings: &[Reading], figure: impl Fn(&Reading) -> f64) -> Self {
        let within = |range: Range<f64>| {
            let readings = readings.iter().filter(move |r| range.contains(&r.at));
            Spread::of(readings.map(&figure))
        };
        let all = within(FIRST.start..LAST.end);
        Self {
            first_tenth: within(FIRST).median,
            last_tenth: within(LAST).median,
            min: all.min,
            max: all.max,
        }
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let figures = [self.first_tenth, self.last_tenth, self.min, self.max];
        let figures = figures.iter().map(|figure| format!("{figure:.0}"));
        std::iter::once(name.to_owned()).chain(figures).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Course, Reading};

    #[test]
    fn the_warm_up_counts_for_nothing() {
        let readings: Vec<_> = (1..=100_u32)
            .map(|percent| Reading {
                at: f64::from(percent) / 100.0,
                resident_kib: if percent < 10 { 9999 } else { percent.into() },
                threads: 7,
            })
            .collect();
        let course = Course::of(&readings, |reading| reading.resident_kib as f64);
        assert_eq!((course.min, course.max), (10.0, 100.0));
        assert_eq!((course.first_tenth, course.last_tenth), (14.5, 95.0));
    }
}
