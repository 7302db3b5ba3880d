//! The closed loop: a fixed number of readers, each of which asks again once it is answered.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::{
    client::{Answer, Client},
    figures::histogram,
    target::Target,
};

/// What one measurement saw. Wrong answers count as failures and give no tokens.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    pub(crate) answers: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) first_text_us: Histogram<u64>,
    pub(crate) gap_us: Histogram<u64>,
    pub(crate) failures: Vec<String>,
}

impl Sample {
    fn new() -> Result<Self> {
        Ok(Self {
            wall: Duration::ZERO,
            answers: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            first_text_us: histogram()?,
            gap_us: histogram()?,
            failures: Vec::new(),
        })
    }

    pub(crate) fn tokens_per_second(&self) -> f64 {
        self.completion_tokens as f64 / self.wall.as_secs_f64()
    }

    fn add(&mut self, answer: Result<Answer>, tokens: u32) {
        if let Err(error) = answer.and_then(|answer| self.count(&answer, tokens)) {
            self.failures.push(format!("{error:#}"));
        }
    }

    fn count(&mut self, answer: &Answer, tokens: u32) -> Result<()> {
        let got = answer.usage.completion_tokens;
        ensure!(got == u64::from(tokens), "{got} tokens instead of {tokens}");
        let first_text = answer.first_text()?;
        self.answers += 1;
        self.prompt_tokens += answer.usage.prompt_tokens;
        self.cached_tokens += answer.usage.cached_tokens();
        self.completion_tokens += answer.usage.completion_tokens;
        self.first_text_us.saturating_record(micros(first_text));
        for gap in answer.gaps() {
            self.gap_us.saturating_record(micros(gap));
        }
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Asks each prompt once, in order, `concurrency` at a time. Dropping the future ends the load.
pub(crate) async fn run(
    target: &Target,
    prompts: &[String],
    concurrency: usize,
    tokens: u32,
) -> Result<Sample> {
    // A client of its own: no connection of an earlier measurement is about to be closed under it.
    let client = Client::new();
    let bodies: Vec<_> = prompts
        .iter()
        .map(|prompt| target.chat(prompt, tokens))
        .collect();
    let queue = Arc::new(Mutex::new(bodies.into_iter()));
    let sample = Arc::new(Mutex::new(Sample::new()?));
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for _ in 0..concurrency {
        let (client, target) = (client.clone(), target.clone());
        let (queue, sample) = (queue.clone(), sample.clone());
        readers.spawn(async move {
            loop {
                let Some(body) = queue.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                    return;
                };
                let answer = client.chat(&target, body).await;
                sample
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(answer, tokens);
            }
        });
    }
    while let Some(reader) = readers.join_next().await {
        reader?;
    }
    let wall = start.elapsed();
    let sample = Arc::into_inner(sample).ok_or_else(|| anyhow!("a reader still runs"))?;
    let mut sample = sample.into_inner().unwrap_or_else(PoisonError::into_inner);
    sample.wall = wall;
    Ok(sample)
}
