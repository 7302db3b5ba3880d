//! The encoder's thread: requests come in between batches, and leave when their last row is computed or
//! nobody waits for it any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::sync::oneshot;

use super::batch::{self, Batch, Pending};
use super::encoder::Encoder;
use super::tokens::{Row, broken, gone, saturating};
use crate::telemetry::WorkerMetrics;
use crate::types::{Embedded, Failure, Precision, Progress};

/// One request on its way.
pub(super) struct Job {
    pending: Pending,
    /// Empty ones stand where a row is still pending.
    vectors: Vec<Vec<f32>>,
    dimensions: Option<u32>,
    prompt_tokens: u32,
    progress: Arc<Progress>,
    reply: oneshot::Sender<Result<Embedded, Failure>>,
}

impl Job {
    pub(super) fn new(
        rows: Vec<Row>,
        (dimensions, precision): (Option<u32>, Precision),
        progress: Arc<Progress>,
        reply: oneshot::Sender<Result<Embedded, Failure>>,
    ) -> Self {
        Self {
            prompt_tokens: saturating(rows.iter().map(Row::len).sum()),
            vectors: vec![Vec::new(); rows.len()],
            pending: Pending::new(rows, precision),
            dimensions,
            progress,
            reply,
        }
    }

    fn is_wanted(&self) -> bool {
        !self.reply.is_closed() && !self.progress.is_closed()
    }

    /// Whoever asked may have gone.
    fn reply(self, failure: Option<Failure>) {
        let embedded = Embedded {
            vectors: self.vectors,
            prompt_tokens: self.prompt_tokens,
        };
        let _gone = self.reply.send(failure.map_or(Ok(embedded), Err));
    }
}

/// The requests that are being computed.
pub(super) struct Queue<'a> {
    incoming: &'a Receiver<Job>,
    /// Whose turn it is stands first. Never empty while a batch is computed.
    jobs: VecDeque<Job>,
    slots: usize,
    metrics: WorkerMetrics,
}

impl<'a> Queue<'a> {
    pub(super) fn new(incoming: &'a Receiver<Job>, slots: usize, metrics: WorkerMetrics) -> Self {
        Self {
            incoming,
            jobs: VecDeque::new(),
            slots,
            metrics,
        }
    }

    /// Runs until the last sender is gone.
    pub(super) fn run(mut self, encoder: &Encoder) {
        while self.wait() {
            self.step(encoder);
            self.metrics.running.set(gauge(self.jobs.len()));
        }
    }

    /// Takes in what has come, and waits where there is nothing to do. False at the end.
    fn wait(&mut self) -> bool {
        loop {
            self.jobs.retain(Job::is_wanted);
            while self.jobs.len() < self.slots {
                match self.incoming.try_recv() {
                    Ok(job) => self.start(job),
                    Err(_) => break,
                }
            }
            self.metrics.running.set(gauge(self.jobs.len()));
            if !self.jobs.is_empty() {
                return true;
            }
            match self.incoming.recv() {
                Ok(job) => self.start(job),
                Err(_) => return false,
            }
        }
    }

    fn start(&mut self, job: Job) {
        if job.is_wanted() && job.progress.start(job.prompt_tokens) {
            self.jobs.push_back(job);
        } else {
            job.reply(Some(gone()));
        }
    }

    /// Computes one batch and lets go who has got everything.
    fn step(&mut self, encoder: &Encoder) {
        let Batch {
            places,
            rows,
            precision,
        } = batch::next(&mut self.jobs, |job| &mut job.pending);
        let tokens: usize = rows.iter().map(Row::len).sum();
        let failure = match encoder.compute(&rows, precision) {
            Ok(vectors) => {
                for (place, vector) in places.iter().zip(vectors) {
                    let job = &mut self.jobs[place.request];
                    job.vectors[place.input] = encoder.finish(vector, job.dimensions);
                }
                None
            }
            Err(error) => Some(broken(&error)),
        };
        self.metrics.steps.inc();
        self.metrics
            .prefill_tokens
            .inc_by(u64::from(saturating(tokens)));
        let is_in_batch = |index| places.iter().any(|place| place.request == index);
        // Whoever stood first goes behind the others.
        let (mut others, mut first) = (VecDeque::with_capacity(self.jobs.len()), None);
        for (index, job) in self.jobs.drain(..).enumerate() {
            if failure.is_some() && is_in_batch(index) {
                job.reply(failure.clone());
            } else if job.pending.is_empty() {
                job.reply(None);
            } else if index == 0 {
                first = Some(job);
            } else {
                others.push_back(job);
            }
        }
        others.extend(first);
        self.jobs = others;
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
