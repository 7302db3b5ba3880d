//! `loadtest soak`: thousands of random requests against one server, many of them cancelled.
//!
//! What a server must not do under that: grow, leave something behind, answer wrongly, or book what no
//! client saw.

mod books;
mod load;
mod plan;
mod report;
mod watch;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use tokio::time::timeout;

use crate::{
    forebay::{Server, Settings},
    machine::Machine,
    process::Scratch,
    target::Target,
    weights,
};
use books::Bill;
use report::Report;

const SLOTS: usize = 32;
/// The longest prompt with the longest answer fits: little memory that never changes, so that growth shows.
const CONTEXT_TOKENS: u32 = 1024;
/// Full after some dozens of requests: it has to evict throughout.
const PREFIX_CACHE_MIB: u32 = 64;
/// What ended is booked and given back by then.
const REST: Duration = Duration::from_secs(15);
/// No request of the test uses it: its project's bill would tell.
const BOOTSTRAP_KEY: &str = "fb-local";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The forebay binary
    #[arg(long, value_name = "PATH")]
    forebay_bin: PathBuf,
    #[command(flatten)]
    weights: weights::Args,
    /// How many requests in all
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    requests: u32,
    /// How many of them at once: more than the server's 32 slots, so that some always wait
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=512))]
    concurrency: u32,
    /// Which requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A run that takes longer fails
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout_s: u64,
}

/// The same model for two projects. What is asked with the one's key is read to its end, so that its
/// bill can be compared to the token; what is asked with the other's may be cut off anywhere.
struct Targets {
    whole: Target,
    cut: Target,
}

/// True where nothing was found.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let weights = args.weights.file()?;
    let machine = Machine::look().await;
    let scratch = Scratch::new()?;
    let settings = Settings {
        model: &args.weights.model,
        weights: &weights,
        slots: SLOTS,
        context_tokens: CONTEXT_TOKENS,
        prefix_cache_mib: PREFIX_CACHE_MIB,
        key: BOOTSTRAP_KEY,
    };
    let limit = Duration::from_secs(args.timeout_s);
    let mut server = Server::start(&args.forebay_bin, &settings, &scratch).await?;
    let targets = Targets {
        whole: target(&server, &args, "soak-whole").await?,
        cut: target(&server, &args, "soak-cut").await?,
    };
    let process = server.process.id();
    ensure!(process.is_some(), "the server is gone");
    let loaded = timeout(limit, load::run(&args, &targets, process.unwrap_or(0))).await;
    server.process.check_alive()?;
    let loaded = loaded??;
    let left = watch::left(&server.metrics, REST).await?;
    let bill = Bill::ask(&server).await?;
    let report = Report::new(machine, &args, loaded, left, bill);
    report.print()?;
    if let Some(file) = &args.json {
        report.write(file)?;
    }
    server.process.stop().await?;
    Ok(report.is_clean())
}

/// With a key of a project of its own.
async fn target(server: &Server, args: &Args, project: &str) -> Result<Target> {
    server.cli(&["project", "create", project]).await?;
    let key = server.cli(&["key", "create", "--project", project]).await?;
    Ok(Target {
        url: server.url.clone(),
        key: Some(key.trim().to_owned()),
        model: args.weights.model.clone(),
        extra: serde_json::Map::new(),
    })
}
