//! Every metric, with its name, unit and labels.
//!
//! Labels come from the registry of models and workers and from our own words, never from a request:
//! their number is bounded by the config.

mod ledger;
mod make;
mod members;
mod verticals;

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

pub use ledger::LedgerMetrics;
use make::{counters, gauges, histograms};
pub use members::{MemberMetrics, MembersMetrics};
use serde::{Deserialize, Serialize};
pub use verticals::VerticalMetrics;

use crate::types::{Charge, Endpoint, Money, Recovered, State, Usage, UsageRow};

/// From a millisecond to two minutes: what people and batch jobs wait.
const WAIT_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
/// One token of one answer, from a large GPU to a small CPU.
const TOKEN_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
];
/// All metrics of one process.
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    queues: Queues,
    engines: Engines,
    /// What the scheduler reports of workers.
    pub members: MembersMetrics,
    /// What the ledger's writer reports.
    pub ledger: LedgerMetrics,
    /// What becomes of vertical models' requests.
    pub verticals: VerticalMetrics,
}

struct Requests {
    answered: IntCounterVec,
    tokens: IntCounterVec,
    charged: IntCounterVec,
    batch_lines: IntCounterVec,
    first_token: HistogramVec,
    per_token: HistogramVec,
    duration: HistogramVec,
}

struct Queues {
    depth: IntGaugeVec,
    wait: HistogramVec,
    refused: IntCounterVec,
    busy: IntGaugeVec,
}

struct Engines {
    running: IntGaugeVec,
    waiting: IntGaugeVec,
    steps: IntCounterVec,
    tokens: IntCounterVec,
    ready: IntGaugeVec,
    restarts: IntCounterVec,
    kv_cells: IntGaugeVec,
    kv_cells_limit: IntGaugeVec,
    adapters: IntGaugeVec,
    preemptions: IntCounterVec,
    broken_off: IntCounterVec,
    prefix_tokens: IntCounterVec,
    draft_tokens: IntCounterVec,
    prefix_bytes: IntGaugeVec,
}

/// What one pool's queue reports.
#[derive(Clone)]
pub struct PoolMetrics {
    /// Requests that wait for a slot.
    pub depth: IntGauge,
    /// Slots that are held.
    pub busy: IntGauge,
    /// How long requests waited, whether or not they got a slot.
    pub wait_seconds: Histogram,
    /// Requests refused because the queue was full.
    pub full: IntCounter,
    /// Requests that waited too long.
    pub timeout: IntCounter,
}

/// What one worker's engine reports.
#[derive(Clone)]
pub struct WorkerMetrics {
    /// Sequences in the batch.
    pub running: IntGauge,
    /// Sequences handed over and not in the batch yet.
    pub waiting: IntGauge,
    /// Steps of the batching loop.
    pub steps: IntCounter,
    /// Prompt tokens computed.
    pub prefill_tokens: IntCounter,
    /// Tokens generated.
    pub decode_tokens: IntCounter,
    /// 1 once the model can be asked.
    pub ready: IntGauge,
    /// Cells of the KV cache that hold a token.
    pub kv_cells: IntGauge,
    /// Cells that there are.
    pub kv_cells_limit: IntGauge,
    /// LoRA adapters that are loaded.
    pub adapters: IntGauge,
    /// Sequences that were put aside for a higher class.
    pub preemptions: IntCounter,
    /// Steps of the batch class that made way for a request of a higher one.
    pub broken_off: IntCounter,
    /// Prompt tokens for which a kept state was looked for.
    pub prefix_asked: IntCounter,
    /// Prompt tokens that a kept state saved.
    pub prefix_found: IntCounter,
    /// Bytes of kept states.
    pub prefix_bytes: IntGauge,
    /// Tokens that were computed before they were chosen.
    pub drafted: IntCounter,
    /// Those of them that were chosen then.
    pub accepted: IntCounter,
    /// Times that a process of its own was started again.
    pub restarts: IntCounter,
}

/// What a worker's engine stands at, to be told to another process. How the worker is, is told on its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReading {
    gauges: [i64; 6],
    counters: [u64; 9],
}

