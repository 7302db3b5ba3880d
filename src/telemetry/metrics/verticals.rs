use prometheus::{GaugeVec, IntCounterVec, Opts, Registry};

use super::make::{counters, full, register};
use crate::guard::{Found, Side};

/// What becomes of vertical models' requests.
pub struct VerticalMetrics {
    guarded: IntCounterVec,
    routed: IntCounterVec,
    shadows: IntCounterVec,
    shadow_tokens: IntCounterVec,
    drift: GaugeVec,
    drift_samples: IntCounterVec,
}

impl VerticalMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| {
            register(r, GaugeVec::new(Opts::new(full(name), help), &["model"])?)
        };
        Ok(Self {
            guarded: counters(
                r,
                "guarded_total",
                "Requests and answers in which a rule of the model found something.",
                &["model", "rule", "side", "action"],
            )?,
            routed: counters(
                r,
                "routed_total",
                "Requests for `auto`, by the model that they came to and by what decided it.",
                &["model", "by"],
            )?,
            shadows: counters(
                r,
                "shadow_requests_total",
                "Requests that a shadow revision was asked as well: answered, failed, or skipped for want of room.",
                &["model", "outcome"],
            )?,
            shadow_tokens: counters(
                r,
                "shadow_tokens_total",
                "Tokens of shadow revisions' prompts and answers, which nobody pays.",
                &["model"],
            )?,
            drift: gauges(
                "model_drift",
                "How much less live questions look like the model's suite than the suite's own items do, in cosine.",
            )?,
            drift_samples: counters(
                r,
                "drift_samples_total",
                "Live questions of projects that opted in that were compared with the suite.",
                &["model"],
            )?,
        })
    }

    /// Rules of a model found something in one request, or one answer.
    pub fn guard(&self, model: &str, side: Side, found: &Found) {
        for (rule, action) in found.all() {
            let labels = [model, rule, side.as_str(), action];
            self.guarded.with_label_values(&labels).inc();
        }
    }

    /// A request for `auto` came to a model.
    pub fn routed(&self, model: &str, by: &str) {
        self.routed.with_label_values(&[model, by]).inc();
    }

    /// A shadow revision was asked, and took so many tokens.
    pub fn shadow(&self, model: &str, outcome: &str, tokens: u64) {
        self.shadows.with_label_values(&[model, outcome]).inc();
        self.shadow_tokens
            .with_label_values(&[model])
            .inc_by(tokens);
    }

    /// How far live questions are from the suite, after one more.
    pub fn drift(&self, model: &str, drift: f64) {
        self.drift.with_label_values(&[model]).set(drift);
        self.drift_samples.with_label_values(&[model]).inc();
    }
}
