use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::make::{counters, gauges};

/// What the scheduler reports of workers, which may come and go.
#[derive(Clone)]
pub struct MembersMetrics {
    open: IntGaugeVec,
    places: IntGaugeVec,
    taken: IntGaugeVec,
    tokens: IntGaugeVec,
    attempts: IntCounterVec,
}

/// What the scheduler reports of one worker. Dropped with the worker, its gauges are gone.
pub struct MemberMetrics {
    all: MembersMetrics,
    worker: String,
    /// 1 while its breaker keeps requests away.
    pub open: IntGauge,
    /// Places that it has: its own number, or what was learned.
    pub places: IntGauge,
    /// Places that are taken.
    pub taken: IntGauge,
    /// Tokens that its requests may take, as far as is known.
    pub tokens: IntGauge,
    /// Attempts that it answered.
    pub answered: IntCounter,
    /// Attempts that it refused for want of room.
    pub refused: IntCounter,
    /// Attempts that it failed.
    pub failed: IntCounter,
    /// Attempts that say nothing of it: the client went, or was to blame.
    pub unknown: IntCounter,
}

impl MembersMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let worker = &["worker"];
        let open = "1 while the worker's circuit breaker keeps requests away.";
        let places = "Requests that the worker is given at once: a setting, or what was learned.";
        let tokens = "Tokens that the worker's requests may take at most, as far as is known.";
        let attempts = "Attempts at workers, by outcome: answered, refused, failed, or unknown where the client went.";
        Ok(Self {
            open: gauges(r, "worker_open", open, worker)?,
            places: gauges(r, "worker_places", places, worker)?,
            taken: gauges(
                r,
                "worker_places_taken",
                "Places that requests hold.",
                worker,
            )?,
            tokens: gauges(r, "worker_outstanding_tokens", tokens, worker)?,
            attempts: counters(r, "attempts_total", attempts, &["worker", "outcome"])?,
        })
    }

    /// The metrics of one worker, which stand at zero from now on.
    #[must_use]
    pub fn member(&self, worker: &str) -> MemberMetrics {
        let of = |gauges: &IntGaugeVec| gauges.with_label_values(&[worker]);
        let attempts = |outcome| self.attempts.with_label_values(&[worker, outcome]);
        MemberMetrics {
            open: of(&self.open),
            places: of(&self.places),
            taken: of(&self.taken),
            tokens: of(&self.tokens),
            answered: attempts("answered"),
            refused: attempts("refused"),
            failed: attempts("failed"),
            unknown: attempts("unknown"),
            worker: worker.to_owned(),
            all: self.clone(),
        }
    }
}

impl Drop for MemberMetrics {
    fn drop(&mut self) {
        let (all, worker) = (&self.all, self.worker.as_str());
        for gauges in [&all.open, &all.places, &all.taken, &all.tokens] {
            // It may have gone already, with another of this name.
            let _gone = gauges.remove_label_values(&[worker]);
        }
    }
}