impl WorkerMetrics {
    fn gauges(&self) -> [&IntGauge; 6] {
        [
            &self.running,
            &self.waiting,
            &self.kv_cells,
            &self.kv_cells_limit,
            &self.adapters,
            &self.prefix_bytes,
        ]
    }

    fn counters(&self) -> [&IntCounter; 9] {
        [
            &self.steps,
            &self.prefill_tokens,
            &self.decode_tokens,
            &self.preemptions,
            &self.broken_off,
            &self.prefix_asked,
            &self.prefix_found,
            &self.drafted,
            &self.accepted,
        ]
    }

    /// What they stand at.
    #[must_use]
    pub fn read(&self) -> WorkerReading {
        WorkerReading {
            gauges: self.gauges().map(IntGauge::get),
            counters: self.counters().map(IntCounter::get),
        }
    }

    /// Takes over what another process's stand at. Counters grow by what came since `last`, which becomes
    /// `now`: they never fall, though a new process starts at zero.
    pub fn follow(&self, last: &mut WorkerReading, now: WorkerReading) {
        for (gauge, value) in self.gauges().into_iter().zip(now.gauges) {
            gauge.set(value);
        }
        let rises = last.counters.iter().zip(now.counters);
        for (counter, (before, after)) in self.counters().into_iter().zip(rises) {
            counter.inc_by(after.saturating_sub(*before));
        }
        *last = now;
    }
}

