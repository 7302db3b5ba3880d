//! Answers that are read beside what is measured, until they are dropped.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::{task::JoinSet, time::sleep};

use crate::{client::Client, target::Target};

const POLL: Duration = Duration::from_millis(10);

/// Some readers, and when each got its pieces of text. Its drop ends them, which cancels their requests.
pub(super) struct Streams {
    readers: JoinSet<Result<()>>,
    logs: Vec<Log>,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Instant>>>);

impl Streams {
    /// One reader for each list of requests, which it asks one after another.
    pub(super) fn start<Asks>(target: &Target, readers: impl IntoIterator<Item = Asks>) -> Self
    where
        Asks: Iterator<Item = Bytes> + Send + 'static,
    {
        let mut streams = Self {
            readers: JoinSet::new(),
            logs: Vec::new(),
        };
        let client = Client::new();
        for asks in readers {
            let log = Log::default();
            streams.logs.push(log.clone());
            let (client, target) = (client.clone(), target.clone());
            streams.readers.spawn(async move {
                for body in asks {
                    read(&client, &target, body, &log).await?;
                }
                Ok(())
            });
        }
        streams
    }

    /// Returns once every reader has so many pieces of text.
    pub(super) async fn each_has(&mut self, pieces: usize) -> Result<()> {
        while self.logs.iter().any(|log| log.len() < pieces) {
            self.still_run().await?;
            sleep(POLL).await;
        }
        Ok(())
    }

    /// An error where a reader failed, or has nothing left to ask.
    pub(super) async fn still_run(&mut self) -> Result<()> {
        match self.readers.try_join_next() {
            None => Ok(()),
            Some(ended) => {
                ended?.context("a stream beside the measured one failed")?;
                bail!("a stream ended before the measurement did")
            }
        }
    }

    /// When each reader got its pieces of text, so far.
    pub(super) fn texts(&self) -> Vec<Vec<Instant>> {
        self.logs.iter().map(Log::copy).collect()
    }

    /// Pieces of text that came after `from`, up to `to`.
    pub(super) fn count_between(&self, from: Instant, to: Instant) -> usize {
        let texts = self.texts();
        let all = texts.iter().flatten();
        all.filter(|text| (from..to).contains(*text)).count()
    }
}

impl Log {
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn copy(&self) -> Vec<Instant> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn extend(&self, texts: &[Instant]) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(texts);
    }
}

async fn read(client: &Client, target: &Target, body: Bytes, log: &Log) -> Result<()> {
    let mut reading = client.open(target, body).await?;
    let mut logged = 0;
    while reading.more().await? {
        let texts = reading.texts();
        log.extend(&texts[logged..]);
        logged = texts.len();
    }
    reading.finish().map(drop)
}
