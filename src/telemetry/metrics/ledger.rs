use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};

use super::make::{counter, counters, full, gauge, register};
use crate::types::State;

const COMMIT_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0,
];

/// What the ledger's writer reports.
pub struct LedgerMetrics {
    /// Commits of the ledger's writer.
    pub commits: IntCounter,
    /// Commits that failed and are tried again.
    pub commit_failures: IntCounter,
    /// How long a commit takes.
    pub commit_seconds: Histogram,
    /// How long a charge waited until it stood.
    pub settle_seconds: Histogram,
    /// The age of the oldest checkpoint of what runs, in seconds; 0 where nothing does.
    pub checkpoint_age: Gauge,
    /// The ledger's sum of this replica less what its counters say, in pico-units.
    pub drift: IntGauge,
    pub(super) warnings: IntCounterVec,
    pub(super) webhooks: IntCounterVec,
    /// What was charged over all models, exactly: the registry gives counters as doubles.
    pub(super) charged: IntCounter,
    pub(super) charges: IntCounterVec,
    /// Charges that did not stand, since another replica had booked the attempt.
    pub conflicts: IntCounter,
    /// Times that this replica was taken for dead.
    pub fenced: IntCounter,
    /// Attempts that run and aren't booked yet.
    pub open: IntGauge,
    /// Charges that wait for a commit.
    pub pending: IntGauge,
    /// 1 while the store takes commits.
    pub store_up: IntGauge,
    /// When the newest commit was, in seconds since the epoch.
    pub last_commit: Gauge,
}

impl LedgerMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let charges = counters(
            r,
            "ledger_charges_total",
            "Charges booked by this replica in all its lives, by state.",
            &["state"],
        )?;
        // They stand at zero from the start: the first of a kind is a rise, not a birth.
        for state in [State::Settled, State::Absorbed, State::Recovered] {
            charges.with_label_values(&[state.as_str()]);
        }
        let seconds = HistogramOpts::new(
            full("ledger_commit_seconds"),
            "How long a transaction of the ledger takes.",
        );
        let settle = HistogramOpts::new(
            full("ledger_settle_seconds"),
            "From an answer's end to the commit of its charge.",
        );
        let age = "The age of the oldest checkpoint of what runs; 0 where nothing does.";
        let drift = "What the ledger says this replica charged less what its counters say, in 10^-12 of the currency.";
        let warnings = "Notices of budgets that are nearly spent, by scope and limit.";
        let webhooks = "Webhooks sent, by outcome: taken, failed (and tried again), given_up.";
        let conflicts = "Charges that did not stand, since another replica had booked the attempt.";
        let last = "When the ledger last committed, in seconds since the epoch.";
        Ok(Self {
            commits: counter(
                r,
                "ledger_commits_total",
                "Transactions of the ledger's writer.",
            )?,
            commit_failures: counter(
                r,
                "ledger_commit_failures_total",
                "Transactions that failed and are tried again.",
            )?,
            commit_seconds: register(
                r,
                Histogram::with_opts(seconds.buckets(COMMIT_SECONDS.to_vec()))?,
            )?,
            settle_seconds: register(
                r,
                Histogram::with_opts(settle.buckets(COMMIT_SECONDS.to_vec()))?,
            )?,
            checkpoint_age: register(r, Gauge::new(full("ledger_checkpoint_age_seconds"), age)?)?,
            drift: gauge(r, "ledger_drift_pico", drift)?,
            warnings: counters(r, "budget_warnings_total", warnings, &["scope", "limit"])?,
            webhooks: counters(r, "webhooks_total", webhooks, &["outcome"])?,
            charged: IntCounter::new(full("charged"), "Never shown.")?,
            charges,
            conflicts: counter(r, "ledger_conflicts_total", conflicts)?,
            fenced: counter(
                r,
                "ledger_fenced_total",
                "Times that others took this replica for dead.",
            )?,
            open: gauge(
                r,
                "ledger_open",
                "Attempts that run and are not booked yet.",
            )?,
            pending: gauge(r, "ledger_pending", "Charges that wait for a commit.")?,
            store_up: gauge(r, "ledger_store_up", "1 while the store takes commits.")?,
            last_commit: register(
                r,
                Gauge::new(full("ledger_last_commit_timestamp_seconds"), last)?,
            )?,
        })
    }
}
