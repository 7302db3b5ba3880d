//! The clients.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{task::JoinSet, time::timeout};

use super::{
    Args, Targets,
    books::{End, Seen},
    plan::{Cut, Plan},
    watch::{Reading, Watch},
};
use crate::{
    client::{Client, Usage},
    target::Target,
};

/// What the load saw.
pub(super) struct Loaded {
    pub(super) wall: Duration,
    pub(super) seen: Seen,
    pub(super) readings: Vec<Reading>,
}

struct Shared {
    next: u32,
    seen: Seen,
    watch: Watch,
    /// How long answers take that nobody cuts off: what cuts are measured by.
    usual: Duration,
}

const FIRST_GUESS: Duration = Duration::from_secs(3);
/// The weight of the newest answer in what is usual.
const NEWEST: f64 = 0.05;

pub(super) async fn run(args: &Args, targets: &Targets, process: u32) -> Result<Loaded> {
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} requests ({elapsed}, {eta} left)")?;
    let bar = ProgressBar::new(args.requests.into()).with_style(style);
    let start = Instant::now();
    let shared = Arc::new(Mutex::new(Shared {
        next: 0,
        seen: Seen::default(),
        watch: Watch::new(process, args.requests),
        usual: FIRST_GUESS,
    }));
    let mut clients = JoinSet::new();
    for _ in 0..args.concurrency {
        let (shared, bar) = (shared.clone(), bar.clone());
        let targets = [targets.whole.clone(), targets.cut.clone()];
        let (seed, requests) = (args.seed, args.requests);
        clients.spawn(async move {
            let client = Client::new();
            while let Some((number, usual)) = next(&shared, requests) {
                let plan = Plan::new(seed, number);
                let target = &targets[usize::from(plan.cut.is_some())];
                let asked = Instant::now();
                let end = ask(&client, target, &plan, usual).await;
                ended(&shared, end, &plan, asked.elapsed())?;
                bar.inc(1);
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    bar.finish_and_clear();
    let shared = Arc::into_inner(shared).ok_or_else(|| anyhow!("a client still runs"))?;
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Loaded {
        wall: start.elapsed(),
        seen: shared.seen,
        readings: shared.watch.readings,
    })
}

fn next(shared: &Mutex<Shared>, requests: u32) -> Option<(u32, Duration)> {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let number = shared.next;
    shared.next += 1;
    (number < requests).then_some((number, shared.usual))
}

fn ended(shared: &Mutex<Shared>, end: End, plan: &Plan, took: Duration) -> Result<()> {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if plan.cut.is_none() {
        shared.usual = shared.usual.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST);
    }
    shared.seen.add(end, plan.cut.is_some(), plan.max_tokens);
    shared.watch.one_more()
}

async fn ask(client: &Client, target: &Target, plan: &Plan, usual: Duration) -> End {
    let mut pieces = 0;
    let answer = answer(client, target, plan, &mut pieces);
    let answer = match plan.cut {
        // Where the time is up, its future is dropped, and with it the connection.
        Some(Cut::AfterShare(share)) => timeout(usual.mul_f64(share), answer).await,
        Some(Cut::AfterPieces(_)) | None => Ok(answer.await),
    };
    match answer {
        Ok(Ok(Some(usage))) => End::Whole(usage),
        Ok(Ok(None)) | Err(_) => End::Cut { pieces },
        Ok(Err(error)) => End::Failed(format!("{error:#}")),
    }
}

/// None where the client left. `pieces` is how many pieces of text it got, at any moment.
async fn answer(
    client: &Client,
    target: &Target,
    plan: &Plan,
    pieces: &mut u64,
) -> Result<Option<Usage>> {
    let body = plan.body(&target.model);
    if !plan.streamed {
        return client.whole(target, body).await.map(Some);
    }
    let mut reading = client.open(target, body).await?;
    while reading.more().await? {
        *pieces = reading.texts().len() as u64;
        if let Some(Cut::AfterPieces(most)) = plan.cut
            && reading.texts().len() >= most
        {
            return Ok(None);
        }
    }
    Ok(Some(reading.finish()?.usage))
}
