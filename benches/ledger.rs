//! What the ledger takes and adds: charges a second, and how long the end of an answer waits for its charge to be on
//! disk, at 1, 16 and 256 answers that end at once, on SQLite and on PostgreSQL. `make bench-ledger`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that measures, and prints what it measured"
)]

#[path = "../tests/support/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::metering::{Metering, Options};
use forebay::store;
use forebay::telemetry::Metrics;
use forebay::types::{
    Caller, Class, Endpoint, Flown, Ledger, Membership, Paying, Price, RequestId, Usage,
};
use jiff::Timestamp;

const AT_ONCE: [usize; 3] = [1, 16, 256];
/// How long each is measured.
const RUN: Duration = Duration::from_secs(5);

fn flown() -> Flown {
    Flown {
        request: RequestId::mint(),
        attempt: 1,
        caller: Caller {
            organisation: "org_default".into(),
            project: "proj_bench".into(),
            key: "key_bench".into(),
        },
        end_user: None,
        model: "m".into(),
        revision: "r".into(),
        route: None,
        worker: "w".into(),
        endpoint: Endpoint::Chat,
        class: Class::Standard,
        price: Arc::new(Price::named([1, 1, 1], 0)),
        started: Timestamp::now(),
    }
}

/// So many clients, each of which settles one answer after another. Gives how long each settlement took.
async fn settle(metering: &Metering, at_once: usize) -> Vec<Duration> {
    let usage = Usage {
        prompt_tokens: 100,
        cached_tokens: 0,
        completion_tokens: 50,
        reasoning_tokens: 0,
    };
    let end = Instant::now() + RUN;
    let clients: Vec<_> = (0..at_once)
        .map(|_| {
            let metering = metering.clone();
            tokio::spawn(async move {
                let mut waits = Vec::new();
                while Instant::now() < end {
                    let admission = metering.admit().unwrap();
                    let mut flight = metering.dispatch(admission, flown(), Paying::AsItGoes, None);
                    let start = Instant::now();
                    flight.settle(usage).await.unwrap();
                    waits.push(start.elapsed());
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for client in clients {
        waits.extend(client.await.unwrap());
    }
    waits.sort_unstable();
    waits
}

async fn measure(name: &str, url: &str) {
    let ledger: Arc<dyn Ledger> = store::open(url).await.unwrap();
    let membership = Arc::new(Membership::new("bench".into()));
    ledger.join(&membership.now()).await.unwrap();
    let options = Options {
        max_open: 8192,
        hold: Duration::from_secs(10),
        lease: None,
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let (metering, writer) = Metering::start(ledger, membership, metrics, &options);
    for at_once in AT_ONCE {
        let waits = settle(&metering, at_once).await;
        let at = |share: usize| waits[(waits.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "thousands of charges")]
        let rate = waits.len() as f64 / RUN.as_secs_f64();
        println!(
            "| {name} | {at_once} | {rate:.0} | {:.2} | {:.2} |",
            at(50),
            at(99)
        );
    }
    drop(metering);
    writer.await.unwrap();
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = postgres::Cluster::start(false);
    println!(
        "| store | at once | charges/s | p50, ms | p99, ms |\n| --- | --- | --- | --- | --- |"
    );
    let sqlite = format!("sqlite://{}/bench.db", folder.path().display());
    measure("SQLite", &sqlite).await;
    measure("PostgreSQL", &cluster.database("bench")).await;
}
