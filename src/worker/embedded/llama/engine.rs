use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use llama_cpp_2::context::session::SeqState;

use super::super::sampling::Scratch;
use super::adapter;
use super::bank::{Bank, BankSettings, Stepped};
use super::model::Model;
use super::pace::Pace;
use super::prefix::{PrefixCache, Scope};
use super::sequence::{Common, Next, Request, Sequence, Task};
use super::urgency::{Turn, Turns, Urgency};
use crate::telemetry::WorkerMetrics;
use crate::types::{Adapter, Class, Failure};

/// How often a loop whose every reader is slow looks again.
const SLOW_READERS: Duration = Duration::from_millis(2);

/// How the loop batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) bank: BankSettings,
    /// Sequences of each adapter.
    pub(super) adapter_slots: usize,
    /// Adapters that are loaded at once.
    pub(super) adapters: usize,
    pub(super) prefix_cache_bytes: usize,
}

/// The loop: each step computes the next token of every sequence that generates and some of the prompts that are
/// still to be read. Requests join and leave between steps.
pub(super) struct Engine<'a> {
    model: &'a Model,
    /// The first is of the model as it is, each other of one adapter.
    banks: Vec<Bank<'a>>,
    waiting: VecDeque<Waiting>,
    /// A request waits until some adapter is idle.
    adapter_waits: bool,
    /// Made way in this very step.
    aside: Vec<Waiting>,
    prefixes: PrefixCache,
    pace: Pace,
    scratch: Scratch,
    queue: &'a Receiver<Request>,
    urgency: &'a Arc<Urgency>,
    turns: Turns,
    settings: Settings,
    metrics: WorkerMetrics,
}

/// What is to join a batch.
enum Waiting {
    /// Nothing of it is computed.
    Task(Task),
    /// It was put aside, or its prompt was computed for another choice.
    Saved(Box<Saved>),
}

struct Saved {
    sequence: Sequence,
    state: Rc<SeqState>,
    /// After its last token, where the next one is to be chosen at once.
    logits: Option<Rc<[f32]>>,
}

impl Waiting {
    fn common(&self) -> &Common {
        match self {
            Self::Task(task) => &task.common,
            Self::Saved(saved) => &saved.sequence.common,
        }
    }

    /// Tokens that it will hold at least.
    fn tokens(&self) -> usize {
        match self {
            Self::Task(task) => task.prompt.len(),
            Self::Saved(saved) => saved.sequence.held().len(),
        }
    }
}

impl<'a> Engine<'a> {
    pub(super) fn new(
        model: &'a Model,
        settings: Settings,
        queue: &'a Receiver<Request>,
        urgency: &'a Arc<Urgency>,
        metrics: WorkerMetrics,
    ) -> Result<Self, String> {
        let base = Bank::new(model, settings.bank, urgency)?;
        metrics.kv_cells_limit.set(base.cells_limit() as i64);
        Ok(Self {
            model,
            banks: vec![base],
            waiting: VecDeque::new(),
            adapter_waits: false,
            aside: Vec::new(),
            prefixes: PrefixCache::new(settings.prefix_cache_bytes, model.cuttable_tokens()),
            pace: Pace::new(settings.bank.step_tokens, settings.bank.prefill_percent),
            scratch: Scratch::default(),
            queue,
            urgency,
            turns: Turns::default(),
            settings,
            metrics,
        })
    }

