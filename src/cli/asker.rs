//! The way to a running gateway, asked as clients ask it.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use http::HeaderMap;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use crate::config::Config;
use crate::eval::{Item, Run, Scored, Suite, Task, Tried};
use crate::router::Router;
use crate::types::{AUTO, Class, Money, Usage};

/// How long a request is sent again that a full queue or a limit refused.
const PATIENCE: Duration = Duration::from_secs(600);
/// Where the server doesn't say when to come again.
const PAUSE: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(600);
/// How long a running server may take to learn of a revision, and one that was just started to be there.
const LEARNS: Duration = Duration::from_secs(10);
const STARTS: Duration = Duration::from_secs(120);

/// Which gateway, and as whom.
#[derive(Args)]
pub(super) struct GatewayArguments {
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

/// Asks it.
pub(super) struct Asker {
    agent: Agent,
    url: String,
    key: String,
    at_once: usize,
    /// What models cost.
    router: Router,
}

impl Asker {
    pub(super) fn new(arguments: &GatewayArguments, config: &Config) -> Result<Self> {
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
            at_once: arguments.at_once.max(1),
            key: key.context("no key: give a project's as --key or FOREBAY_API_KEY")?,
            router: Router::new(config).map_err(|error| anyhow!(error))?,
        })
    }

    /// Before anything is asked, which may take long.
    pub(super) fn check(&self, models: &[String]) -> Result<()> {
        let list = self.get("/v1/models")?;
        if let Some(message) = list["error"]["message"].as_str() {
            bail!("{}: {message}", self.url);
        }
        let known: Vec<_> = list["data"].as_array().into_iter().flatten().collect();
        for model in models {
            // A revision by its name stands in no list.
            let name = model.split('@').next().unwrap_or(model);
            let is_known = known.iter().any(|known| known["id"] == *name);
            ensure!(
                is_known,
                "this key may not ask a model {model:?} at {}",
                self.url
            );
        }
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = self
            .agent
            .get(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.key))
            .call();
        let mut answer = answer.with_context(|| {
            format!(
                "no gateway at {}: `forebay serve` is one, --url names another",
                self.url
            )
        })?;
        Ok(serde_json::from_str(&answer.body_mut().read_to_string()?)?)
    }

    /// Waits until the server knows a revision that was just made.
    pub(super) fn await_revision(&self, name: &str) -> Result<()> {
        let mut began = Instant::now();
        let mut is_said = false;
        while let Err(error) = self.get("/v1/models") {
            if began.elapsed() > STARTS {
                return Err(error);
            }
            if !std::mem::replace(&mut is_said, true) {
                let seconds = STARTS.as_secs();
                eprintln!("waiting for {}, {seconds} seconds at most", self.url);
            }
            wait(PAUSE);
        }
        began = Instant::now();
        loop {
            let answer = self.get(&format!("/v1/models/{name}"))?;
            let Some(message) = answer["error"]["message"].as_str() else {
                return Ok(());
            };
            ensure!(
                began.elapsed() < LEARNS,
                "{}: {message}: does the server run with this config? It reads it again at SIGHUP",
                self.url
            );
            wait(Duration::from_millis(200));
        }
    }

    /// Asks a model every item.
    pub(super) fn run(&self, suite: &Suite, model: &str) -> Result<Run> {
        let items = suite
            .tasks
            .iter()
            .flat_map(|task| task.items.iter().map(move |item| (task, item)));
        let items: Vec<(&Task, &Item)> = items.collect();
        let bar = progress(model, items.len());
        let requests = items
            .iter()
            .map(|(task, item)| task.requests(item, model).len());
        let requests: usize = requests.sum();
        eprintln!(
            "{model}: {} items, {requests} requests to {}",
            items.len(),
            self.url
        );
        let tenth = items.len().div_ceil(10);
        let next = AtomicUsize::new(0);
        let done = Mutex::new(BTreeMap::new());
        let seen = Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            for _ in 0..self.at_once {
                scope.spawn(|| {
                    while let Some((index, (task, item))) = take(&next, &items) {
                        let (tried, revisions) = self.attempt(task, item, model);
                        seen.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .extend(revisions);
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.insert(index, tried);
                        bar.inc(1);
                        if bar.is_hidden() && done.len().is_multiple_of(tenth) {
                            eprintln!("{model}: {} of {}", done.len(), items.len());
                        }
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
        // Where several answered, none can be told how it did.
        let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut revisions = seen.into_iter();
        let revision = revisions.next().filter(|_| revisions.next().is_none());
        Ok(Run {
            model: model.to_owned(),
            revision: revision.unwrap_or_default(),
            tried: done.into_values().collect(),
        })
    }

    /// One item, and the revisions that answered.
    fn attempt(&self, task: &Task, item: &Item, model: &str) -> (Tried, HashSet<String>) {
        let began = Instant::now();
        let (mut answers, mut revisions) = (Vec::new(), HashSet::new());
        let mut usage = (0, 0);
        let mut amount = Money::default();
        let mut error = None;
        for body in task.requests(item, model) {
            match self.ask(&body) {
                Ok((answer, headers)) => {
                    let revision = headers.get("x-forebay-revision");
                    let revision = revision.and_then(|revision| revision.to_str().ok());
                    revisions.insert(revision.unwrap_or_default().to_owned());
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
            None => self.scored(task, item, &answers),
        };
        let took_ms = began.elapsed().as_secs_f64() * 1000.0;
        let (score, said, error) = match scored {
            Ok(scored) => (scored.score, scored.said, None),
            Err(error) => (0.0, String::new(), Some(error)),
        };
        let tried = Tried {
            task: task.name.clone(),
            item: item.id.clone(),
            score,
            said,
            error,
            prompt_tokens: usage.0,
            completion_tokens: usage.1,
            amount,
            took_ms,
        };
        (tried, revisions)
    }

    /// What the answers are worth, which others may be asked for.
    fn scored(&self, task: &Task, item: &Item, answers: &[Value]) -> Result<Scored, String> {
        let mut others = Vec::new();
        for follow_up in task.follow_ups(item, answers) {
            let told = self.send(follow_up.path, &follow_up.body);
            let (answer, _) = told.map_err(|error| format!("{error:#}"))?;
            others.push(answer);
        }
        task.score_with(item, answers, &others)
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
        let price = self.router.price(model, Class::Standard);
        price.map_or(Money::default(), |price| price.amount(&usage))
    }

    /// Again and again while there is no room for it. Gives the answer, and what was said before it.
    pub(super) fn ask(&self, body: &Value) -> Result<(Value, HeaderMap)> {
        self.send("/v1/chat/completions", body)
    }

    /// What `auto` would come to for a question.
    pub(super) fn routed(&self, question: &str) -> Result<Value> {
        let messages = json!([{"role": "user", "content": question}]);
        let body = json!({"model": AUTO, "messages": messages});
        Ok(self.send("/v1/route", &body)?.0)
    }

    fn send(&self, path: &str, body: &Value) -> Result<(Value, HeaderMap)> {
        let began = Instant::now();
        loop {
            let mut answer = self
                .agent
                .post(format!("{}{path}", self.url))
                .header("authorization", format!("Bearer {}", self.key))
                .header("content-type", "application/json")
                .send(&body.to_string())?;
            let status = answer.status().as_u16();
            let header = |name| answer.headers().get(name)?.to_str().ok();
            let again = header("x-should-retry") != Some("false");
            let pause = header("retry-after").and_then(|seconds| seconds.parse().ok());
            let pause = pause.map_or(PAUSE, Duration::from_secs);
            let headers = answer.headers().clone();
            let json: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
            match status {
                200 => return Ok((json, headers)),
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
