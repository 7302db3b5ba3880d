//! Black-box load tests: whatever they measure, they measure over HTTP on the loopback interface.

mod client;
mod engine;
mod fairness;
mod figures;
mod forebay;
mod gateway;
mod machine;
mod peer;
mod process;
mod prompt;
mod proxy;
mod serve;
mod soak;
mod target;
mod weights;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Load tests of a Forebay on this machine")]
struct Cli {
    #[command(subcommand)]
    test: Test,
}

#[derive(Subcommand)]
enum Test {
    /// Forebay's llama engine against llama.cpp's own server, on the same weights
    Engine(engine::Args),
    /// Thousands of random requests, many of them cancelled: nothing may be left, lost or booked wrong
    Soak(soak::Args),
    /// What one tenant's flood does to another, before an upstream that batches as a model server does
    Fairness(fairness::Args),
    /// What Forebay adds to an upstream that takes no time, beside nginx
    Proxy(proxy::Args),
    /// The same at rising rates of requests, with a chart
    Rates(proxy::rates::Args),
    /// That upstream by itself
    Instant {
        /// The port on 127.0.0.1
        #[arg(long, default_value_t = 9000)]
        port: u16,
    },
    /// A scripted server of OpenAI's API, for tests of what stands before it
    Upstream(serve::ServeArgs),
}

/// One thread: the load must leave the cores to the servers, and waiting is nearly all it does.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let Cli { test } = Cli::parse();
    allow_many_files()?;
    let mut terminated = signal(SignalKind::terminate())?;
    // Dropping a test's future ends the servers that it started.
    let clean = tokio::select! {
        clean = run(test) => clean?,
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
        _ = terminated.recv() => return Ok(ExitCode::from(143)),
    };
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every connection is one, here and in the servers that are started.
fn allow_many_files() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

async fn run(test: Test) -> anyhow::Result<bool> {
    match test {
        Test::Engine(args) => engine::run(args).await,
        Test::Soak(args) => soak::run(args).await,
        Test::Fairness(args) => fairness::run(args).await,
        Test::Proxy(args) => proxy::run(args).await,
        Test::Rates(args) => proxy::rates::run(args).await,
        Test::Instant { port } => proxy::serve(port).await.map(|()| true),
        Test::Upstream(args) => serve::run(args).await,
    }
}
