//! `forebay eval`: how good models are, asked through a running gateway as clients ask it.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::Value;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use crate::config::Config;
use crate::eval::{Item, Report, Run, Suite, Task, Tried};
use crate::router::Router;
use crate::types::{Class, Kind, Money, Usage};

/// How long a request is sent again that a full queue or a limit refused.
const PATIENCE: Duration = Duration::from_secs(600);
/// Where the server doesn't say when to come again.
const PAUSE: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(600);

#[derive(Subcommand)]
pub(super) enum EvalCommand {
    /// Ask models the items of a suite, and say how they did
    Run(RunArguments),
    /// Say which of the models is good enough at the least cost; an error where none is
    Pick {
        /// What the lower end of a model's 95% interval must reach, from 0 to 1
        #[arg(long)]
        bar: f64,
        #[command(flatten)]
        arguments: RunArguments,
    },
}

#[derive(Args)]
pub(super) struct RunArguments {
    /// The suite, a TOML file
    suite: PathBuf,
    /// The models, with commas; each is compared with the first
    #[arg(long, value_delimiter = ',', required = true)]
    models: Vec<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Where to, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The gateway [default: the config's own listener]
    #[arg(long)]
    url: Option<String>,
    /// A project's key [default: the config's bootstrap key]
    #[arg(long, env = "FOREBAY_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Items that are asked at once
    #[arg(long, default_value_t = 8)]
    at_once: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    Html,
}

pub(super) fn run(command: &EvalCommand, config: &Config) -> Result<()> {
    match command {
        EvalCommand::Run(arguments) => {
            let report = report(arguments, config)?;
            write(&report, arguments)
        }
        EvalCommand::Pick { bar, arguments } => {
            ensure!((0.0..=1.0).contains(bar), "--bar must be between 0 and 1");
            // What costs nothing would be picked first of all.
            let router = Router::new(config).map_err(|error| anyhow!(error))?;
            for model in &arguments.models {
                let plan = router.resolve(model, Kind::Generate, Class::Standard);
                plan.with_context(|| {
                    format!("no price for {model:?}: name its config by --config")
                })?;
            }
            let report = report(arguments, config)?;
            write(&report, arguments)?;
            if let Some(model) = report.models.iter().find(|model| model.failed > 0) {
                bail!("{}: {} items have no answer", model.model, model.failed);
            }
            let Some(model) = report.pick(*bar) else {
                bail!("none of the models reaches {bar} with 95% confidence");
            };
            eprintln!(
                "{} is good enough at the least cost: {:.3} ({:.3} to {:.3}) for {}",
                model.model, model.score, model.interval.low, model.interval.high, model.amount
            );
            Ok(())
        }
    }
}

fn report(arguments: &RunArguments, config: &Config) -> Result<Report> {
    let suite = Suite::read(&arguments.suite).map_err(|error| anyhow!(error))?;
    let asker = Asker::new(arguments, config)?;
    asker.check(&arguments.models)?;
    let mut runs = Vec::new();
    for model in &arguments.models {
        runs.push(asker.run(&suite, model, arguments.at_once.max(1))?);
    }
    Ok(Report::new(&suite, Timestamp::now(), runs))
}

fn write(report: &Report, arguments: &RunArguments) -> Result<()> {
    let text = match arguments.format {
        Format::Table => report.table(),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Html => report.page().map_err(|error| anyhow!(error))?,
    };
    match &arguments.out {
        Some(path) => std::fs::write(path, text).with_context(|| path.display().to_string()),
        None => Ok(stdout().lock().write_all(text.as_bytes())?),
    }
}

/// The way to the gateway.
struct Asker {
    agent: Agent,
    url: String,
    key: String,
    /// What models cost.
    router: Router,
}

impl Asker {
    fn new(arguments: &RunArguments, config: &Config) -> Result<Self> {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER))
            .build();
        let own = || {
            let scheme = if config.server.tls.is_some() {
                "https"
            } else {
                "http"
            };
            format!("{scheme}://{}", config.server.listen)
        };
        let url = arguments.url.clone().unwrap_or_else(own);
        let key = arguments
            .key
            .clone()
            .or_else(|| config.tenancy.bootstrap_key.clone());
        Ok(Self {
            agent: agent.into(),
            url: url.trim_end_matches('/').trim_end_matches("/v1").to_owned(),
            key: key.context("no key: give a project's as --key or FOREBAY_API_KEY")?,
            router: Router::new(config).map_err(|error| anyhow!(error))?,
        })
    }

    /// Before anything is asked, which may take long.
    fn check(&self, models: &[String]) -> Result<()> {
        let answer = self
            .agent
            .get(format!("{}/v1/models", self.url))
            .header("authorization", format!("Bearer {}", self.key))
            .call();
        let mut answer = answer.with_context(|| {
            format!(
                "no gateway at {}: `forebay serve` is one, --url names another",
                self.url
            )
        })?;
        let list: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        if let Some(message) = list["error"]["message"].as_str() {
            bail!("{}: {message}", self.url);
        }
        let known: Vec<_> = list["data"].as_array().into_iter().flatten().collect();
        for model in models {
            let is_known = known.iter().any(|known| known["id"] == **model);
            ensure!(
                is_known,
                "this key may not ask a model {model:?} at {}",
                self.url
            );
        }
        Ok(())
    }

    fn run(&self, suite: &Suite, model: &str, at_once: usize) -> Result<Run> {
        let items = suite
            .tasks
            .iter()
            .flat_map(|task| task.items.iter().map(move |item| (task, item)));
        let items: Vec<(&Task, &Item)> = items.collect();
        let bar = progress(model, items.len());
        let next = AtomicUsize::new(0);
        let done = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some((index, (task, item))) = take(&next, &items) {
                        let tried = self.attempt(task, item, model);
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.insert(index, tried);
                        bar.inc(1);
                    }
                });
            }
        });
        bar.finish_and_clear();
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failed = done.values().filter(|tried| tried.error.is_some()).count();
        // A suite of which nothing was answered says nothing of the model.
        if failed == items.len() {
            let first = done.into_values().find_map(|tried| tried.error);
            bail!(
                "{model}: no item was answered: {}",
                first.unwrap_or_default()
            );
        }
        Ok(Run {
            model: model.to_owned(),
            tried: done.into_values().collect(),
        })
    }

    fn attempt(&self, task: &Task, item: &Item, model: &str) -> Tried {
        let began = Instant::now();
        let mut answers = Vec::new();
        let mut usage = (0, 0);
        let mut amount = Money::default();
        let mut error = None;
        for body in task.requests(item, model) {
            match self.ask(&body) {
                Ok(answer) => {
                    let tokens = |name: &str| answer["usage"][name].as_u64().unwrap_or(0);
                    usage.0 += tokens("prompt_tokens");
                    usage.1 += tokens("completion_tokens");
                    amount += self.amount(model, &answer["usage"]);
                    answers.push(answer);
                }
                Err(failed) => {
                    error = Some(format!("{failed:#}"));
                    break;
                }
            }
        }
        let scored = match error {
            Some(error) => Err(error),
            None => task.score(item, &answers),
        };
        let took_ms = began.elapsed().as_secs_f64() * 1000.0;
        let (score, said, error) = match scored {
            Ok(scored) => (scored.score, scored.said, None),
            Err(error) => (0.0, String::new(), Some(error)),
        };
        Tried {
            task: task.name.clone(),
            item: item.id.clone(),
            score,
            said,
            error,
            prompt_tokens: usage.0,
            completion_tokens: usage.1,
            amount,
            took_ms,
        }
    }

    /// By the config's prices; a model that isn't in it costs nothing here.
    fn amount(&self, model: &str, usage: &Value) -> Money {
        let tokens = |value: &Value| {
            let tokens = value.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
            tokens.unwrap_or(0)
        };
        let usage = Usage {
            prompt_tokens: tokens(&usage["prompt_tokens"]),
            cached_tokens: tokens(&usage["prompt_tokens_details"]["cached_tokens"]),
            completion_tokens: tokens(&usage["completion_tokens"]),
            reasoning_tokens: 0,
        };
        let plan = self.router.resolve(model, Kind::Generate, Class::Standard);
        plan.map_or(Money::default(), |plan| plan.price.amount(&usage))
    }

    /// Again and again while there is no room for it.
    fn ask(&self, body: &Value) -> Result<Value> {
        let began = Instant::now();
        loop {
            let mut answer = self
                .agent
                .post(format!("{}/v1/chat/completions", self.url))
                .header("authorization", format!("Bearer {}", self.key))
                .header("content-type", "application/json")
                .send(&body.to_string())?;
            let status = answer.status().as_u16();
            let header = |name| answer.headers().get(name)?.to_str().ok();
            let again = header("x-should-retry") != Some("false");
            let pause = header("retry-after").and_then(|seconds| seconds.parse().ok());
            let pause = pause.map_or(PAUSE, Duration::from_secs);
            let json: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
            match status {
                200 => return Ok(json),
                429 | 503 if again && began.elapsed() + pause < PATIENCE => wait(pause),
                _ => bail!(
                    "{status}: {}",
                    json["error"]["message"].as_str().unwrap_or_default()
                ),
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}

fn take<T: Copy>(next: &AtomicUsize, items: &[T]) -> Option<(usize, T)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    items.get(index).map(|item| (index, *item))
}

/// On stderr, where that is a terminal.
fn progress(model: &str, items: usize) -> ProgressBar {
    let bar = ProgressBar::new(items as u64).with_message(model.to_owned());
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
