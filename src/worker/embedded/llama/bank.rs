use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_batch::LlamaBatch;

use super::super::sampling::Scratch;
use super::adapter::Loaded;
use super::draft::Drafts;
use super::model::{Model, backend};
use super::pace::Pace;
use super::plan::{Reader, share, split};
use super::sequence::{Logits, Next, Sequence};
use super::urgency::{self, Turn, Urgency};
use crate::types::{Adapter, Class, Failure};

/// Tokens of one step when nobody generates: prompts go through as fast as they can.
const FULL_STEP: usize = 512;
/// Prompt tokens of the batch class in a step that shall not take long.
const SHORTEST_STEP: usize = 32;
/// Tokens whose every logit is read, in one step: a row of them is as long as the vocabulary.
const SCORED_STEP: usize = 64;
/// A prompt of so many tokens makes a long sequence.
const LONG: usize = 1024;
/// A prompt of so many tokens is read a little in each step, so that answers go on beside it. What is shorter is read
/// as fast as a step may: cut in small parts it would hold up the answers for longer, all in all.
const PACED: usize = 512;

/// What llama.cpp says of a batch that it was told to break off.
const BROKEN_OFF: i32 = 2;

/// A context and the sequences in it. Each has a stream of cells of its own, so that attention walks no
/// other's.
pub(super) struct Bank<'a> {
    pub(super) adapter: Option<Arc<Adapter>>,
    context: LlamaContext<'a>,
    /// Gone after the context, which asks it.
    urgency: Arc<Urgency>,
    /// Gone after the context that uses it.
    loaded: Option<Loaded>,
    batch: LlamaBatch<'a>,
    /// A sequence's index is its id in the context.
    slots: Vec<Option<Sequence>>,
    /// The ids of sequences whose prompt isn't read, in the order they came.
    reading: VecDeque<usize>,
    most_tokens: usize,
    /// Prompt tokens of the batch class in a step that may be broken off.
    yielding_tokens: usize,
    may_yield: bool,
    /// `None` where nothing is drafted.
    drafts: Option<Drafts>,
    /// Tokens of a sequence from which some can be taken out again.
    cuttable: usize,
    pub(super) idle_since: Instant,
    #[cfg(test)]
    planted: Planted,
}

/// How a bank is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct BankSettings {
    pub(super) slots: usize,
    pub(super) step_tokens: usize,
    pub(super) prefill_percent: u32,
    pub(super) lookup: bool,
    pub(super) threads: usize,
    pub(super) cells: KvCacheType,
    #[cfg(test)]
    pub(super) fault: Option<Fault>,
}

/// What a test plants, to see that it would be found.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Now and then a sequence is given the logits of the one before it.
    NeighboursLogits,
    /// What was put aside comes back with the cells of whoever was put aside before it.
    OthersState,
}

#[cfg(test)]
#[derive(Default)]
struct Planted {
    fault: Option<Fault>,
    saved: std::cell::RefCell<Vec<Rc<SeqState>>>,
}

#[cfg(test)]
impl Planted {
    /// The part, with its neighbour's rows where that is planted.
    fn shift(&self, part: Part) -> Part {
        if self.fault != Some(Fault::NeighboursLogits) {
            return part;
        }
        let rows = (part.rows.start - 1).max(0)..(part.rows.end - 1).max(1);
        Part { rows, ..part }
    }
}

/// What a step did.
#[derive(Debug, Default)]
pub(super) struct Stepped {
    pub(super) prefilled: usize,
    /// Tokens that were chosen.
    pub(super) sampled: usize,
    /// Tokens that were computed before they were chosen.
    pub(super) drafted: usize,
    /// Those of them that were chosen then.
    pub(super) accepted: usize,
    /// Batches that made way for somebody else.
    pub(super) broken_off: u64,
    /// Sequences that have left, by id.
    pub(super) left: Vec<usize>,
    /// Sequences whose prompt is computed and has other choices, with the logits after it.
    pub(super) forks: Vec<(usize, Rc<[f32]>)>,
}

/// A sequence's part of a batch: rows of logits to be looked at.
struct Part {
    id: usize,
    position: usize,
    /// Rows of the batch.
    rows: Range<i32>,
    logits: Logits,
    /// The last so many rows are of a draft.
    drafted: usize,
}

