//! Tells an operator of budgets of which more is spent than was meant to be.
//!
//! What was spent is read from the ledger, so that it doesn't matter which replica served it. A notice is written
//! into the store once for each limit and day or month, and tried by webhook for two days or until it is taken, however
//! often the process dies in between; its receiver knows one that comes twice by its id.

mod webhook;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use webhook::Webhook;

use super::Meter;
use super::limiter::METERS;
use crate::telemetry::Metrics;
use crate::types::{LimitSet, Money, Notice, Sent, Spender, Store, StoreError};

/// How often budgets are looked at, and notices sent.
const EVERY: Duration = Duration::from_secs(2);
/// Where looking takes long, since there are many: so many times that is the pause until the next time.
const REST: u32 = 10;
/// Longer than sending one takes.
const HOLD: Duration = Duration::from_secs(60);
/// The pause after each time that a notice was not taken. After the last, it is given up.
const PAUSES: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(12 * 3600),
    Duration::from_secs(24 * 3600),
];

/// Looks after the notices of one process.
pub struct Notices {
    store: Arc<dyn Store>,
    webhook: Option<Arc<Webhook>>,
    metrics: Arc<Metrics>,
}

/// A budget of which more is spent than is to be warned of.
struct Warning<'a> {
    set: &'a LimitSet,
    meter: Meter,
    begins: Timestamp,
    spent: Money,
    warn: Money,
    limit: Option<Money>,
}

impl Notices {
    /// Notices are written in any case, and sent where there is a webhook.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, webhook: Option<Webhook>, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            webhook: webhook.map(Arc::new),
            metrics,
        }
    }

    /// Writes and sends them until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = EVERY;
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            let start = Instant::now();
            if let Err(error) = self.write(Timestamp::now()).await {
                tracing::warn!(%error, "budgets could not be looked at");
            }
            pause = EVERY.max(start.elapsed() * REST);
            // One that is on its way is not cut off, but no other is begun.
            if let Err(error) = self.send(&stop).await {
                tracing::warn!(%error, "notices could not be sent");
            }
        }
    }

    async fn write(&self, now: Timestamp) -> Result<(), StoreError> {
        for set in self.store.warned_limits().await? {
            for meter in METERS {
                let Some((limit, Some(warn))) = meter.of(&set) else {
                    continue;
                };
                let around = meter.calendar().and_then(|calendar| calendar.around(now));
                let Some((begins, _)) = around else { continue };
                let subject = subject(&set, meter, begins);
                if self.store.is_posted(&subject).await? {
                    continue;
                }
                let spent = self.store.spent(&spender(&set), begins).await?.amount;
                let warning = Warning {
                    set: &set,
                    meter,
                    begins,
                    spent,
                    warn: Money(warn),
                    limit: limit.map(Money),
                };
                if spent.0 >= warn {
                    self.post(&subject, &warning, now).await?;
                }
            }
        }
        Ok(())
    }

    async fn post(
        &self,
        subject: &str,
        warning: &Warning<'_>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let id = format!("evt_{}", Uuid::now_v7().simple());
        let body = warning.body(&id, now);
        if self.store.post(subject, &id, &body).await? {
            let (scope, meter) = (warning.set.scope.as_str(), warning.meter.as_str());
            self.metrics.budget_warned(scope, meter);
            tracing::warn!(scope, of = %warning.set.id, limit = meter, "a budget is nearly spent");
        }
        Ok(())
    }

    async fn send(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        let Some(webhook) = &self.webhook else {
            return Ok(());
        };
        while !stop.is_cancelled()
            && let Some(notice) = self.store.take_notice(HOLD).await?
        {
            let (id, tries) = (notice.id.clone(), notice.tries);
            let sent = match deliver(webhook, notice).await {
                Ok(()) => Sent::Taken,
                Err(reason) => {
                    let sent = next(tries);
                    tracing::warn!(notice = %id, tries, %reason, ?sent, "a webhook was not taken");
                    sent
                }
            };
            self.metrics.webhook_sent(match sent {
                Sent::Taken => "taken",
                Sent::Again(_) => "failed",
                Sent::Never => "given_up",
            });
            self.store.sent(&id, sent).await?;
        }
        Ok(())
    }
}

/// The client blocks, and notices are few.
async fn deliver(webhook: &Arc<Webhook>, notice: Notice) -> Result<(), String> {
    let webhook = Arc::clone(webhook);
    let sending = tokio::task::spawn_blocking(move || webhook.deliver(&notice));
    sending.await.unwrap_or_else(|fault| Err(fault.to_string()))
}

fn next(tries: u32) -> Sent {
    let done = usize::try_from(tries.saturating_sub(1)).unwrap_or(usize::MAX);
    PAUSES
        .get(done)
        .map_or(Sent::Never, |pause| Sent::Again(*pause))
}

/// What it is about: the same on each replica.
fn subject(set: &LimitSet, meter: Meter, begins: Timestamp) -> String {
    let model = set.model.as_deref().unwrap_or_default();
    let (scope, limit) = (set.scope.as_str(), meter.as_str());
    format!("budget.warning/{scope}/{}/{model}/{limit}/{begins}", set.id)
}

fn spender(set: &LimitSet) -> Spender {
    Spender {
        scope: set.scope,
        id: Arc::clone(&set.id),
        model: set.model.as_deref().map(Into::into),
    }
}

impl Warning<'_> {
    /// In the form of OpenAI's webhook events.
    fn body(&self, id: &str, now: Timestamp) -> String {
        json!({
            "id": id,
            "object": "event",
            "type": "budget.warning",
            "created_at": now.as_second(),
            "data": {
                "scope": self.set.scope.as_str(),
                "id": self.set.id,
                "model": self.set.model,
                "limit": self.meter.as_str(),
                "window_start": self.begins.as_second(),
                "spent": self.spent.to_string(),
                "warn_at": self.warn.to_string(),
                "budget": self.limit.map(|limit| limit.to_string()),
            },
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_tried_ten_times_over_two_days_and_given_up() {
        let pauses: Vec<_> = (1..)
            .map(next)
            .take_while(|sent| *sent != Sent::Never)
            .collect();
        assert_eq!(pauses.first(), Some(&Sent::Again(Duration::from_secs(5))));
        assert_eq!(pauses.len(), 9);
        assert_eq!(next(10), Sent::Never);
    }
}
