//! `loadtest proxy`: what a gateway adds to an upstream that takes no time, beside nginx, and beside any other gateway
//! that is named. All of them stay up, and take turns.

mod client;
mod instant;
pub(crate) mod rates;
mod servers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

pub(crate) use instant::serve;

use crate::machine::Machine;
use crate::process::Scratch;
use client::{Ask, load, open};
use instant::HELD;
use servers::{Servers, Target, resident};

/// Who is measured.
#[derive(clap::Args)]
pub(crate) struct Gateways {
    /// The forebay binary
    #[arg(long, value_name = "PATH")]
    forebay_bin: PathBuf,
    /// The nginx binary
    #[arg(long, value_name = "PATH")]
    nginx_bin: PathBuf,
    /// The programs of a virtual environment that has tensorzero, smg and vllm-router, to measure beside them
    #[arg(long, value_name = "FOLDER")]
    peers_bin: Option<PathBuf>,
    /// Other gateways that are up already, on loopback: NAME=HOST:PORT,MODEL[,KEY]. They must stand before the upstream
    /// of --upstream-port
    #[arg(long = "peer", value_name = "PEER")]
    peers: Vec<Target>,
    /// The port of the upstream; a free one by default
    #[arg(long)]
    upstream_port: Option<u16>,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    gateways: Gateways,
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each is measured, in milliseconds
    #[arg(long, default_value_t = 2000)]
    time_ms: u64,
    /// Where to write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured.
const KINDS: [(&str, usize, bool); 3] = [
    ("1 connection", 1, false),
    ("16 connections", 16, false),
    ("streams at 16", 16, true),
];

/// Streams that are open while memory is looked at.
const OPEN: usize = 1000;

/// One target's figures for one kind, of one round.
#[derive(Clone, Serialize)]
struct Row {
    target: String,
    kind: &'static str,
    rate: f64,
    p50_us: u64,
    p99_us: u64,
    first_p50_us: u64,
    content_p50_us: u64,
    failed: u64,
}

/// True where no request failed.
pub(crate) async fn run(args: Args) -> Result<bool> {
    ensure!((1..=100).contains(&args.rounds), "--rounds is 1 to 100");
    let machine = Machine::look().await;
    let scratch = Scratch::new()?;
    let mut servers = Servers::start(&args.gateways, &scratch).await?;
    let mut rows = Vec::new();
    let time = Duration::from_millis(args.time_ms);
    for round in 0..=args.rounds {
        for (kind, connections, stream) in KINDS {
            for target in servers.targets.clone() {
                servers.check_alive()?;
                let ask = target.ask(stream);
                // The first round warms up.
                let time = if round == 0 { time / 4 } else { time };
                let times = load(&ask, connections, time).await?;
                if round > 0 {
                    rows.push(Row {
                        target: target.name.clone(),
                        kind,
                        rate: times.rate,
                        p50_us: times.end.value_at_quantile(0.5),
                        p99_us: times.end.value_at_quantile(0.99),
                        first_p50_us: times.first.value_at_quantile(0.5),
                        content_p50_us: times.content.value_at_quantile(0.5),
                        failed: times.failed,
                    });
                }
            }
        }
    }
    print(&machine, &servers, &rows, sync_time_us(&scratch)?)?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows)?)?;
    }
    print_open(&servers, &args.gateways.forebay_bin, &scratch).await?;
    Ok(rows.iter().all(|row| row.failed == 0))
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

fn print(machine: &Machine, servers: &Servers, rows: &[Row], sync_us: u64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{machine}\nmedians of rounds; ratios are to nginx in the same round\n"
    )?;
    for (kind, ..) in KINDS {
        writeln!(
            out,
            "{kind:<16} {:>10} {:>10} {:>10} {:>12} {:>10} {:>10} {:>8}",
            "requests/s", "p50 us", "p99 us", "content us", "rate", "p50", "failed"
        )?;
        for target in &servers.targets {
            let of = |name: &str| {
                rows.iter()
                    .filter(move |row| row.kind == kind && row.target == *name)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let (own, nginx) = (of(&target.name), of("nginx"));
            let mid = |value: fn(&Row) -> f64| {
                median(own.iter().map(value).collect()).unwrap_or(f64::NAN)
            };
            let ratio = |value: fn(&Row) -> f64| {
                median(
                    own.iter()
                        .zip(&nginx)
                        .map(|(own, nginx)| value(own) / value(nginx))
                        .collect(),
                )
                .unwrap_or(f64::NAN)
            };
            #[expect(clippy::cast_precision_loss, reason = "microseconds")]
            writeln!(
                out,
                "  {:<14} {:>10.0} {:>10.0} {:>10.0} {:>12.0} {:>9.2}x {:>9.2}x {:>8}",
                target.name,
                mid(|row| row.rate),
                mid(|row| row.p50_us as f64),
                mid(|row| row.p99_us as f64),
                mid(|row| row.content_p50_us as f64),
                ratio(|row| row.rate),
                ratio(|row| row.p50_us as f64),
                own.iter().map(|row| row.failed).sum::<u64>(),
            )?;
        }
        writeln!(out)?;
    }
    writeln!(out, "a sync of this disk takes {sync_us} us (median of 50)")?;
    for (name, kib) in servers.memory()? {
        writeln!(out, "{name}: {kib} KiB resident")?;
    }
    Ok(())
}

/// How much memory a fresh Forebay has with many streams open.
async fn print_open(servers: &Servers, binary: &Path, scratch: &Scratch) -> Result<()> {
    let (forebay, process) = servers.fresh(binary, scratch).await?;
    let ask = Ask {
        model: HELD.into(),
        ..forebay.ask(true)
    };
    let id = process.id().context("forebay is gone")?;
    let idle = resident(id)?;
    let streams = open(&ask, OPEN).await?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "a fresh forebay: {idle} KiB resident, {} KiB with {} streams open",
        resident(id)?,
        streams.len()
    )?;
    Ok(())
}

/// What the disk takes to sync 4 KiB that were added to a file.
fn sync_time_us(scratch: &Scratch) -> Result<u64> {
    let mut file = std::fs::File::create(scratch.file("sync"))?;
    let mut times = Vec::new();
    for _ in 0..50 {
        file.write_all(&[7; 4096])?;
        let start = std::time::Instant::now();
        file.sync_data()?;
        times.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(median(times).unwrap_or(0))
}
