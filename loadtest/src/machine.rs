//! The machine that a figure belongs to.

use std::{fmt, fs, time::Duration};

use serde::Serialize;

/// Above this share of work by others, figures are marked: both servers spin on their cores, and
/// a neighbour costs them far more than its share.
const QUIET_BELOW: f64 = 0.05;

#[derive(Clone, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    /// The share of all cores that was busy in the second before the test.
    busy_before: Option<f64>,
}

impl Machine {
    pub(crate) async fn look() -> Self {
        let before = cpu_ticks();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let busy_before = before
            .zip(cpu_ticks())
            .map(|((busy_0, all_0), (busy_1, all_1))| {
                busy_1.saturating_sub(busy_0) as f64 / all_1.saturating_sub(all_0).max(1) as f64
            });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cores,
            cpu: cpu_name(),
            busy_before,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cores, {}", self.cores, self.cpu)?;
        if let Some(busy) = self.busy_before {
            write!(f, ", {:.0}% busy before the test", busy * 100.0)?;
            if busy > QUIET_BELOW {
                write!(f, " (NOT QUIET: don't rely on these figures)")?;
            }
        }
        Ok(())
    }
}

fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(": "));
    name.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.to_owned(),
    )
}

/// Busy and all ticks of all cores since boot, where the system tells them.
fn cpu_ticks() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let ticks = text.lines().next()?.split_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = ticks.map(|t| t.parse().ok()).collect::<Option<_>>()?;
    let (all, idle) = (ticks.iter().sum::<u64>(), ticks.get(3)? + ticks.get(4)?);
    Some((all.saturating_sub(idle), all))
}
