//! `loadtest fairness`: what one tenant's flood does to another, before an upstream that batches as a model server does.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use loadtest::upstream::{Pace, Script, Upstream};
use serde::Serialize;
use serde_json::Map;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::gateway::Gateway;
use crate::machine::Machine;
use crate::process::Scratch;
use crate::target::Target;

const SLOTS: usize = 8;
const TOKENS: u32 = 24;
const PREFILL_PER_S: f64 = 8000.0;
const DECODE_PER_S: f64 = 80.0;
/// What a generated token costs, where a prompt's costs one: the scheduler's own measure (arXiv 2401.00588).
const COMPLETION: u64 = 2;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The forebay binary
    #[arg(long, value_name = "PATH")]
    forebay_bin: PathBuf,
    /// How many requests of the light tenant are measured in each part
    #[arg(long, default_value_t = 30)]
    requests: usize,
    /// For how long two tenants that always wait are compared, in seconds
    #[arg(long, default_value_t = 10)]
    window_s: u64,
    /// Where to write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Figures {
    machine: Machine,
    /// The time to first token of who is alone, in milliseconds, at the 95th percentile.
    alone_p95_ms: f64,
    /// The same while another tenant has 64 requests at once.
    beside_flood_p95_ms: f64,
    /// How long one slot serves one request, at the 95th percentile.
    turn_p95_ms: f64,
    /// The same of an interactive request where the house is full of another tenant's batch work.
    interactive_p95_ms: f64,
    /// How far two tenants of one weight were apart at most, in the scheduler's measure.
    apart: u64,
    /// How far they may be by the paper's theorem.
    bound: u64,
    /// What a tenant of weight 3 was served, over what one of weight 1 was.
    three_to_one: f64,
    /// Jain's index of two tenants of one weight: 1 is fair.
    jain: f64,
}

/// A tenant of the gateway.
#[derive(Clone)]
struct Tenant {
    target: Target,
    client: Client,
    /// Cost of what was answered.
    served: Arc<AtomicU64>,
}

impl Tenant {
    async fn new(gateway: &Gateway, name: &str, options: &[&str], tier: &str) -> Result<Self> {
        let mut extra = Map::new();
        extra.insert("service_tier".into(), tier.into());
        Ok(Self {
            target: Target {
                url: gateway.url()?,
                key: Some(gateway.project(name, options).await?),
                model: "big".into(),
                extra,
            },
            client: Client::new(),
            served: Arc::default(),
        })
    }

    /// One request: until its first token, and in all.
    async fn ask(&self) -> Result<(Duration, Duration)> {
        let start = Instant::now();
        let body = self.target.chat(
            "Where does the water go, and how much of it in a day?",
            TOKENS,
        );
        let answer = self.client.chat(&self.target, body).await?;
        let cost = answer.usage.prompt_tokens + COMPLETION * answer.usage.completion_tokens;
        self.served.fetch_add(cost, Ordering::Relaxed);
        Ok((answer.first_text()?, start.elapsed()))
    }

    /// So many requests at once, again and again, until the set is dropped.
    fn flood(&self, at_once: usize) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for _ in 0..at_once {
            let tenant = self.clone();
            tasks.spawn(async move { while tenant.ask().await.is_ok() {} });
        }
        tasks
    }

    /// One request after another.
    async fn measure(&self, requests: usize, bar: &ProgressBar) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut firsts, mut wholes) = (Vec::new(), Vec::new());
        for _ in 0..requests {
            let (first, whole) = self.ask().await?;
            firsts.push(first.as_secs_f64() * 1000.0);
            wholes.push(whole.as_secs_f64() * 1000.0);
            bar.inc(1);
        }
        Ok((firsts, wholes))
    }
}

fn p95(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() * 95).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or(f64::NAN)
}

