use std::sync::Arc;

use llama_cpp_2::token::LlamaToken;
use tokio::sync::mpsc;

use super::super::sampling::{Sampler, log_probabilities};
use super::super::text::Assembler;
use super::model::Model;
use crate::types::{
    Delta, Event, Failure, Finish, Generate, Progress, TokenLogprob, TopLogprob, Usage,
};

/// A token and the end may come in one step: both must find room.
const ROOM: usize = 3;

/// A request on its way to the engine's thread.
pub(super) struct Job {
    prompt: Vec<LlamaToken>,
    request: Generate,
    events: mpsc::Sender<Result<Event, Failure>>,
    progress: Arc<Progress>,
}

impl Job {
    pub(super) fn new(
        prompt: Vec<LlamaToken>,
        request: Generate,
        events: mpsc::Sender<Result<Event, Failure>>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            prompt,
            request,
            events,
            progress,
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed() || self.progress.is_closed()
    }
}

/// A request in the batch.
pub(super) struct Sequence {
    prompt: Vec<LlamaToken>,
    /// Tokens of the prompt and of the answer that the context holds.
    computed: usize,
    /// Sampled and not yet computed.
    next: Option<LlamaToken>,
    generated: u32,
    max_tokens: u32,
    ignore_eos: bool,
    top_logprobs: Option<u8>,
    sampler: Sampler,
    assembler: Assembler,
    events: mpsc::Sender<Result<Event, Failure>>,
    progress: Arc<Progress>,
}

/// Whether a sequence stays in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stays,
    Leaves,
}

impl Sequence {
    /// `None` when nobody waits for it any more.
    pub(super) fn start(job: Job, model: &Model) -> Option<Self> {
        let prompt_tokens = u32::try_from(job.prompt.len()).unwrap_or(u32::MAX);
        if job.is_cancelled() || !job.progress.start(prompt_tokens) {
            return None;
        }
        let room = model.context_tokens.saturating_sub(prompt_tokens);
        Some(Self {
            prompt: job.prompt,
            computed: 0,
            next: None,
            generated: 0,
            max_tokens: job.request.max_tokens.map_or(room, |asked| asked.min(room)),
            ignore_eos: job.request.ignore_eos,
            top_logprobs: job.request.top_logprobs,
            sampler: Sampler::new(&job.request.sampling),
            assembler: Assembler::new(job.request.stop),
            events: job.events,
            progress: job.progress,
        })
    }

    /// Nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed() || self.progress.is_closed()
    }

    /// Prompt tokens that are still to be computed.
    pub(super) fn prompt_left(&self) -> usize {
        self.prompt.len().saturating_sub(self.computed)
    }

    /// Whether it has a token to be computed, and its reader has room for what comes of it.
    pub(super) fn can_decode(&self) -> bool {
        self.next.is_some() && self.events.capacity() >= ROOM
    }

    /// The next tokens to be computed, `limit` of the prompt at most, the position of the first, and whether
    /// a token is to be sampled after the last.
    pub(super) fn feed(&mut self, limit: usize) -> (&[LlamaToken], usize, bool) {
        let position = self.computed;
        if self.prompt_left() > 0 {
            let end = self.prompt.len().min(position + limit);
            self.computed = end;
            return (
                &self.prompt[position..end],
                position,
                end == self.prompt.len(),
            );
        }
        self.computed += self.next.iter().len();
        (self.next.as_slice(), position, true)
    }

    /// Chooses the next token and tells the reader.
    pub(super) fn sample(&mut self, logits: &[f32], model: &Model) -> Next {
        let Some(index) = self.sampler.choose(logits) else {
            self.fail(Failure::Broken("the model gave no usable logits".into()));
            return Next::Leaves;
        };
        // A refused count means that the reader went in this very step.
        if !self.progress.advance() {
            return Next::Leaves;
        }
        self.generated += 1;
        let token = token_at(index);
        self.next = Some(token);
        if model.weights.vocab().is_eog(token) && !self.ignore_eos {
            let rest = self.assembler.finish();
            return self.end(rest, Vec::new(), Finish::Stop);
        }
        let logprobs = self.logprobs(logits, index, model);
        let shown = self.assembler.push(&model.bytes(token));
        if shown.stopped {
            return self.end(shown.text, logprobs, Finish::Stop);
        }
        if self.generated >= self.max_tokens {
            let text = shown.text + &self.assembler.finish();
            return self.end(text, logprobs, Finish::Length);
        }
        self.tell(shown.text, logprobs);
        Next::Stays
    }

    /// Tells the reader that there will be no more.
    pub(super) fn fail(&self, failure: Failure) {
        self.send(Err(failure));
    }

    fn logprobs(&self, logits: &[f32], chosen: usize, model: &Model) -> Vec<TokenLogprob> {
        let Some(count) = self.top_logprobs else {
            return Vec::new();
        };
        let (logprob, top) = log_probabilities(logits, chosen, count.into());
        let entry = |(index, logprob)| TopLogprob {
            bytes: model.name(token_at(index)),
            logprob,
        };
        vec![TokenLogprob {
            bytes: model.name(token_at(chosen)),
            logprob: Some(logprob),
            top: top.into_iter().map(entry).collect(),
        }]
    }

    fn end(&self, text: String, logprobs: Vec<TokenLogprob>, finish: Finish) -> Next {
        self.tell(text, logprobs);
        let usage = Usage {
            prompt_tokens: u32::try_from(self.prompt.len()).unwrap_or(u32::MAX),
            cached_tokens: 0,
            completion_tokens: self.generated,
        };
        self.send(Ok(Event::Finish { choice: 0, finish }));
        self.send(Ok(Event::End { usage }));
        Next::Leaves
    }

    fn tell(&self, text: String, logprobs: Vec<TokenLogprob>) {
        if !text.is_empty() || !logprobs.is_empty() {
            self.send(Ok(Event::Delta(Delta {
                text,
                logprobs,
                ..Delta::default()
            })));
        }
    }

    fn send(&self, event: Result<Event, Failure>) {
        // There is room: can_decode saw to it. A reader that went is noticed by the loop.
        let _gone = self.events.try_send(event);
    }
}

/// Token ids are indexes into the logits.
fn token_at(index: usize) -> LlamaToken {
    LlamaToken::new(i32::try_from(index).unwrap_or(i32::MAX))
}
