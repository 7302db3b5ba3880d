//! `loadtest upstream`: the scripted server by itself.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use loadtest::upstream::{Pace, Script, Upstream};

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// The port on 127.0.0.1
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// Tokens of an answer
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Milliseconds between two of them
    #[arg(long, default_value_t = 0)]
    gap_ms: u64,
    /// Milliseconds until the first
    #[arg(long, default_value_t = 0)]
    first_ms: u64,
    /// Batch as a model server does: so many requests at once
    #[arg(long)]
    slots: Option<usize>,
    /// With --slots: tokens of prompts that are read in a second
    #[arg(long, default_value_t = 2000.0)]
    prefill_per_s: f64,
    /// With --slots: tokens of one answer in a second
    #[arg(long, default_value_t = 50.0)]
    decode_per_s: f64,
}

/// Serves until it is ended.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<bool> {
    let pace = match args.slots {
        Some(slots) => Pace::Batching {
            slots,
            prefill_per_s: args.prefill_per_s,
            decode_per_s: args.decode_per_s,
        },
        None if args.gap_ms + args.first_ms == 0 => Pace::Instant,
        None => Pace::Steady {
            first: Duration::from_millis(args.first_ms),
            gap: Duration::from_millis(args.gap_ms),
        },
    };
    let at: SocketAddr = ([127, 0, 0, 1], args.port).into();
    let upstream = Upstream::start_at(Script::words(args.tokens).at(pace), at, false).await?;
    writeln!(std::io::stdout(), "listening on {}", upstream.url())?;
    std::future::pending::<()>().await;
    Ok(true)
}
