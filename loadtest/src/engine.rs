//! `loadtest engine`: Forebay's in-process llama engine against llama.cpp's own server.
//!
//! Both stay up for the whole run and take turns: what drifts on the machine reaches both, and a
//! ratio is taken between two neighbours in time. Only one is loaded at any moment.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Map;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    driver::{self, Sample},
    forebay,
    machine::Machine,
    peer,
    process::{Process, Scratch},
    prompt,
    report::Report,
    target::Target,
};

/// The slots that the peer has at least, with 2,048 tokens each.
const PEER_SLOTS: usize = 32;
/// Threads of the server that just worked spin for a while before they sleep.
const SETTLE: Duration = Duration::from_millis(500);
const WARM_UP_CONCURRENCY: usize = 4;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    forebay: forebay::Args,
    #[command(flatten)]
    peer: peer::Args,
    /// Requests at once, one row of the table each
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    concurrency: Vec<usize>,
    /// How often each row is measured, on both servers
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// The length of each answer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1024))]
    tokens: u32,
    /// Which prompts: a server that ran before should see others
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The run ends by then, with what it has
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout_s: u64,
}

/// Two neighbouring measurements with the same prompts.
pub(crate) struct Pair {
    pub(crate) round: u64,
    pub(crate) concurrency: usize,
    pub(crate) peer: Sample,
    pub(crate) forebay: Sample,
}

struct Servers {
    peer: Target,
    forebay: Target,
    processes: Vec<Process>,
}

/// True where the run was whole and every answer right.
pub(crate) async fn run(args: Args) -> Result<bool> {
    ensure!(
        args.concurrency.iter().all(|c| (1..=1024).contains(c)),
        "--concurrency is 1 to 1024"
    );
    let deadline = Instant::now() + Duration::from_secs(args.timeout_s);
    let weights = args.peer.model_file()?;
    let machine = Machine::look().await;
    let scratch = Scratch::new()?;
    let servers = timeout_at(deadline, Servers::start(&args, &weights, &scratch));
    let mut servers = servers
        .await
        .context("the servers weren't ready in time")??;
    timeout_at(deadline, servers.warm_up(&args))
        .await
        .context("no time left after the warm-up")??;

    let mut pairs = Vec::new();
    let measured = timeout_at(deadline, measure(&args, &servers, &mut pairs)).await;
    let whole = measured.is_ok();
    measured.unwrap_or(Ok(()))?;

    let report = Report::new(machine, &weights, args.tokens, args.rounds, whole, &pairs)?;
    report.print()?;
    if let Some(file) = &args.json {
        report.write(file)?;
    }
    // After the table: the log of a dead server explains the failures in it.
    servers.check_alive()?;
    servers.stop().await?;
    Ok(report.is_clean())
}

async fn measure(args: &Args, servers: &Servers, pairs: &mut Vec<Pair>) -> Result<()> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed})")?;
    let bar = ProgressBar::new(args.rounds * args.concurrency.len() as u64).with_style(style);
    for round in 0..args.rounds {
        for &concurrency in &args.concurrency {
            bar.set_message(format!(
                "round {} of {}, {concurrency} at once",
                round + 1,
                args.rounds
            ));
            pairs.push(measure_pair(args, servers, round, concurrency).await?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

async fn measure_pair(
    args: &Args,
    servers: &Servers,
    round: u64,
    concurrency: usize,
) -> Result<Pair> {
    let prompts = prompt::mixed(
        args.seed,
        round,
        concurrency as u64,
        request_count(concurrency),
    );
    let load = async |target| {
        sleep(SETTLE).await;
        driver::run(target, &prompts, concurrency, args.tokens).await
    };
    let (peer, forebay);
    if round.is_multiple_of(2) {
        peer = load(&servers.peer).await?;
        forebay = load(&servers.forebay).await?;
    } else {
        forebay = load(&servers.forebay).await?;
        peer = load(&servers.peer).await?;
    }
    Ok(Pair {
        round,
        concurrency,
        peer,
        forebay,
    })
}

/// Enough that requests join and leave while others run.
fn request_count(concurrency: usize) -> usize {
    if concurrency == 1 {
        4
    } else {
        (2 * concurrency).max(8)
    }
}

impl Servers {
    async fn start(args: &Args, weights: &Path, scratch: &Scratch) -> Result<Self> {
        let slots = args
            .concurrency
            .iter()
            .copied()
            .fold(PEER_SLOTS, usize::max);
        let (peer_url, peer_process) = peer::start(&args.peer, weights, slots, scratch).await?;
        let (forebay_url, forebay_process) = forebay::start(&args.forebay, scratch).await?;
        let model = args.forebay.model.clone();
        let extra = Map::from_iter([("cache_prompt".to_owned(), false.into())]);
        let key = Some(args.forebay.forebay_key.clone());
        let processes = [Some(peer_process), forebay_process]
            .into_iter()
            .flatten()
            .collect();
        Ok(Self {
            peer: Target {
                url: peer_url,
                key: None,
                model: model.clone(),
                extra,
            },
            forebay: Target {
                url: forebay_url,
                key,
                model,
                extra: Map::new(),
            },
            processes,
        })
    }

    /// The first batches pay for memory and pages that later ones find. A server that can't answer
    /// at all is found here too, before minutes go by.
    async fn warm_up(&self, args: &Args) -> Result<()> {
        for (name, target) in [("the peer", &self.peer), ("Forebay", &self.forebay)] {
            let prompts = prompt::mixed(!args.seed, 0, 0, 2 * WARM_UP_CONCURRENCY);
            let sample = driver::run(target, &prompts, WARM_UP_CONCURRENCY, args.tokens).await?;
            ensure!(
                sample.answers > 0,
                "{name} answers nothing: {}",
                sample.failures.join("; ")
            );
        }
        Ok(())
    }

    fn check_alive(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check_alive)
    }

    async fn stop(self) -> Result<()> {
        for process in self.processes {
            process.stop().await?;
        }
        Ok(())
    }
}
