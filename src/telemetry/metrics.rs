//! Every metric, with its name, unit and labels.
//!
//! Labels come from the registry of models and workers and from our own words, never from a request:
//! their number is bounded by the config.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::types::{Charge, Endpoint, State};

/// From a millisecond to two minutes: what people and batch jobs wait.
const WAIT_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
/// One token of one answer, from a large GPU to a small CPU.
const TOKEN_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
];
const COMMIT_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0,
];

/// All metrics of one process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    tokens: IntCounterVec,
    first_token: HistogramVec,
    per_token: HistogramVec,
    duration: HistogramVec,
    queue_depth: IntGaugeVec,
    queue_wait: HistogramVec,
    queue_refused: IntCounterVec,
    slots_busy: IntGaugeVec,
    sequences_running: IntGaugeVec,
    sequences_waiting: IntGaugeVec,
    steps: IntCounterVec,
    step_tokens: IntCounterVec,
    worker_ready: IntGaugeVec,
    /// Commits of the ledger's writer.
    pub ledger_commits: IntCounter,
    /// Commits that failed and are tried again.
    pub ledger_commit_failures: IntCounter,
    /// How long a commit takes.
    pub ledger_commit_seconds: Histogram,
    ledger_rows: IntCounterVec,
    /// Attempts that run and aren't booked yet.
    pub ledger_open: IntGauge,
    /// Charges that wait for a commit.
    pub ledger_pending: IntGauge,
    /// 1 while the store takes commits.
    pub ledger_store_up: IntGauge,
    /// Age of the newest checkpoint's commit is read from this, in seconds since the epoch.
    pub ledger_last_commit: Gauge,
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
}

