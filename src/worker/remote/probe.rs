//! How a worker is, as it says itself: asked again and again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Error};
use super::dialect::Traits;
use crate::worker::Health;

/// A health answer or a page of metrics longer than this is none.
const LONGEST: usize = 4 << 20;
/// A worker is down once it failed so often in a row: one lost answer is none of its fault.
const DOWN_AFTER: u32 = 2;
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What is known of a worker.
pub(super) struct Status {
    health: Mutex<Health>,
    waiting: AtomicU32,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            health: Mutex::new(Health::Loading),
            waiting: AtomicU32::new(0),
        }
    }
}

impl Status {
    pub(super) fn health(&self) -> Health {
        self.lock().clone()
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn set(&self, name: &str, health: Health) {
        let mut now = self.lock();
        if *now != health {
            match &health {
                Health::Ready => tracing::info!(worker = name, "can be asked"),
                Health::Failed(reason) => tracing::warn!(worker = name, reason, "can't be asked"),
                Health::Loading => {}
            }
            *now = health;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks until it is told to stop.
pub(super) async fn run(
    name: String,
    client: Arc<Client>,
    traits: Traits,
    metrics: Option<Uri>,
    every: Duration,
    status: Arc<Status>,
    stop: CancellationToken,
) {
    let mut failures = 0;
    let mut ask = async || {
        match once(&client, &traits).await {
            Ok(()) => {
                failures = 0;
                status.set(&name, Health::Ready);
            }
            Err(reason) => {
                failures += 1;
                if failures >= DOWN_AFTER || status.health() == Health::Loading {
                    status.set(&name, Health::Failed(reason));
                }
            }
        }
        if !traits.waiting.is_empty() && status.health() == Health::Ready {
            let waiting = waiting(&client, &traits, metrics.clone()).await;
            status
                .waiting
                .store(waiting.unwrap_or(0), Ordering::Relaxed);
        }
    };
    loop {
        let round = async {
            ask().await;
            tokio::time::sleep(every).await;
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

async fn once(client: &Client, traits: &Traits) -> Result<(), String> {
    let uri = client
        .at(traits.health)
        .map_err(|error| error.to_string())?;
    let asked = tokio::time::timeout(LONGEST_WAIT, client.get(uri, LONGEST)).await;
    match asked {
        Err(_) => Err("it does not answer when it is asked how it is".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok((status, _))) if status == 200 || traits.health_is_lenient && status < 500 => Ok(()),
        Ok(Ok((status, _))) => Err(format!("{} answers with {status}", traits.health)),
    }
}

async fn waiting(client: &Client, traits: &Traits, uri: Option<Uri>) -> Result<u32, Error> {
    let uri = match uri {
        Some(uri) => uri,
        None => client.at("/metrics")?,
    };
    let asked = tokio::time::timeout(LONGEST_WAIT, client.get(uri, LONGEST)).await;
    let (_, page) = asked.map_err(|_| Error::Broken)??;
    Ok(sum(&String::from_utf8_lossy(&page), traits.waiting))
}

/// The sum of these metrics over all their labels.
fn sum(page: &str, names: &[&str]) -> u32 {
    let value = |line: &str| {
        let (name, rest) = line.split_at(line.find(['{', ' '])?);
        let value = rest.rsplit_once('}').map_or(rest, |(_, value)| value);
        let value = value.split_whitespace().next()?.parse::<f64>().ok()?;
        names.contains(&name).then_some(value)
    };
    let sum: f64 = page.lines().filter_map(value).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates"
    )]
    let sum = sum as u32;
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_summed_over_labels() {
        let page = "# HELP vllm:num_requests_waiting x\n# TYPE vllm:num_requests_waiting gauge\n\
            vllm:num_requests_waiting{engine=\"0\",model_name=\"a} b\"} 3.0\n\
            vllm:num_requests_waiting{engine=\"1\",model_name=\"a\"} 4.0 1700000000\n\
            vllm:num_requests_waiting_other 50\nvllm:num_requests_running 7\n";
        assert_eq!(sum(page, &["vllm:num_requests_waiting"]), 7);
        assert_eq!(
            sum(
                "llamacpp:requests_deferred 2\n",
                &["llamacpp:requests_deferred"]
            ),
            2
        );
        assert_eq!(sum("", &["x"]), 0);
    }
}
