use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Metering;
use crate::types::{Ledger, Membership};

/// Books what dead replicas left in flight, a few times in each lease, until it is told to stop.
///
/// A replica that is alone has nobody to look after.
pub async fn reap(
    metering: Metering,
    ledger: Arc<dyn Ledger>,
    membership: Arc<Membership>,
    stop: CancellationToken,
) {
    let Some(lease) = metering.lease.length() else {
        return;
    };
    let pause = (lease / 4).max(Duration::from_millis(100));
    while stop
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        if !metering.lease.may_judge() {
            continue;
        }
        match ledger.recover(&membership.now(), lease).await {
            Ok(rows) if rows.is_empty() => {}
            Ok(rows) => {
                rows.iter().for_each(|row| metering.metrics.recovered(row));
                tracing::warn!(
                    rows = rows.len(),
                    "booked what a dead replica left in flight"
                );
            }
            Err(error) => {
                tracing::error!(%error, "what dead replicas left could not be looked for")
            }
        }
    }
}