impl<'a> Bank<'a> {
    pub(super) fn new(
        model: &'a Model,
        settings: BankSettings,
        urgency: &Arc<Urgency>,
    ) -> Result<Self, String> {
        let slots = u32::try_from(settings.slots).map_err(|error| error.to_string())?;
        let threads = i32::try_from(settings.threads).map_err(|error| error.to_string())?;
        let most_tokens = FULL_STEP.max(settings.slots).max(settings.step_tokens);
        let batch = u32::try_from(most_tokens).map_err(|error| error.to_string())?;
        let cells = model
            .context_tokens
            .checked_mul(slots)
            .ok_or("slots times context_tokens is too much")?;
        let mut parameters = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(cells))
            .with_n_batch(batch)
            .with_n_ubatch(batch)
            .with_n_seq_max(slots)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_type_k(settings.cells)
            .with_type_v(settings.cells)
            .with_kv_unified(false)
            // Layers with a sliding window keep cells of the window alone: nothing here goes back behind it.
            .with_swa_full(false)
            .with_no_perf(true);
        // What was computed in part has to be taken out again.
        if model.cuttable_tokens() == usize::MAX {
            urgency::ask(&mut parameters, urgency);
        }
        let context = model
            .weights
            .new_context(backend()?, parameters)
            .map_err(|error| {
                format!("llama.cpp can't make a context of {cells} tokens: {error}")
            })?;
        Ok(Self {
            adapter: None,
            context,
            urgency: Arc::clone(urgency),
            loaded: None,
            batch: LlamaBatch::new(most_tokens, 1),
            slots: std::iter::repeat_with(|| None)
                .take(settings.slots)
                .collect(),
            reading: VecDeque::new(),
            most_tokens,
            yielding_tokens: most_tokens,
            may_yield: false,
            drafts: (settings.lookup && model.cuttable_tokens() > 0).then(Drafts::default),
            cuttable: model.cuttable_tokens(),
            idle_since: Instant::now(),
            #[cfg(test)]
            planted: Planted {
                fault: settings.fault,
                ..Planted::default()
            },
        })
    }

    /// From now on the bank computes with an adapter.
    pub(super) fn adapt(
        &mut self,
        adapter: &Arc<Adapter>,
        mut loaded: Loaded,
    ) -> Result<(), String> {
        self.context
            .lora_adapter_set(loaded.handle(), adapter.scale)
            .map_err(|error| format!("{}: {error}", adapter.path.display()))?;
        self.loaded = Some(loaded);
        self.adapter = Some(Arc::clone(adapter));
        Ok(())
    }

    pub(super) fn running(&self) -> usize {
        self.sequences().count()
    }

    pub(super) fn sequences(&self) -> impl Iterator<Item = (usize, &Sequence)> {
        let taken = self.slots.iter().enumerate();
        taken.filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
    }

    /// Cells that hold a token.
    pub(super) fn cells(&self) -> usize {
        self.sequences()
            .map(|(_, sequence)| sequence.held().len())
            .sum()
    }

    pub(super) fn cells_limit(&self) -> usize {
        self.context.n_ctx() as usize
    }

    /// Whether a step would do anything.
    pub(super) fn can_step(&self, turn: Turn) -> bool {
        self.sequences().any(|(_, sequence)| {
            takes_part(sequence, turn)
                && (sequence.can_decode()
                    || (sequence.prompt_left() > 0 && sequence.common.answer.has_room()))
        })
    }

    /// llama.cpp splits a batch by runs of consecutive ids, so short sequences get the lowest free id, and
    /// long ones, which are computed apart from them, the highest.
    pub(super) fn free(&self, prompt: usize) -> Option<usize> {
        if prompt >= LONG {
            return self.slots.iter().rposition(Option::is_none);
        }
        self.slots.iter().position(Option::is_none)
    }

    pub(super) fn put(&mut self, id: usize, sequence: Sequence) {
        if sequence.prompt_left() > 0 {
            self.reading.push_back(id);
        }
        self.slots[id] = Some(sequence);
    }

    pub(super) fn sequence(&mut self, id: usize) -> Option<&mut Sequence> {
        self.slots[id].as_mut()
    }

    /// Takes a sequence out, and clears its cells.
    pub(super) fn release(&mut self, id: usize) -> Option<Sequence> {
        self.reading.retain(|reading| *reading != id);
        self.clear(id, 0);
        self.idle_since = Instant::now();
        self.slots[id].take()
    }

    /// Frees a sequence's cells from `keep` on. False where the model can't do that in part.
    fn clear(&mut self, id: usize, keep: usize) -> bool {
        let (Ok(lane), Ok(keep)) = (u32::try_from(id), u32::try_from(keep)) else {
            return false;
        };
        let cleared = self
            .context
            .clear_kv_cache_seq(Some(lane), Some(keep), None);
        cleared.is_ok_and(|done| done)
    }

    /// A copy of a sequence's cells, in host memory.
    pub(super) fn save(&self, id: usize) -> Result<Rc<SeqState>, String> {
        let lane = i32::try_from(id).map_err(|error| error.to_string())?;
        let state = self
            .context
            .state_seq_get(lane, LlamaStateSeqFlags::empty())
            .map(Rc::new)
            .map_err(|error| format!("a sequence's cells could not be saved: {error}"))?;
        #[cfg(test)]
        if self.planted.fault == Some(Fault::OthersState) {
            self.planted.saved.borrow_mut().push(Rc::clone(&state));
        }
        Ok(state)
    }

    /// Puts the first `tokens` of a saved state into a free id. After an error the id holds nothing.
    pub(super) fn restore(
        &mut self,
        id: usize,
        state: &SeqState,
        tokens: usize,
    ) -> Result<(), String> {
        let lane = i32::try_from(id).map_err(|error| error.to_string())?;
        #[cfg(test)]
        if self.restores_anothers(id, state, tokens) {
            return Ok(());
        }
        let restored = self
            .context
            .state_seq_set(state, lane)
            .map_err(|error| format!("a sequence's cells could not be restored: {error}"));
        if restored.is_ok() && self.clear(id, tokens) && self.holds(lane, tokens) {
            return Ok(());
        }
        self.clear(id, 0);
        restored.and(Err("a sequence's cells could not be cut".into()))
    }

    #[cfg(test)]
    fn restores_anothers(&mut self, id: usize, state: &SeqState, tokens: usize) -> bool {
        let lane = i32::try_from(id).unwrap();
        let others = self.planted.saved.borrow().clone();
        others.iter().rev().any(|other| {
            !std::ptr::eq(&raw const **other, state)
                && self.context.state_seq_set(other, lane).is_ok()
                && self.clear(id, tokens)
                && self.holds(lane, tokens)
        })
    }

    fn holds(&self, lane: i32, tokens: usize) -> bool {
        let last = self.context.kv_cache_seq_pos_max(lane);
        usize::try_from(last + 1).is_ok_and(|held| held == tokens)
    }

    /// The next token of each sequence that generates, and some of the prompts that are still to be read.
    pub(super) fn step(
        &mut self,
        model: &Model,
        (turn, urgent): (Turn, bool),
        pace: &mut Pace,
        scratch: &mut Scratch,
    ) -> Result<Stepped, String> {
        let mut stepped = Stepped::default();
        // Its own part of the time is the batch class's to the end.
        self.may_yield = !urgent;
        let (short, long) = self.decoding(turn);
        let sequences = short.len() + long.len();
        let decodes = sequences > 0;
        let start = Instant::now();
        stepped.drafted = self.draft(short.iter().chain(&long), sequences);
        for group in [short, long] {
            let shares: Vec<_> = group.into_iter().map(|id| (id, 1)).collect();
            self.compute(&shares, model, scratch, &mut stepped)?;
        }
        let decoded = Instant::now();
        if stepped.broken_off > 0 {
            return Ok(stepped);
        }
        if decodes {
            let seconds = (decoded - start).as_secs_f64();
            pace.decoded(seconds);
            if let Some(drafts) = &mut self.drafts {
                drafts.stepped(sequences, stepped.drafted > 0, stepped.sampled, seconds);
            }
        }
        let shares = self.shares((turn, urgent), decodes.then_some(&*pace));
        let prefilled: usize = shares.iter().map(|(_, share)| share).sum();
        self.compute(&shares, model, scratch, &mut stepped)?;
        if stepped.broken_off > 0 {
            // The next one is shorter, so that it comes to its end.
            self.yielding_tokens = (prefilled / 2).max(SHORTEST_STEP);
            return Ok(stepped);
        }
        if prefilled > 0 {
            self.yielding_tokens = (self.yielding_tokens * 2).min(self.most_tokens);
        }
        if decodes && prefilled > 0 {
            pace.read(prefilled, decoded.elapsed().as_secs_f64());
        }
        stepped.prefilled = prefilled;
        Ok(stepped)
    }

    /// Lets a sequence that is decoded alone draft, where that pays. Gives the draft's tokens.
    fn draft<'s>(&mut self, ids: impl Iterator<Item = &'s usize>, sequences: usize) -> usize {
        let most = self.drafts.as_ref().map(|drafts| drafts.most(sequences));
        let Some(most @ 1..) = most else {
            return 0;
        };
        let mut drafted = 0;
        for id in ids {
            if let Some(sequence) = self.slots[*id].as_mut() {
                drafted += sequence.draft(most, self.cuttable);
            }
        }
        drafted
    }

    /// The sequences to be decoded: all together, or the longest apart, since attention walks as many cells
    /// for each sequence of a batch as the longest has.
    fn decoding(&self, turn: Turn) -> (Vec<usize>, Vec<usize>) {
        let mut all: Vec<_> = self
            .sequences()
            .filter(|(_, sequence)| takes_part(sequence, turn) && sequence.can_decode())
            .map(|(id, sequence)| (sequence.held().len(), id))
            .collect();
        all.sort_unstable();
        let lengths: Vec<_> = all.iter().map(|(length, _)| *length).collect();
        let (short, long) = all.split_at(split(&lengths));
        let ids = |part: &[(usize, usize)]| {
            let mut ids: Vec<_> = part.iter().map(|(_, id)| *id).collect();
            ids.sort_unstable();
            ids
        };
        (ids(short), ids(long))
    }

    /// How many prompt tokens each sequence that reads may bring; with a pace where answers go on beside it.
    fn shares(&self, (turn, urgent): (Turn, bool), pace: Option<&Pace>) -> Vec<(usize, usize)> {
        let readers = self.reading.iter().filter_map(|id| {
            let sequence = self.slots[*id].as_ref()?;
            let limit = match sequence.common.class() {
                Class::Batch if urgent => SHORTEST_STEP,
                Class::Batch => self.yielding_tokens,
                Class::Standard | Class::Interactive => usize::MAX,
            };
            let limit = match sequence.unscored_left() {
                Some(0) => SCORED_STEP,
                Some(left) => limit.min(left),
                None => limit,
            };
            let reader = Reader {
                id: *id,
                long: sequence.cold() >= PACED,
                wants: sequence.prompt_left().min(limit),
            };
            let reads = takes_part(sequence, turn) && sequence.common.answer.has_room();
            reads.then_some(reader)
        });
        let mut readers: Vec<_> = readers.collect();
        // Higher classes first, and within a class who came first.
        readers.sort_by_key(|reader| self.is_batch(reader.id));
        let long = readers.iter().filter(|reader| reader.long).count();
        let most = pace.map_or(self.most_tokens, Pace::most);
        let paced = pace.map_or(most, |pace| pace.budget(long));
        share(&readers, most, paced)
    }

    /// Computes one batch, and lets its sequences take their logits.
    fn compute(
        &mut self,
        shares: &[(usize, usize)],
        model: &Model,
        scratch: &mut Scratch,
        stepped: &mut Stepped,
    ) -> Result<(), String> {
        if shares.is_empty() {
            return Ok(());
        }
        let parts = self.fill(shares)?;
        #[cfg(test)]
        let decodes = parts.iter().all(|part| part.rows.len() == 1);
        let yields = self.may_yield && parts.iter().all(|part| self.is_batch(part.id));
        self.urgency.set_yields(yields);
        let done = self.context.decode(&mut self.batch);
        self.urgency.set_yields(false);
        match done {
            Ok(()) => {}
            Err(DecodeError::Unknown(BROKEN_OFF)) if yields => {
                stepped.broken_off += 1;
                return self.take_back(&parts);
            }
            Err(error) => return Err(format!("llama.cpp could not compute a step: {error}")),
        }
        // A GPU may still be at it, and how long it takes is measured.
        self.context.synchronize();
        for part in parts {
            let Some(sequence) = self.slots[part.id].as_mut() else {
                continue;
            };
            if part.logits == Logits::All {
                for (position, row) in (part.position..).zip(part.rows.clone()) {
                    sequence.score(position, self.context.get_logits_ith(row), model);
                }
            }
            if part.logits == Logits::None || sequence.prompt_left() > 0 {
                continue;
            }
            self.reading.retain(|reading| *reading != part.id);
            #[cfg(test)]
            let part = if decodes && part.position % 5 == 0 {
                self.planted.shift(part)
            } else {
                part
            };
            self.choose(&part, model, scratch, stepped);
        }
        Ok(())
    }

    fn is_batch(&self, id: usize) -> bool {
        let sequence = self.slots[id].as_ref();
        sequence.is_some_and(|sequence| sequence.common.class() == Class::Batch)
    }

    /// A batch was broken off: some of it may stand in the cells.
    fn take_back(&mut self, parts: &[Part]) -> Result<(), String> {
        for part in parts {
            if !self.clear(part.id, part.position) {
                return Err("a step that was broken off could not be taken back".into());
            }
            if let Some(sequence) = self.slots[part.id].as_mut() {
                sequence.take_back(part.position);
            }
        }
        Ok(())
    }

    /// Lets a sequence choose its next token, and go on as long as what it chooses was drafted.
    fn choose(&mut self, part: &Part, model: &Model, scratch: &mut Scratch, stepped: &mut Stepped) {
        let Some(sequence) = self.slots[part.id].as_mut() else {
            return;
        };
        let drafted = i32::try_from(part.drafted).unwrap_or(0);
        let mut row = part.rows.end - 1 - drafted;
        let logits = self.context.get_logits_ith(row);
        if sequence.has_siblings() {
            stepped.forks.push((part.id, logits.into()));
            return;
        }
        stepped.sampled += 1;
        let mut next = sequence.sample(logits, model, scratch);
        while next == Next::Stays && sequence.follows_draft() {
            row += 1;
            stepped.sampled += 1;
            next = sequence.sample(self.context.get_logits_ith(row), model, scratch);
        }
        if part.drafted > 0 {
            let accepted = sequence.end_draft(part.drafted);
            stepped.accepted += accepted;
            let held = sequence.held().len();
            if accepted < part.drafted && !self.clear(part.id, held) {
                self.fail(part.id, "a draft could not be taken back");
                next = Next::Leaves;
            }
        }
        if next == Next::Leaves {
            stepped.left.push(part.id);
        }
    }

    fn fail(&self, id: usize, reason: &str) {
        if let Some(sequence) = &self.slots[id] {
            tracing::error!(reason, "a sequence failed");
            let failure = Failure::Broken(reason.to_owned());
            sequence.common.answer.fail(failure);
        }
    }

    fn fill(&mut self, shares: &[(usize, usize)]) -> Result<Vec<Part>, String> {
        self.batch.clear();
        let mut parts = Vec::with_capacity(shares.len());
        for (id, share) in shares {
            let Some(sequence) = self.slots[*id].as_mut() else {
                continue;
            };
            let lane = i32::try_from(*id).map_err(|error| error.to_string())?;
            let feed = sequence.feed(*share);
            let first = self.batch.n_tokens();
            for (offset, token) in feed.tokens.iter().chain(feed.draft).enumerate() {
                let last = offset + 1 >= feed.tokens.len();
                let wanted = match feed.logits {
                    Logits::None => false,
                    Logits::Last => last,
                    Logits::All => true,
                };
                let place =
                    i32::try_from(feed.position + offset).map_err(|error| error.to_string())?;
                self.batch
                    .add(*token, place, &[lane], wanted)
                    .map_err(|error| format!("the batch has no room for its own plan: {error}"))?;
            }
            parts.push(Part {
                id: *id,
                position: feed.position,
                rows: first..self.batch.n_tokens(),
                logits: feed.logits,
                drafted: feed.draft.len(),
            });
        }
        Ok(parts)
    }
}

fn takes_part(sequence: &Sequence, turn: Turn) -> bool {
    turn == Turn::All || sequence.common.class() > Class::Batch
}
