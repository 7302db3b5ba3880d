use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::line::Job;
use super::validate::is_blank;
use super::{Halt, LONGEST_LINE, Work};
use crate::files::{FileReader, Lines};
use crate::types::BatchLine;

/// Lines that are looked up at once.
const PAGE: u32 = 1000;

impl Work {
    /// Answers the lines that have no answer yet, until all have one or no more is to be begun. What is under way then comes
    /// to its end, unless another replica may have the batch.
    pub(super) async fn answer_lines(&self) -> Result<(), Halt> {
        let mut begun = self.begun().await?;
        let store = Arc::clone(&self.runner.store);
        let reader = FileReader::open(store, &self.batch.input).await?;
        let mut lines = Lines::of(reader, LONGEST_LINE);
        let mut running: JoinSet<Result<(), Halt>> = JoinSet::new();
        let most = self.runner.batches.options.lines_at_once;
        let mut number = 0;
        let deadline = tokio::time::sleep(self.left());
        let mut deadline = std::pin::pin!(deadline);
        while let Some(Some(text)) = lines.next().await? {
            number += 1;
            let before = begun.remove(&number);
            let done = before.as_ref().is_some_and(|line| line.outcome.is_some());
            if done || is_blank(&text) {
                continue;
            }
            while running.len() >= most && !self.close.is_cancelled() {
                tokio::select! {
                    () = self.close.cancelled() => {}
                    () = &mut deadline => self.close.cancel(),
                    Some(done) = running.join_next() => ended(done)?,
                }
            }
            if self.close.is_cancelled() {
                break;
            }
            let job = Job {
                runner: Arc::clone(&self.runner),
                batch: self.batch.id.clone(),
                caller: self.batch.caller.clone(),
                endpoint: self.batch.endpoint,
                close: self.close.clone(),
                number,
                text,
            };
            running.spawn(job.run(before));
        }
        while !running.is_empty() {
            tokio::select! {
                () = self.lost.cancelled() => return Err(Halt::Lost),
                () = &mut deadline, if !self.close.is_cancelled() => self.close.cancel(),
                Some(done) = running.join_next() => ended(done)?,
            }
        }
        Ok(())
    }

    fn left(&self) -> Duration {
        let left = self.batch.expires.duration_since(Timestamp::now());
        left.try_into().unwrap_or_default()
    }

    /// The lines that were begun before, in this life of the process or in another.
    async fn begun(&self) -> Result<HashMap<u64, BatchLine>, Halt> {
        let mut begun = HashMap::new();
        let mut after = 0;
        loop {
            let store = &self.runner.store;
            let page = store
                .batch_lines(&self.batch.id, after, PAGE, false)
                .await?;
            let Some(last) = page.last() else {
                return Ok(begun);
            };
            after = last.line;
            begun.extend(page.into_iter().map(|line| (line.line, line)));
        }
    }
}

/// A line whose task had a fault is asked again later.
fn ended(done: Result<Result<(), Halt>, tokio::task::JoinError>) -> Result<(), Halt> {
    match done {
        Ok(done) => done,
        Err(_) => Err(Halt::Stopped),
    }
}