impl Metrics {
    /// A registry of its own, with everything registered.
    ///
    /// # Errors
    /// A name that is there twice: a fault of this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let r = Registry::new();
        let build = gauges(
            &r,
            "build_info",
            "Always 1; the version is its label.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: Requests::new(&r)?,
            queues: Queues::new(&r)?,
            engines: Engines::new(&r)?,
            members: MembersMetrics::new(&r)?,
            ledger: LedgerMetrics::new(&r)?,
            verticals: VerticalMetrics::new(&r)?,
            registry: r,
        })
    }

    /// The metrics of one pool, which stand at zero from now on.
    #[must_use]
    pub fn pool(&self, pool: &str) -> PoolMetrics {
        PoolMetrics {
            depth: self.queues.depth.with_label_values(&[pool]),
            busy: self.queues.busy.with_label_values(&[pool]),
            wait_seconds: self.queues.wait.with_label_values(&[pool]),
            full: self.queues.refused.with_label_values(&[pool, "full"]),
            timeout: self.queues.refused.with_label_values(&[pool, "timeout"]),
        }
    }

    /// The metrics of one worker, which stand at zero from now on.
    #[must_use]
    pub fn worker(&self, worker: &str) -> WorkerMetrics {
        let prefix_tokens = |what| {
            let tokens = &self.engines.prefix_tokens;
            tokens.with_label_values(&[worker, what])
        };
        let draft_tokens = |what| {
            let tokens = &self.engines.draft_tokens;
            tokens.with_label_values(&[worker, what])
        };
        WorkerMetrics {
            running: self.engines.running.with_label_values(&[worker]),
            waiting: self.engines.waiting.with_label_values(&[worker]),
            steps: self.engines.steps.with_label_values(&[worker]),
            prefill_tokens: self.engines.tokens.with_label_values(&[worker, "prefill"]),
            decode_tokens: self.engines.tokens.with_label_values(&[worker, "decode"]),
            ready: self.engines.ready.with_label_values(&[worker]),
            restarts: self.engines.restarts.with_label_values(&[worker]),
            kv_cells: self.engines.kv_cells.with_label_values(&[worker]),
            kv_cells_limit: self.engines.kv_cells_limit.with_label_values(&[worker]),
            adapters: self.engines.adapters.with_label_values(&[worker]),
            preemptions: self.engines.preemptions.with_label_values(&[worker]),
            broken_off: self.engines.broken_off.with_label_values(&[worker]),
            prefix_asked: prefix_tokens("asked"),
            prefix_found: prefix_tokens("found"),
            drafted: draft_tokens("drafted"),
            accepted: draft_tokens("accepted"),
            prefix_bytes: self.engines.prefix_bytes.with_label_values(&[worker]),
        }
    }

    /// A request was answered or refused. `model` is a name of the registry, or empty where the request
    /// named none.
    pub fn request(&self, endpoint: Endpoint, model: &str, status: u16) {
        let status = status.to_string();
        self.requests
            .answered
            .with_label_values(&[endpoint.as_str(), model, &status])
            .inc();
    }

    /// The first piece of text left.
    pub fn first_token(&self, model: &str, since_arrival: Duration) {
        self.requests
            .first_token
            .with_label_values(&[model])
            .observe(since_arrival.as_secs_f64());
    }

    /// A charge stands in the ledger.
    pub fn booked(&self, charge: &Charge) {
        self.ledger
            .charges
            .with_label_values(&[charge.state.as_str()])
            .inc();
        let model: &str = &charge.flown.model;
        let seconds = seconds_between(charge.flown.started, charge.ended);
        self.requests
            .duration
            .with_label_values(&[model, charge.outcome.as_str()])
            .observe(seconds);
        if charge.state == State::Absorbed {
            return;
        }
        let usage = charge.usage;
        self.used(model, Sum::of(&usage, charge.amount));
        if let Some(first) = charge.first_token
            && usage.completion_tokens > 1
        {
            let gap = seconds_between(first, charge.ended) / f64::from(usage.completion_tokens - 1);
            self.requests
                .per_token
                .with_label_values(&[model])
                .observe(gap);
        }
    }

    /// A line of a batch has its answer, or is refused for good.
    pub fn batch_line(&self, answered: bool) {
        let outcome = if answered { "completed" } else { "failed" };
        self.requests
            .batch_lines
            .with_label_values(&[outcome])
            .inc();
    }

    /// What a dead replica left was booked.
    pub fn recovered(&self, row: &Recovered) {
        self.ledger
            .charges
            .with_label_values(&[State::Recovered.as_str()])
            .inc();
        self.used(&row.model, Sum::of(&row.usage, row.amount));
    }

    /// A notice was written of a budget that is nearly spent.
    pub fn budget_warned(&self, scope: &str, limit: &str) {
        self.ledger
            .warnings
            .with_label_values(&[scope, limit])
            .inc();
    }

    /// A webhook was taken, failed or was given up.
    pub fn webhook_sent(&self, outcome: &str) {
        self.ledger.webhooks.with_label_values(&[outcome]).inc();
    }

    /// What the counters say was charged, over all models.
    #[must_use]
    pub fn charged(&self) -> Money {
        Money(self.ledger.charged.get().into())
    }

    /// Takes up what this replica booked in its earlier lives: sums of the ledger by state and model.
    pub fn rehydrate(&self, rows: &[UsageRow]) {
        for row in rows {
            let state = row.state.as_deref().unwrap_or_default();
            self.ledger
                .charges
                .with_label_values(&[state])
                .inc_by(row.requests.unsigned_abs());
            if state == State::Absorbed.as_str() {
                continue;
            }
            let sum = Sum {
                prompt_tokens: row.prompt_tokens.unsigned_abs(),
                cached_tokens: row.cached_tokens.unsigned_abs(),
                completion_tokens: row.completion_tokens.unsigned_abs(),
                amount: row.amount,
            };
            self.used(row.model.as_deref().unwrap_or_default(), sum);
        }
    }

    fn used(&self, model: &str, sum: Sum) {
        let kinds = [
            ("prompt", sum.prompt_tokens),
            ("cached", sum.cached_tokens),
            ("completion", sum.completion_tokens),
        ];
        for (kind, tokens) in kinds {
            self.requests
                .tokens
                .with_label_values(&[model, kind])
                .inc_by(tokens);
        }
        let pico = u64::try_from(sum.amount.0).unwrap_or(0);
        self.ledger.charged.inc_by(pico);
        self.requests
            .charged
            .with_label_values(&[model])
            .inc_by(pico);
    }

    /// The whole registry in Prometheus's text format 0.0.4.
    ///
    /// # Errors
    /// A metric that can't be encoded: a fault of this file.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Tokens and money that go to the counters together.
struct Sum {
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    amount: Money,
}

impl Sum {
    fn of(usage: &Usage, amount: Money) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens.into(),
            cached_tokens: usage.cached_tokens.into(),
            completion_tokens: usage.completion_tokens.into(),
            amount,
        }
    }
}