impl Metrics {
    /// A registry of its own, with everything registered.
    ///
    /// # Errors
    /// A name that is there twice: a fault of this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let r = Registry::new();
        let build = int_gauge_vec(
            &r,
            "forebay_build_info",
            "Always 1; the version is its label.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: counter_vec(
                &r,
                "forebay_requests_total",
                "Requests that were answered or refused, by HTTP status.",
                &["endpoint", "model", "status"],
            )?,
            tokens: counter_vec(
                &r,
                "forebay_tokens_total",
                "Tokens in booked charges, by kind: prompt (cached ones included), cached, completion.",
                &["model", "kind"],
            )?,
            first_token: histogram_vec(
                &r,
                "forebay_time_to_first_token_seconds",
                "From the request's arrival to its first piece of text.",
                WAIT_SECONDS,
                &["model"],
            )?,
            per_token: histogram_vec(
                &r,
                "forebay_time_per_output_token_seconds",
                "Mean gap between the tokens of one answer, after the first.",
                TOKEN_SECONDS,
                &["model"],
            )?,
            duration: histogram_vec(
                &r,
                "forebay_request_duration_seconds",
                "From dispatch to the end of the answer.",
                WAIT_SECONDS,
                &["model", "outcome"],
            )?,
            queue_depth: int_gauge_vec(
                &r,
                "forebay_queue_depth",
                "Requests that wait for a slot.",
                &["pool"],
            )?,
            queue_wait: histogram_vec(
                &r,
                "forebay_queue_wait_seconds",
                "How long requests waited for a slot.",
                WAIT_SECONDS,
                &["pool"],
            )?,
            queue_refused: counter_vec(
                &r,
                "forebay_queue_refused_total",
                "Requests that got no slot, by reason: full or timeout.",
                &["pool", "reason"],
            )?,
            slots_busy: int_gauge_vec(
                &r,
                "forebay_slots_busy",
                "Slots held by requests, until the last byte.",
                &["pool"],
            )?,
            sequences_running: int_gauge_vec(
                &r,
                "forebay_sequences_running",
                "Sequences in the worker's batch.",
                &["worker"],
            )?,
            sequences_waiting: int_gauge_vec(
                &r,
                "forebay_sequences_waiting",
                "Sequences handed to the worker and not in its batch yet.",
                &["worker"],
            )?,
            steps: counter_vec(
                &r,
                "forebay_engine_steps_total",
                "Steps of the batching loop.",
                &["worker"],
            )?,
            step_tokens: counter_vec(
                &r,
                "forebay_engine_tokens_total",
                "Tokens the engine computed, by phase: prefill or decode.",
                &["worker", "phase"],
            )?,
            worker_ready: int_gauge_vec(
                &r,
                "forebay_worker_ready",
                "1 once the worker's model can be asked.",
                &["worker"],
            )?,
            ledger_commits: counter(
                &r,
                "forebay_ledger_commits_total",
                "Transactions of the ledger's writer.",
            )?,
            ledger_commit_failures: counter(
                &r,
                "forebay_ledger_commit_failures_total",
                "Transactions that failed and are tried again.",
            )?,
            ledger_commit_seconds: histogram(
                &r,
                "forebay_ledger_commit_seconds",
                "How long a transaction of the ledger takes.",
                COMMIT_SECONDS,
            )?,
            ledger_rows: counter_vec(
                &r,
                "forebay_ledger_charges_total",
                "Charges booked by this process, by state.",
                &["state"],
            )?,
            ledger_open: gauge(
                &r,
                "forebay_ledger_open",
                "Attempts that run and are not booked yet.",
            )?,
            ledger_pending: gauge(
                &r,
                "forebay_ledger_pending",
                "Charges that wait for a commit.",
            )?,
            ledger_store_up: gauge(
                &r,
                "forebay_ledger_store_up",
                "1 while the store takes commits.",
            )?,
            ledger_last_commit: {
                let gauge = Gauge::new(
                    "forebay_ledger_last_commit_timestamp_seconds",
                    "When the ledger last committed, in seconds since the epoch.",
                )?;
                register(&r, gauge)?
            },
            registry: r,
        })
    }

    /// The metrics of one pool, which stand at zero from now on.
    #[must_use]
    pub fn pool(&self, pool: &str) -> PoolMetrics {
        PoolMetrics {
            depth: self.queue_depth.with_label_values(&[pool]),
            busy: self.slots_busy.with_label_values(&[pool]),
            wait_seconds: self.queue_wait.with_label_values(&[pool]),
            full: self.queue_refused.with_label_values(&[pool, "full"]),
            timeout: self.queue_refused.with_label_values(&[pool, "timeout"]),
        }
    }

    /// The metrics of one worker, which stand at zero from now on.
    #[must_use]
    pub fn worker(&self, worker: &str) -> WorkerMetrics {
        WorkerMetrics {
            running: self.sequences_running.with_label_values(&[worker]),
            waiting: self.sequences_waiting.with_label_values(&[worker]),
            steps: self.steps.with_label_values(&[worker]),
            prefill_tokens: self.step_tokens.with_label_values(&[worker, "prefill"]),
            decode_tokens: self.step_tokens.with_label_values(&[worker, "decode"]),
            ready: self.worker_ready.with_label_values(&[worker]),
        }
    }

    /// A request was answered or refused. `model` is a name of the registry, or empty where the request
    /// named none.
    pub fn request(&self, endpoint: Endpoint, model: &str, status: u16) {
        let status = status.to_string();
        self.requests
            .with_label_values(&[endpoint.as_str(), model, &status])
            .inc();
    }

    /// The first piece of text left.
    pub fn first_token(&self, model: &str, since_arrival: Duration) {
        self.first_token
            .with_label_values(&[model])
            .observe(since_arrival.as_secs_f64());
    }

    /// A charge stands in the ledger.
    pub fn booked(&self, charge: &Charge) {
        self.ledger_rows
            .with_label_values(&[charge.state.as_str()])
            .inc();
        let model: &str = &charge.flown.model;
        let seconds = seconds_between(charge.flown.started, charge.ended);
        self.duration
            .with_label_values(&[model, charge.outcome.as_str()])
            .observe(seconds);
        if charge.state == State::Absorbed {
            return;
        }
        let usage = charge.usage;
        let kinds = [
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
        ];
        for (kind, tokens) in kinds {
            self.tokens
                .with_label_values(&[model, kind])
                .inc_by(tokens.into());
        }
        if let Some(first) = charge.first_token
            && usage.completion_tokens > 1
        {
            let gap = seconds_between(first, charge.ended) / f64::from(usage.completion_tokens - 1);
            self.per_token.with_label_values(&[model]).observe(gap);
        }
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

fn seconds_between(from: jiff::Timestamp, to: jiff::Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(name, help)?)
}

fn counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::new(name, help)?)
}

fn int_gauge_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(options)?)
}

fn histogram_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, labels)?)
}