/// True: it judges nothing, it says what it saw.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let machine = Machine::look().await;
    let scratch = Scratch::new()?;
    let pace = Pace::Batching {
        slots: SLOTS,
        prefill_per_s: PREFILL_PER_S,
        decode_per_s: DECODE_PER_S,
    };
    let script = Script::words(TOKENS as usize).at(pace);
    let upstream = Upstream::start_at(script, ([127, 0, 0, 1], 0).into(), false).await?;
    let config = format!(
        "[[worker]]\nname = \"w\"\nengine = \"remote\"\nurl = \"{}\"\nmodels = [\"big\"]\nslots = {SLOTS}\n",
        upstream.url()
    );
    let gateway = Gateway::start(&args.forebay_bin, "forebay", &config, &scratch).await?;
    let steps = args.requests as u64 * 3 + args.window_s * 20;
    let bar = ProgressBar::new(steps).with_style(ProgressStyle::with_template("{wide_bar} {eta}")?);

    let heavy = Tenant::new(&gateway, "heavy", &[], "auto").await?;
    let light = Tenant::new(&gateway, "light", &[], "auto").await?;
    let (firsts, wholes) = light.measure(args.requests, &bar).await?;
    let (alone_p95_ms, turn_p95_ms) = (p95(firsts), p95(wholes));
    let flood = heavy.flood(64);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (firsts, _) = light.measure(args.requests, &bar).await?;
    drop(flood);

    let batch = Tenant::new(&gateway, "batch", &[], "flex").await?;
    let urgent = Tenant::new(&gateway, "urgent", &["--class", "interactive"], "priority").await?;
    let flood = batch.flood(64);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (interactive, _) = urgent.measure(args.requests, &bar).await?;
    drop(flood);

    let equals = [
        Tenant::new(&gateway, "one", &[], "auto").await?,
        Tenant::new(&gateway, "other", &[], "auto").await?,
    ];
    let (apart, shares) = compare(&equals, args.window_s, &bar).await?;
    let unequal = [
        Tenant::new(&gateway, "weight-1", &["--weight", "1"], "auto").await?,
        Tenant::new(&gateway, "weight-3", &["--weight", "3"], "auto").await?,
    ];
    let (_, weighted) = compare(&unequal, args.window_s, &bar).await?;
    bar.finish_and_clear();

    let [one, other] = shares;
    let prompt = light
        .client
        .chat(
            &light.target,
            light
                .target
                .chat("Where does the water go, and how much of it in a day?", 1),
        )
        .await?;
    let running = SLOTS as u64 * (prompt.usage.prompt_tokens + u64::from(TOKENS));
    let figures = Figures {
        machine,
        alone_p95_ms,
        beside_flood_p95_ms: p95(firsts),
        turn_p95_ms,
        interactive_p95_ms: p95(interactive),
        apart,
        bound: 2 * prompt.usage.prompt_tokens.max(COMPLETION * running),
        three_to_one: weighted[1] / weighted[0],
        jain: (one + other).powi(2) / (2.0 * (one * one + other * other)),
    };
    print(&figures)?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(true)
}

/// Two tenants that wait all the time: how far they were apart at most, and what each was served.
#[expect(clippy::cast_precision_loss, reason = "2^53 tokens are enough")]
async fn compare(
    tenants: &[Tenant; 2],
    seconds: u64,
    bar: &ProgressBar,
) -> Result<(u64, [f64; 2])> {
    let _floods = tenants.each_ref().map(|tenant| tenant.flood(32));
    // Until both wait.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let served = || {
        tenants
            .each_ref()
            .map(|tenant| tenant.served.load(Ordering::Relaxed))
    };
    let start = served();
    let mut apart = 0;
    for _ in 0..seconds * 10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = served();
        let grown = [now[0] - start[0], now[1] - start[1]];
        apart = apart.max(grown[0].abs_diff(grown[1]));
        bar.inc(1);
    }
    let now = served();
    Ok((
        apart,
        [0, 1].map(|place| (now[place] - start[place]) as f64),
    ))
}

fn print(figures: &Figures) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let Figures {
        machine,
        alone_p95_ms: alone,
        beside_flood_p95_ms: beside,
        turn_p95_ms: turn,
        interactive_p95_ms: interactive,
        apart,
        bound,
        three_to_one,
        jain,
    } = figures;
    writeln!(out, "{machine}\n{SLOTS} slots, {TOKENS} tokens an answer\n")?;
    writeln!(
        out,
        "first token, p95: alone {alone:.0} ms, beside 64 requests of another tenant {beside:.0} ms"
    )?;
    writeln!(
        out,
        "one slot's turn, p95: {turn:.0} ms; (beside) / (alone + turn) = {:.2}",
        beside / (alone + turn)
    )?;
    writeln!(
        out,
        "first token of an interactive request in a house full of batch work, p95: {interactive:.0} ms; of (alone + turn) {:.2}",
        interactive / (alone + turn)
    )?;
    writeln!(
        out,
        "two tenants of one weight: at most {apart} apart of {bound} that may be; Jain's index {jain:.4}"
    )?;
    writeln!(out, "weights 3 and 1: {three_to_one:.3} to 1")?;
    Ok(())
}