impl Requests {
    fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let answered = "Requests that were answered or refused, by HTTP status.";
        let tokens =
            "Tokens in booked charges, by kind: prompt (cached ones included), cached, completion.";
        let charged = "Amounts of booked charges, in 10^-12 of the currency.";
        let first_token = "From the request's arrival to its first piece of text.";
        let per_token = "Mean gap between the tokens of one answer, after the first.";
        let duration = "From dispatch to the end of the answer.";
        Ok(Self {
            answered: counters(
                r,
                "requests_total",
                answered,
                &["endpoint", "model", "status"],
            )?,
            tokens: counters(r, "tokens_total", tokens, &["model", "kind"])?,
            batch_lines: counters(
                r,
                "batch_lines_total",
                "Lines of batches that came to their end, by outcome.",
                &["outcome"],
            )?,
            charged: counters(r, "charged_pico_total", charged, &["model"])?,
            first_token: histograms(
                r,
                "time_to_first_token_seconds",
                first_token,
                WAIT_SECONDS,
                &["model"],
            )?,
            per_token: histograms(
                r,
                "time_per_output_token_seconds",
                per_token,
                TOKEN_SECONDS,
                &["model"],
            )?,
            duration: histograms(
                r,
                "request_duration_seconds",
                duration,
                WAIT_SECONDS,
                &["model", "outcome"],
            )?,
        })
    }
}

impl Queues {
    fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let refused = "Requests that got no slot, by reason: full or timeout.";
        let wait = "How long requests waited for a slot.";
        Ok(Self {
            depth: gauges(
                r,
                "queue_depth",
                "Requests that wait for a slot.",
                &["pool"],
            )?,
            wait: histograms(r, "queue_wait_seconds", wait, WAIT_SECONDS, &["pool"])?,
            refused: counters(r, "queue_refused_total", refused, &["pool", "reason"])?,
            busy: gauges(
                r,
                "slots_busy",
                "Slots held by requests, until the last byte.",
                &["pool"],
            )?,
        })
    }
}

impl Engines {
    fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let waiting = "Sequences handed to the worker and not in its batch yet.";
        let restarts = "Times that an isolated worker's process died and was started again.";
        let tokens = "Tokens the engine computed, by phase: prefill or decode.";
        let cells = "Cells of the KV cache that hold a token.";
        let broken_off = "Steps of the batch class that made way for a request of a higher one.";
        let aside = "Sequences put aside for one of a higher class.";
        let prefix =
            "Prompt tokens asked of the prefix cache, and those found in it: the hit ratio.";
        let draft =
            "Tokens computed before they were chosen, and those of them that were chosen then.";
        Ok(Self {
            running: gauges(
                r,
                "sequences_running",
                "Sequences in the worker's batch.",
                &["worker"],
            )?,
            waiting: gauges(r, "sequences_waiting", waiting, &["worker"])?,
            steps: counters(
                r,
                "engine_steps_total",
                "Steps of the batching loop.",
                &["worker"],
            )?,
            tokens: counters(r, "engine_tokens_total", tokens, &["worker", "phase"])?,
            ready: gauges(
                r,
                "worker_ready",
                "1 once the worker's model can be asked.",
                &["worker"],
            )?,
            restarts: counters(r, "worker_restarts_total", restarts, &["worker"])?,
            kv_cells: gauges(r, "kv_cells", cells, &["worker"])?,
            kv_cells_limit: gauges(
                r,
                "kv_cells_limit",
                "Cells of the KV cache that there are.",
                &["worker"],
            )?,
            adapters: gauges(r, "adapters_loaded", "LoRA adapters loaded.", &["worker"])?,
            preemptions: counters(r, "preemptions_total", aside, &["worker"])?,
            broken_off: counters(r, "steps_broken_off_total", broken_off, &["worker"])?,
            prefix_tokens: counters(r, "prefix_cache_tokens_total", prefix, &["worker", "what"])?,
            draft_tokens: counters(r, "draft_tokens_total", draft, &["worker", "what"])?,
            prefix_bytes: gauges(
                r,
                "prefix_cache_bytes",
                "Host memory of the prefix cache.",
                &["worker"],
            )?,
        })
    }
}

fn seconds_between(from: jiff::Timestamp, to: jiff::Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests;
