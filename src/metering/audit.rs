use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;
use crate::types::{Ledger, Membership};

/// How often the counters are held against the ledger.
const EVERY: Duration = Duration::from_secs(30);

/// Holds this replica's counters against what the ledger says of it, until it is told to stop. A difference is a fault
/// of ours, or rows that others wrote in its name.
pub async fn audit(
    ledger: Arc<dyn Ledger>,
    membership: Arc<Membership>,
    is_alone: bool,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let name = (!is_alone).then(|| membership.now().name);
    while stop
        .run_until_cancelled(tokio::time::sleep(EVERY))
        .await
        .is_some()
    {
        look(&*ledger, name.as_deref(), &metrics).await;
    }
}

pub(super) async fn look(ledger: &dyn Ledger, name: Option<&str>, metrics: &Metrics) {
    let before = metrics.charged();
    match ledger.charged(name).await {
        // What was booked meanwhile may be in the one and not in the other.
        Ok(booked) if metrics.charged() == before && metrics.ledger.pending.get() == 0 => {
            let drift = i64::try_from(booked.0 - before.0).unwrap_or(i64::MAX);
            if drift != 0 {
                tracing::error!(drift, "the counters are not what the ledger says");
            }
            metrics.ledger.drift.set(drift);
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "the ledger could not be held against the counters")
        }
    }
}