    /// Steps until the last handle is gone and everything is answered.
    pub(super) fn run(mut self) {
        let mut open = true;
        while open || self.running() > 0 || !self.waiting.is_empty() {
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
        let first = if idle {
            self.report();
            self.queue.recv().map_err(RecvTimeoutError::from)
        } else if self.can_step() {
            self.queue.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        } else {
            self.queue.recv_timeout(SLOW_READERS)
        };
        match first {
            Ok(request) => {
                let come: Vec<_> = std::iter::once(request)
                    .chain(self.queue.try_iter())
                    .collect();
                let tasks = come.into_iter().flat_map(Request::split);
                self.waiting.extend(tasks.map(Waiting::Task));
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => {
                if !idle && !self.can_step() {
                    std::thread::park_timeout(SLOW_READERS);
                }
                false
            }
        }
    }

    fn drop_cancelled(&mut self) {
        self.waiting
            .retain(|waiting| !waiting.common().answer.is_cancelled());
        for bank in 0..self.banks.len() {
            let gone: Vec<_> = self.banks[bank]
                .sequences()
                .filter(|(_, sequence)| sequence.common.answer.is_cancelled())
                .map(|(id, _)| id)
                .collect();
            for id in gone {
                self.release(bank, id);
            }
        }
    }

    /// Lets in what there is room for: higher classes first, and within a class who came first.
    fn admit(&mut self) {
        self.adapter_waits = false;
        for class in [Class::Interactive, Class::Standard, Class::Batch] {
            let mut at = 0;
            while at < self.waiting.len() {
                let waiting = &self.waiting[at];
                if waiting.common().class() != class {
                    at += 1;
                    continue;
                }
                let (adapter, tokens) = (waiting.common().adapter().cloned(), waiting.tokens());
                match self.place(adapter.as_ref(), tokens, class) {
                    Ok(Some((bank, id))) => {
                        if let Some(waiting) = self.waiting.remove(at) {
                            self.join(bank, id, waiting);
                        }
                    }
                    Ok(None) => at += 1,
                    Err(failure) => {
                        if let Some(waiting) = self.waiting.remove(at) {
                            waiting.common().answer.fail(failure);
                        }
                    }
                }
            }
        }
        for waiting in self.aside.drain(..) {
            self.waiting.push_front(waiting);
        }
    }

    /// A free place for a sequence; one of the batch class makes way where that is needed.
    fn place(
        &mut self,
        adapter: Option<&Arc<Adapter>>,
        tokens: usize,
        class: Class,
    ) -> Result<Option<(usize, usize)>, Failure> {
        if adapter.is_some() && self.adapter_waits {
            return Ok(None);
        }
        let Some(bank) = self.bank(adapter)? else {
            return Ok(None);
        };
        if self.banks[bank].free(tokens).is_none() && class > Class::Batch {
            self.make_way(bank);
        }
        Ok(self.banks[bank].free(tokens).map(|id| (bank, id)))
    }

    /// The bank of an adapter, which is loaded where it isn't yet. `None` while every place for one is taken.
    fn bank(&mut self, adapter: Option<&Arc<Adapter>>) -> Result<Option<usize>, Failure> {
        let same = |bank: &Bank<'_>| bank.adapter.as_ref() == adapter;
        if let Some(found) = self.banks.iter().position(same) {
            return Ok(Some(found));
        }
        let Some(adapter) = adapter else {
            return Ok(None);
        };
        let full = self.banks.len() > self.settings.adapters;
        let mut idle = None;
        if full {
            idle = (1..self.banks.len())
                .filter(|bank| self.banks[*bank].running() == 0)
                .min_by_key(|bank| self.banks[*bank].idle_since);
        }
        if full && idle.is_none() {
            // Whoever comes later waits behind it, so that a bank runs empty.
            self.adapter_waits = true;
            return Ok(None);
        }
        let settings = BankSettings {
            slots: self.settings.adapter_slots,
            ..self.settings.bank
        };
        let bank =
            adapter::load(self.model, adapter, settings, self.urgency).map_err(Failure::Broken)?;
        // Only now: one that can't be loaded costs no other its place.
        if let Some(idle) = idle {
            self.banks.remove(idle);
        }
        self.banks.push(bank);
        self.metrics.adapters.set((self.banks.len() - 1) as i64);
        let cells: usize = self.banks.iter().map(Bank::cells_limit).sum();
        self.metrics.kv_cells_limit.set(cells as i64);
        Ok(Some(self.banks.len() - 1))
    }

    /// Puts aside the sequence of the batch class that holds least.
    fn make_way(&mut self, bank: usize) {
        let least = self.banks[bank]
            .sequences()
            .filter(|(_, sequence)| sequence.common.class() == Class::Batch)
            .min_by_key(|(_, sequence)| sequence.held().len())
            .map(|(id, _)| id);
        let Some(id) = least else {
            return;
        };
        match self.banks[bank].save(id) {
            Ok(state) => {
                if let Some(sequence) = self.banks[bank].release(id) {
                    self.metrics.preemptions.inc();
                    self.aside.push(Waiting::Saved(Box::new(Saved {
                        sequence,
                        state,
                        logits: None,
                    })));
                }
            }
            Err(reason) => tracing::error!(reason, "a sequence could not be put aside"),
        }
    }

    fn join(&mut self, bank: usize, id: usize, waiting: Waiting) {
        let joined = match waiting {
            Waiting::Task(task) => self.begin(bank, id, task),
            Waiting::Saved(saved) => self.resume(bank, id, *saved),
        };
        if let Some(sequence) = joined {
            self.banks[bank].put(id, sequence);
        }
    }

    /// Starts a prompt, from a kept state where one begins as it does.
    fn begin(&mut self, bank: usize, id: usize, task: Task) -> Option<Sequence> {
        let mut cached = 0;
        // What is scored has to be computed, from the token before it on.
        let reusable = task.common.scored_from().unwrap_or(task.prompt.len());
        if self.prefixes.is_on() && reusable > 0 {
            let scope = Scope::of(&task.common);
            let shared = task.common.shared;
            if let Some(hit) = self.prefixes.find(&scope, &task.prompt[..reusable], shared) {
                match self.banks[bank].restore(id, &hit.state, hit.tokens) {
                    Ok(()) => cached = hit.tokens,
                    Err(reason) => tracing::warn!(reason, "a kept state is not used"),
                }
            }
            self.metrics.prefix_asked.inc_by(task.prompt.len() as u64);
            self.metrics.prefix_found.inc_by(cached as u64);
        }
        let sequence = Sequence::start(task, cached, self.model);
        if sequence.is_none() && cached > 0 {
            self.banks[bank].release(id);
        }
        sequence
    }

    fn resume(&mut self, bank: usize, id: usize, saved: Saved) -> Option<Sequence> {
        let Saved {
            mut sequence,
            state,
            logits,
        } = saved;
        let held = sequence.held().len();
        if let Err(reason) = self.banks[bank].restore(id, &state, held) {
            sequence.common.answer.fail(Failure::Broken(reason));
            return None;
        }
        if let Some(logits) = logits {
            self.metrics.decode_tokens.inc();
            if sequence.sample(&logits, self.model, &mut self.scratch) == Next::Leaves {
                self.banks[bank].release(id);
                return None;
            }
        }
        Some(sequence)
    }

    fn step(&mut self) {
        let urgent = self.banks.iter().any(|bank| bank.can_step(Turn::Urgent));
        // Who waits for an adapter's place waits until all sequences of one have ended, those of the batch class too.
        let turn = self.turns.next(urgent && !self.adapter_waits);
        let (start, mut broken_off) = (Instant::now(), false);
        for bank in 0..self.banks.len() {
            if !self.banks[bank].can_step(turn) {
                continue;
            }
            self.metrics.steps.inc();
            let (pace, scratch) = (&mut self.pace, &mut self.scratch);
            match self.banks[bank].step(self.model, (turn, urgent), pace, scratch) {
                Ok(stepped) => {
                    broken_off |= stepped.broken_off > 0;
                    self.after(bank, stepped);
                }
                Err(reason) => self.fail_all(bank, &reason),
            }
        }
        if !broken_off {
            self.turns.took(turn, urgent, start.elapsed());
        }
    }

    fn after(&mut self, bank: usize, stepped: Stepped) {
        self.metrics.prefill_tokens.inc_by(stepped.prefilled as u64);
        self.metrics.decode_tokens.inc_by(stepped.sampled as u64);
        self.metrics.drafted.inc_by(stepped.drafted as u64);
        self.metrics.accepted.inc_by(stepped.accepted as u64);
        self.metrics.broken_off.inc_by(stepped.broken_off);
        for (id, logits) in stepped.forks {
            self.fork(bank, id, &logits);
        }
        for id in stepped.left {
            self.release(bank, id);
        }
    }

    /// A prompt with more than one choice is computed: the others wait with a copy of its state.
    fn fork(&mut self, bank: usize, id: usize, logits: &Rc<[f32]>) {
        let state = self.banks[bank].save(id);
        let Some(sequence) = self.banks[bank].sequence(id) else {
            return;
        };
        let state = match state {
            Ok(state) => state,
            Err(reason) => {
                sequence.common.answer.fail(Failure::Broken(reason));
                return;
            }
        };
        let siblings = sequence.fork(self.model);
        self.metrics.decode_tokens.inc();
        let next = sequence.sample(logits, self.model, &mut self.scratch);
        for sibling in siblings.into_iter().rev() {
            self.waiting.push_front(Waiting::Saved(Box::new(Saved {
                sequence: sibling,
                state: Rc::clone(&state),
                logits: Some(Rc::clone(logits)),
            })));
        }
        if next == Next::Leaves {
            self.release(bank, id);
        }
    }

    fn fail_all(&mut self, bank: usize, reason: &str) {
        tracing::error!(reason, "the engine's step failed");
        let ids: Vec<_> = self.banks[bank].sequences().map(|(id, _)| id).collect();
        for id in ids {
            if let Some(sequence) = self.banks[bank].release(id) {
                let failure = Failure::Broken(reason.to_owned());
                sequence.common.answer.fail(failure);
            }
        }
    }

    /// Takes a sequence out of the batch, and keeps its state for prompts that begin as it did.
    fn release(&mut self, bank: usize, id: usize) {
        if let Some(sequence) = self.banks[bank].sequence(id) {
            let scope = Scope::of(&sequence.common);
            let shared = sequence.common.shared;
            if self.prefixes.wants(&scope, sequence.held(), shared) {
                let tokens = sequence.held().to_vec();
                match self.banks[bank].save(id) {
                    Ok(state) => self.prefixes.keep(scope, tokens, shared, state),
                    Err(reason) => tracing::warn!(reason, "a state is not kept"),
                }
            }
        }
        self.banks[bank].release(id);
    }

    fn can_step(&self) -> bool {
        self.banks.iter().any(|bank| bank.can_step(Turn::All))
    }

    fn running(&self) -> usize {
        self.banks.iter().map(Bank::running).sum()
    }

    fn report(&self) {
        let cells: usize = self.banks.iter().map(Bank::cells).sum();
        self.metrics.running.set(self.running() as i64);
        self.metrics.waiting.set(self.waiting.len() as i64);
        self.metrics.kv_cells.set(cells as i64);
        self.metrics.prefix_bytes.set(self.prefixes.bytes() as i64);
    }
}
