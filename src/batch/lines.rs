use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::line::Job;
use super::validate::is_blank;
use super::{Halt, LONGEST_LINE, Work};
use crate::files::{FileReader, Lines};
use crate::types::{BatchLine, BatchStatus};

type Running = JoinSet<Result<(), Halt>>;

/// Lines that are looked up at once.
const PAGE: u32 = 1000;

impl Work {
    /// Answers the lines that have no answer yet, until all have one or no more is to be begun. What is under way then comes
    /// to its end, unless another replica may have the batch.
    pub(super) async fn answer_lines(&self) -> Result<(), Halt> {
        let mut running = JoinSet::new();
        let begun = self.begin_lines(&mut running).await;
        // What is under way comes to its end, whatever has become of the others: what it costs is on its way to the ledger.
        let mut ended = begun;
        if ended.is_err() {
            self.close.cancel();
        }
        let left = tokio::time::sleep(self.left());
        let mut left = std::pin::pin!(left);
        while !running.is_empty() {
            tokio::select! {
                () = self.lost.cancelled() => return Err(Halt::Lost),
                () = &mut left, if !self.close.is_cancelled() => self.close.cancel(),
                Some(done) = running.join_next() => ended = ended.and(finished(done)),
            }
        }
        ended
    }

    async fn begin_lines(&self, running: &mut Running) -> Result<(), Halt> {
        // Of a batch that is given up, or late, those alone of which an answer was charged and lost.
        let lost_alone = self.batch.status == BatchStatus::Cancelling || self.is_late();
        let mut begun = self.begun().await?;
        let store = Arc::clone(&self.runner.store);
        let reader = FileReader::open(store, &self.batch.input).await?;
        let mut lines = Lines::of(reader, LONGEST_LINE);
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
            let lost = self.is_lost(before.as_ref()).await?;
            if lost_alone && !lost {
                continue;
            }
            while running.len() >= most && !self.close.is_cancelled() {
                tokio::select! {
                    () = self.close.cancelled() => {}
                    () = &mut deadline => self.close.cancel(),
                    Some(done) = running.join_next() => finished(done)?,
                }
            }
            // With its place, so that no more lines are held in memory than are under way.
            let room = Arc::clone(&self.runner.room).acquire_owned();
            let room = tokio::select! {
                () = self.runner.batches.stop.cancelled() => break,
                () = self.lost.cancelled() => break,
                // Behind it there may be one of which an answer was charged and lost.
                () = self.close.cancelled(), if !lost => continue,
                room = room => room.map_err(|_| Halt::Stopped)?,
            };
            let job = Job {
                runner: Arc::clone(&self.runner),
                batch: self.batch.id.clone(),
                caller: self.batch.caller.clone(),
                endpoint: self.batch.endpoint,
                close: self.close.clone(),
                lost,
                number,
                text,
            };
            running.spawn(job.run(room));
        }
        Ok(())
    }

    /// Whether an answer to it was charged, and lost.
    async fn is_lost(&self, before: Option<&BatchLine>) -> Result<bool, Halt> {
        match before {
            None => Ok(false),
            Some(line) if line.paid => Ok(true),
            Some(line) => Ok(self.runner.store.is_paid(&line.request).await?),
        }
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
fn finished(done: Result<Result<(), Halt>, tokio::task::JoinError>) -> Result<(), Halt> {
    match done {
        Ok(done) => done,
        Err(_) => Err(Halt::Stopped),
    }
}
