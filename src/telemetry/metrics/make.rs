//! Metrics of each kind, named and registered.

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

pub(super) fn full(name: &str) -> String {
    format!("forebay_{name}")
}

pub(super) fn register<C: Collector + Clone + 'static>(
    r: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn counter(
    r: &Registry,
    name: &str,
    help: &str,
) -> Result<IntCounter, prometheus::Error> {
    register(r, IntCounter::new(full(name), help)?)
}

pub(super) fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(r, IntCounterVec::new(Opts::new(full(name), help), labels)?)
}

pub(super) fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(r, IntGauge::new(full(name), help)?)
}

pub(super) fn gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    register(r, IntGaugeVec::new(Opts::new(full(name), help), labels)?)
}

pub(super) fn histograms(
    r: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(full(name), help).buckets(buckets.to_vec());
    register(r, HistogramVec::new(options, labels)?)
}
