use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;

use super::model::{Model, backend};
use super::sequence::{Job, Next, Sequence};
use crate::telemetry::WorkerMetrics;
use crate::types::Failure;

/// Tokens of one step when nobody generates: prompts go through as fast as they can.
const FULL_STEP: usize = 512;
/// How often a loop whose every reader is slow looks again.
const SLOW_READERS: Duration = Duration::from_millis(2);

/// How the loop batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) slots: usize,
    pub(super) step_tokens: usize,
    pub(super) threads: usize,
}

/// The loop: each step computes one token of every sequence that generates and some of the prompts that are
/// still to be read. Requests join and leave between steps.
pub(super) struct Engine<'a> {
    model: &'a Model,
    context: LlamaContext<'a>,
    batch: LlamaBatch<'a>,
    /// A sequence's index is its id in the context. llama.cpp splits a batch by runs of consecutive ids, so
    /// the lowest free one is given out and the batch is filled in their order.
    slots: Vec<Option<Sequence>>,
    /// The ids of sequences whose prompt isn't read, in the order they came.
    reading: VecDeque<usize>,
    waiting: VecDeque<Job>,
    queue: &'a Receiver<Job>,
    settings: Settings,
    metrics: WorkerMetrics,
}

impl<'a> Engine<'a> {
    pub(super) fn new(
        model: &'a Arc<Model>,
        settings: Settings,
        queue: &'a Receiver<Job>,
        metrics: WorkerMetrics,
    ) -> Result<Self, String> {
        let slots = u32::try_from(settings.slots).map_err(|error| error.to_string())?;
        let threads = i32::try_from(settings.threads).map_err(|error| error.to_string())?;
        let step = FULL_STEP.max(settings.slots + settings.step_tokens);
        let batch = u32::try_from(step).map_err(|error| error.to_string())?;
        let cells = model
            .context_tokens
            .checked_mul(slots)
            .ok_or("slots times context_tokens is too much")?;
        let parameters = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(cells))
            .with_n_batch(batch)
            .with_n_ubatch(batch)
            .with_n_seq_max(slots)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            // A stream of its own for each sequence: attention walks its cells alone.
            .with_kv_unified(false)
            .with_no_perf(true);
        let context = model
            .weights
            .new_context(backend()?, parameters)
            .map_err(|error| {
                format!("llama.cpp can't make a context of {cells} tokens: {error}")
            })?;
        Ok(Self {
            model,
            context,
            batch: LlamaBatch::new(step, 1),
            slots: std::iter::repeat_with(|| None)
                .take(settings.slots)
                .collect(),
            reading: VecDeque::new(),
            waiting: VecDeque::new(),
            queue,
            settings,
            metrics,
        })
    }

    /// Steps until the last handle is gone and everything is answered.
    pub(super) fn run(mut self) {
        let mut open = true;
        while open || self.running() > 0 {
            open = self.gather();
            self.drop_cancelled();
            self.admit();
            self.report();
            self.step();
        }
    }

    /// Takes what has come; waits only where there is nothing else to do. False once nothing more will.
    fn gather(&mut self) -> bool {
        let idle = self.running() == 0 && self.waiting.is_empty();
        let stuck = !idle
            && self.reading.is_empty()
            && !self.slots.iter().flatten().any(Sequence::can_decode);
        if idle {
            self.report();
            match self.queue.recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(_) => return false,
            }
        } else if stuck {
            match self.queue.recv_timeout(SLOW_READERS) {
                Ok(job) => self.waiting.push_back(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match self.queue.try_recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn drop_cancelled(&mut self) {
        self.waiting.retain(|job| !job.is_cancelled());
        for id in 0..self.slots.len() {
            if self.slots[id].as_ref().is_some_and(Sequence::is_cancelled) {
                self.release(id);
            }
        }
    }

    fn admit(&mut self) {
        while let Some(id) = self.slots.iter().position(Option::is_none) {
            let Some(job) = self.waiting.pop_front() else {
                return;
            };
            if let Some(sequence) = Sequence::start(job, self.model) {
                self.slots[id] = Some(sequence);
                self.reading.push_back(id);
            }
        }
    }

    fn step(&mut self) {
        let sampled = self.fill();
        if self.batch.n_tokens() == 0 {
            return;
        }
        self.metrics.steps.inc();
        if let Err(error) = self.context.decode(&mut self.batch) {
            self.fail_all(&format!("llama.cpp could not compute a step: {error}"));
            return;
        }
        for (id, row) in sampled {
            let Some(sequence) = self.slots[id].as_mut() else {
                continue;
            };
            self.metrics.decode_tokens.inc();
            if sequence.sample(self.context.get_logits_ith(row), self.model) == Next::Leaves {
                self.release(id);
            }
        }
    }

    /// Fills the batch, and gives the sequences to be sampled with their rows in it.
    fn fill(&mut self) -> Vec<(usize, i32)> {
        let shares = self.shares();
        self.batch.clear();
        let mut sampled = Vec::new();
        for (id, share) in shares.into_iter().enumerate() {
            let Some(sequence) = self.slots[id].as_mut().filter(|_| share > 0) else {
                continue;
            };
            let (tokens, position, ends) = sequence.feed(share);
            for (offset, token) in tokens.iter().enumerate() {
                let last = ends && offset + 1 == tokens.len();
                let place = i32::try_from(position + offset).unwrap_or(i32::MAX);
                let lane = i32::try_from(id).unwrap_or(i32::MAX);
                if self.batch.add(*token, place, &[lane], last).is_err() {
                    // The shares add up to no more than the batch was made for.
                    tracing::error!("the batch has no room for its own plan");
                }
            }
            if ends {
                sampled.push((id, self.batch.n_tokens() - 1));
                self.reading.retain(|reading| *reading != id);
            }
        }
        sampled
    }

    /// How many tokens each sequence may bring to this step.
    fn shares(&self) -> Vec<usize> {
        let mut shares: Vec<_> = self
            .slots
            .iter()
            .map(|slot| usize::from(slot.as_ref().is_some_and(Sequence::can_decode)))
            .collect();
        let decoding: usize = shares.iter().sum();
        let mut left = if decoding == 0 {
            FULL_STEP
        } else {
            self.settings.step_tokens
        };
        let mut computed = 0;
        for id in &self.reading {
            let wanted = self.slots[*id].as_ref().map_or(0, Sequence::prompt_left);
            shares[*id] = wanted.min(left);
            left -= shares[*id];
            computed += shares[*id];
        }
        self.metrics.prefill_tokens.inc_by(computed as u64);
        shares
    }

    fn fail_all(&mut self, reason: &str) {
        tracing::error!(reason, "the engine's step failed");
        for id in 0..self.slots.len() {
            if let Some(sequence) = &self.slots[id] {
                sequence.fail(Failure::Broken(reason.to_owned()));
                self.release(id);
            }
        }
    }

    fn release(&mut self, id: usize) {
        self.slots[id] = None;
        self.reading.retain(|reading| *reading != id);
        if let Ok(lane) = u32::try_from(id)
            && let Err(error) = self.context.clear_kv_cache_seq(Some(lane), None, None)
        {
            tracing::error!(%error, "a sequence's cells could not be cleared");
        }
    }

    fn running(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn report(&self) {
        self.metrics.running.set(self.running() as i64);
        self.metrics.waiting.set(self.waiting.len() as i64);
    }
}
