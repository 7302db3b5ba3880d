//! What the server holds: memory and threads while it works, and what is left after it.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{client::Client, target::LoopbackUrl};

const READINGS: u32 = 200;
const POLL: Duration = Duration::from_millis(250);
/// Gauges of what runs, waits or is unbooked, each with the names that versions have given it.
const NEEDED: [&[&str]; 4] = [
    &["forebay_sequences_running", "forebay_worker_running"],
    &["forebay_sequences_waiting", "forebay_worker_waiting"],
    &["forebay_ledger_open"],
    &["forebay_slots_busy"],
];
/// The same, where the server has them.
const OPTIONAL: [&[&str]; 3] = [
    &["forebay_kv_cells", "forebay_worker_kv_cells"],
    &["forebay_queue_depth"],
    &["forebay_ledger_pending"],
];

/// Looks at a process, and at those that it started, at even steps of the requests' number.
pub(super) struct Watch {
    process: u32,
    requests: u32,
    ended: u32,
    pub(super) readings: Vec<Reading>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Reading {
    /// The share of all requests that had ended.
    pub(super) at: f64,
    pub(super) resident_kib: u64,
    pub(super) threads: u64,
}

impl Watch {
    pub(super) fn new(process: u32, requests: u32) -> Self {
        Self {
            process,
            requests,
            ended: 0,
            readings: Vec::new(),
        }
    }

    /// A request ended.
    pub(super) fn one_more(&mut self) -> Result<()> {
        let step = |ended: u32| u64::from(ended) * u64::from(READINGS) / u64::from(self.requests);
        let due = step(self.ended + 1) > step(self.ended);
        self.ended += 1;
        if due {
            let (resident_kib, threads) = look(self.process)?;
            self.readings.push(Reading {
                at: f64::from(self.ended) / f64::from(self.requests),
                resident_kib,
                threads,
            });
        }
        Ok(())
    }
}

/// KiB of resident memory and threads, of a process and all that it started.
fn look(process: u32) -> Result<(u64, u64)> {
    let folder = Path::new("/proc").join(process.to_string());
    let status = fs::read_to_string(folder.join("status")).context("the server is gone")?;
    let mut sums = resident(&status).context("no VmRSS and Threads in the server's status")?;
    for thread in fs::read_dir(folder.join("task"))? {
        // A thread may end while it is looked at, and a child too; not every kernel tells of children.
        let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|id| id.parse().ok()) {
            let (resident_kib, threads) = look(child).unwrap_or_default();
            sums = (sums.0 + resident_kib, sums.1 + threads);
        }
    }
    Ok(sums)
}

fn resident(status: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((field("VmRSS:")?, field("Threads:")?))
}

/// The gauges that should stand at zero once everything ended, as they stand after `patience` at the latest.
pub(super) async fn left(
    metrics: &LoopbackUrl,
    patience: Duration,
) -> Result<BTreeMap<&'static str, f64>> {
    let client = Client::new();
    let deadline = Instant::now() + patience;
    loop {
        let gauges = gauges(&client.text(metrics, "/metrics").await?)?;
        if gauges.values().all(|value| *value == 0.0) || Instant::now() > deadline {
            return Ok(gauges);
        }
        sleep(POLL).await;
    }
}

fn gauges(text: &str) -> Result<BTreeMap<&'static str, f64>> {
    let find = |names: &[&'static str]| {
        let mut found = names.iter().map(|name| (*name, sum(text, name)));
        found.find_map(|(name, value)| Some((name, value?)))
    };
    for names in NEEDED {
        if find(names).is_none() {
            bail!("no metric {}", names.join(" or "));
        }
    }
    Ok(NEEDED
        .into_iter()
        .chain(OPTIONAL)
        .filter_map(find)
        .collect())
}

/// The gauges that a server doesn't have, and which therefore nobody looked at.
pub(super) fn unseen(left: &BTreeMap<&'static str, f64>) -> Vec<&'static str> {
    let absent = OPTIONAL
        .iter()
        .filter(|names| !names.iter().any(|name| left.contains_key(name)));
    absent.map(|names| names[0]).collect()
}

/// Of a metric over all its labels; None where it isn't there.
fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::{Watch, gauges, look, sum, unseen};

    const METRICS: &str = "# HELP forebay_slots_busy Slots.\n\
        forebay_slots_busy{pool=\"a\"} 2\nforebay_slots_busy{pool=\"b } c\"} 1\n\
        forebay_slots_busy_seconds 9\nforebay_ledger_open 4\n\
        forebay_sequences_running{worker=\"w\"} 0\nforebay_sequences_waiting{worker=\"w\"} 0\n";

    #[test]
    fn a_metric_is_summed_over_its_labels_alone() {
        assert_eq!(sum(METRICS, "forebay_slots_busy"), Some(3.0));
        assert_eq!(sum(METRICS, "forebay_ledger_open"), Some(4.0));
        assert_eq!(sum(METRICS, "forebay_ledger"), None);
    }

    #[test]
    fn a_gauge_that_is_missing_is_an_error() {
        let left = gauges(METRICS).unwrap();
        assert_eq!(left.len(), 4);
        assert_eq!(unseen(&left).len(), 3);
        assert!(gauges(&METRICS.replace("ledger_open", "x")).is_err());
    }

    #[test]
    fn a_process_has_memory_and_threads() {
        let (resident_kib, threads) = look(std::process::id()).unwrap();
        assert!(resident_kib > 0 && threads > 0);
    }

    #[test]
    fn looks_are_even() {
        let mut watch = Watch::new(std::process::id(), 1000);
        for _ in 0..1000 {
            watch.one_more().unwrap();
        }
        assert_eq!(watch.readings.len(), 200);
        assert_eq!(watch.readings.last().unwrap().at, 1.0);
    }
}
