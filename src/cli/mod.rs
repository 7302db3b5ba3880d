//! The command line.

pub mod model;

mod asker;
mod cells;
mod eval;
mod invoice;
mod key;
mod limits;
mod open_files;
mod project;
mod rollout;
mod route;
mod threads;
mod time;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::app;
use crate::config::{Config, ConfigError, EngineKind};
use crate::store;
use crate::telemetry::init_logs;
use crate::types::Store;
use crate::worker;

/// A config that can't be served (EX_USAGE of sysexits.h).
const BAD_CONFIG: u8 = 64;
const CONFIGS: [&str; 2] = ["forebay.toml", "config/quickstart.toml"];

#[derive(Parser)]
#[command(
    name = "forebay",
    version,
    about = "An OpenAI-compatible gateway for private model serving"
)]
struct Arguments {
    /// The config file [default: forebay.toml, else config/quickstart.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM
    Serve,
    /// Say whether the config can be served
    Check,
    /// Be the process of an isolated worker; `serve` starts it
    #[command(hide = true)]
    Worker,
    /// Projects: the tenants
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// API keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// What was used, and what it costs
    Usage(usage::UsageArguments),
    /// Invoices: close a month, and print what it came to
    #[command(subcommand)]
    Invoice(invoice::InvoiceCommand),
    /// How good models are
    #[command(subcommand)]
    Eval(eval::EvalCommand),
    /// Weights, and which revisions of models serve
    Model {
        /// A catalogue in the place of the built-in one
        #[arg(long, value_name = "FILE")]
        catalogue: Option<PathBuf>,
        #[command(subcommand)]
        command: ModelCommand,
    },
}

#[derive(Subcommand)]
enum ModelCommand {
    #[command(flatten)]
    Weights(model::ModelCommand),
    #[command(flatten)]
    Rollout(rollout::RolloutCommand),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let logs = init_logs();
    let done = run(arguments);
    // What it has to say stands before the error.
    drop(logs);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay: {error:#}");
            let bad_config = error.downcast_ref::<ConfigError>().is_some();
            if bad_config {
                BAD_CONFIG.into()
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let path = arguments.config.as_deref();
    match arguments.command {
        Command::Serve => {
            threads::sleep_soon();
            open_files::allow_many();
            let config = checked(path)?;
            block_on(app::serve(config, config_path(path)))
        }
        Command::Check => {
            app::models::Site::read(&checked(path)?)?;
            eprintln!("forebay: the config is good");
            Ok(())
        }
        Command::Worker => block_on(async { Ok(worker::run_child().await?) }),
        Command::Project(command) => {
            with_store(path, async |store| project::run(command, store).await)
        }
        Command::Key(command) => with_store(path, async |store| key::run(command, store).await),
        Command::Usage(arguments) => {
            with_store(path, async |store| usage::run(&arguments, store).await)
        }
        Command::Invoice(command) => {
            with_store(path, async |store| invoice::run(command, store).await)
        }
        Command::Eval(command) => {
            let config = config(path)?;
            with_store(path, async |store| {
                eval::run(&command, &config, store).await
            })
        }
        Command::Model { catalogue, command } => match command {
            ModelCommand::Weights(command) => model::run(command, catalogue.as_deref()),
            ModelCommand::Rollout(command) => {
                let config = config(path)?;
                with_store(path, async |store| {
                    rollout::run(&command, &config, store).await
                })
            }
        },
    }
}

fn config(path: Option<&Path>) -> Result<Config, ConfigError> {
    Config::load(config_path(path))
}

fn config_path(path: Option<&Path>) -> &Path {
    path.unwrap_or_else(|| {
        CONFIGS
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .unwrap_or(Path::new(CONFIGS[0]))
    })
}

/// A config whose models are all known; whether their weights are here is seen when they are loaded.
fn checked(path: Option<&Path>) -> Result<Config, ConfigError> {
    let config = config(path)?;
    for worker in config
        .workers
        .iter()
        .filter(|worker| worker.weights.is_none() && worker.engine != EngineKind::Remote)
    {
        model::check_known(&worker.model).map_err(|error| {
            ConfigError::Invalid(format!(
                "[[worker]] {}: {error:#}, or set `weights`",
                worker.name
            ))
        })?;
    }
    Ok(config)
}

/// Opens the configured store, which is made and migrated where it isn't there.
fn with_store(path: Option<&Path>, run: impl AsyncFnOnce(&dyn Store) -> Result<()>) -> Result<()> {
    let config = config(path)?;
    block_on(async {
        let store = store::open(&config.store.url).await?;
        let done = run(&*store).await;
        store.close().await;
        done
    })
}

fn block_on(future: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(future)
}
