//! `loadtest engine`: Forebay's in-process llama engine against llama.cpp's own server.
//!
//! Both stay up while a scenario is measured and take turns: what drifts on the machine reaches both,
//! and a ratio is taken between two neighbours in time. Only one is loaded at any moment.

mod driver;
mod long_prompt;
mod long_stream;
mod prefix;
mod report;
mod servers;
mod streams;
mod throughput;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

pub(crate) use servers::Setup;

use crate::{machine::Machine, peer, process::Scratch, weights};
use report::Report;
use servers::Servers;

/// Threads of the server that just worked spin for a while before they sleep.
const SETTLE: Duration = Duration::from_millis(500);
/// The slots that a server has at least.
const SLOTS: usize = 32;
const CONTEXT_TOKENS: u32 = 2048;
const LONG_CONTEXT_TOKENS: u32 = 8192;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The forebay binary
    #[arg(long, value_name = "PATH")]
    forebay_bin: PathBuf,
    #[command(flatten)]
    weights: weights::Args,
    #[command(flatten)]
    peer: peer::Args,
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Scenario::ALL)]
    scenario: Vec<Scenario>,
    /// throughput: requests at once, one row of the table each
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    concurrency: Vec<usize>,
    /// throughput: the length of each answer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1024))]
    tokens: u32,
    /// long-stream: for how long the short streams are counted, with and without the long one
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    window_s: u64,
    /// long-stream: the words of the long prompt, near to its tokens; fewer show less, in less time
    #[arg(long, default_value_t = 7000, value_parser = clap::value_parser!(u32).range(100..=7000))]
    long_words: u32,
    /// How often everything is measured, on both servers; long-stream half as often, as it takes minutes
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Which prompts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The run ends by then, with what it has
    #[arg(long, value_name = "SECONDS", default_value_t = 1200)]
    timeout_s: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// Tokens per second at several numbers of requests at once
    Throughput,
    /// How long 8 running answers stand still when a prompt of 1,500 tokens arrives
    LongPrompt,
    /// What one sequence of 8,000 tokens costs 31 short ones beside it
    LongStream,
    /// The second request with the same 600 tokens at its beginning
    Prefix,
}

/// The same of both servers.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Pair<T> {
    pub(crate) peer: T,
    pub(crate) forebay: T,
}

/// What each scenario saw so far.
#[derive(Default)]
struct Results {
    throughput: Vec<throughput::Turn>,
    long_prompt: Pair<Vec<long_prompt::Seen>>,
    long_stream: Pair<Vec<long_stream::Seen>>,
    prefix: Pair<Vec<prefix::Seen>>,
    failures: Pair<Vec<String>>,
}

/// True where the run was whole and every answer right.
pub(crate) async fn run(args: Args) -> Result<bool> {
    ensure!(
        args.concurrency.iter().all(|c| (1..=256).contains(c)),
        "--concurrency is 1 to 256"
    );
    let deadline = Instant::now() + Duration::from_secs(args.timeout_s);
    let weights = args.weights.file()?;
    let machine = Machine::look().await;
    let scratch = Scratch::new()?;
    let mut results = Results::default();
    let measured = timeout_at(deadline, measure(&args, &weights, &scratch, &mut results)).await;

    let report = Report::new(machine, &weights, &args, measured.is_ok(), results)?;
    report.print()?;
    if let Some(file) = &args.json {
        report.write(file)?;
    }
    // After the tables: the log of a dead server explains the failures in them.
    measured.unwrap_or(Ok(()))?;
    Ok(report.is_clean())
}

/// Scenarios that want the same of the servers share them.
async fn measure(
    args: &Args,
    weights: &Path,
    scratch: &Scratch,
    results: &mut Results,
) -> Result<()> {
    let mut running: Option<Servers> = None;
    for scenario in Scenario::ALL {
        if !args.scenario.contains(&scenario) {
            continue;
        }
        let setup = scenario.setup(args);
        let mut servers = match running.take() {
            Some(servers) if servers.setup == setup => servers,
            other => {
                if let Some(servers) = other {
                    servers.stop().await?;
                }
                Servers::start(args, setup, weights, scratch).await?
            }
        };
        scenario.measure(args, &servers, results).await?;
        servers.check_alive()?;
        running = Some(servers);
    }
    match running {
        Some(servers) => servers.stop().await,
        None => Ok(()),
    }
}

impl Scenario {
    const ALL: [Self; 4] = [
        Self::Throughput,
        Self::LongPrompt,
        Self::LongStream,
        Self::Prefix,
    ];

    fn setup(self, args: &Args) -> Setup {
        let context_tokens = match self {
            Self::LongStream => LONG_CONTEXT_TOKENS,
            Self::Throughput | Self::LongPrompt | Self::Prefix => CONTEXT_TOKENS,
        };
        Setup {
            slots: args.concurrency.iter().copied().fold(SLOTS, usize::max),
            context_tokens,
            prompt_cache: self == Self::Prefix,
        }
    }

    async fn measure(self, args: &Args, servers: &Servers, results: &mut Results) -> Result<()> {
        let rounds = match self {
            Self::Throughput | Self::LongPrompt | Self::Prefix => args.rounds,
            Self::LongStream => args.rounds.div_ceil(2),
        };
        let template = "{prefix} {bar:30} {pos}/{len} rounds ({elapsed})";
        let bar = ProgressBar::new(rounds)
            .with_style(ProgressStyle::with_template(template)?)
            .with_prefix(self.name());
        bar.tick();
        for round in 0..rounds {
            match self {
                Self::Throughput => throughput::round(args, servers, round, results).await?,
                Self::LongPrompt => long_prompt::round(args, servers, round, results).await,
                Self::LongStream => long_stream::round(args, servers, round, results).await,
                Self::Prefix => prefix::round(args, servers, round, results).await,
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::LongPrompt => "long-prompt",
            Self::LongStream => "long-stream",
            Self::Prefix => "prefix",
        }
    }
}

impl<T> Pair<T> {
    pub(crate) fn as_ref(&self) -> Pair<&T> {
        Pair {
            peer: &self.peer,
            forebay: &self.forebay,
        }
    }

    pub(crate) fn map<U>(self, mut change: impl FnMut(T) -> U) -> Pair<U> {
        Pair {
            peer: change(self.peer),
            forebay: change(self.forebay),
        }
    }

    /// With the names that stand in tables.
    pub(crate) fn named(&self) -> [(&'static str, &T); 2] {
        [("peer", &self.peer), ("Forebay", &self.forebay)]
    }
}

impl<T> Pair<Vec<T>> {
    /// Keeps what was seen; an error is one more failure of its server.
    fn push(&mut self, seen: Pair<Result<T>>, failures: &mut Pair<Vec<String>>) {
        for (seen, list, failures) in [
            (seen.peer, &mut self.peer, &mut failures.peer),
            (seen.forebay, &mut self.forebay, &mut failures.forebay),
        ] {
            match seen {
                Ok(seen) => list.push(seen),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
    }
}
