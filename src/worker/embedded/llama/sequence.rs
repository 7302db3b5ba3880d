use std::collections::VecDeque;
use std::rc::Rc;

use llama_cpp_2::token::LlamaToken;

use std::sync::Arc;

use super::super::constrain::Constraint;
use super::super::sampling::{Sampler, Scratch, log_probabilities};
use super::super::text::Assembler;
use super::super::tools::CallParser;
use super::answer::{Answer, Sender};
use super::draft::Lookup;
use super::model::Model;
use super::urgency::Waits;
use crate::types::Thoughts;
use crate::types::{
    Adapter, CallDelta, Class, Delta, Failure, Finish, Job, Progress, ProjectId, Prompt,
    TokenLogprob, TopLogprob,
};

/// A request on its way to the engine's thread.
pub(super) struct Request {
    pub(super) prompts: Vec<Vec<LlamaToken>>,
    /// Where in a prompt begins what an answer echoes.
    pub(super) echo_from: usize,
    pub(super) job: Job,
    /// What its answers have to be.
    pub(super) constraint: Option<Constraint>,
    /// Finds thoughts in its answers.
    pub(super) thoughts: Option<Thoughts>,
    /// Finds calls in its answers.
    pub(super) calls: Option<CallParser>,
    /// Tokens that the prompt begins with and that are the vertical's own words.
    pub(super) shared: usize,
    pub(super) events: Sender,
    pub(super) progress: Arc<Progress>,
    /// Where others make way for it, until the engine has seen it.
    pub(super) waits: Option<Waits>,
}

/// What everything of one request shares.
pub(super) struct Common {
    job: Job,
    echo_from: usize,
    constraint: Option<Constraint>,
    thoughts: Option<Thoughts>,
    calls: Option<CallParser>,
    /// Tokens that the prompt begins with and that are the vertical's own words.
    pub(super) shared: usize,
    pub(super) answer: Answer,
}

/// One prompt of a request, of which nothing is computed yet.
pub(super) struct Task {
    pub(super) prompt: Vec<LlamaToken>,
    /// The index of the first of its choices.
    first: u32,
    pub(super) common: Rc<Common>,
}

impl Request {
    /// One task for each prompt.
    pub(super) fn split(self) -> Vec<Task> {
        drop(self.waits);
        let choices = self.job.request.choices;
        let answers = self.job.request.answers();
        let common = Rc::new(Common {
            job: self.job,
            echo_from: self.echo_from,
            constraint: self.constraint,
            thoughts: self.thoughts,
            calls: self.calls,
            shared: self.shared,
            answer: Answer::new(self.events, self.progress, answers),
        });
        (0..)
            .zip(self.prompts)
            .map(|(index, prompt)| Task {
                prompt,
                first: index * choices,
                common: Rc::clone(&common),
            })
            .collect()
    }
}

impl Common {
    pub(super) fn class(&self) -> Class {
        self.job.class
    }

    pub(super) fn tenant(&self) -> &ProjectId {
        &self.job.tenant
    }

    pub(super) fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.job.adapter.as_ref()
    }

    /// The first token of the prompt that is scored, if any is: logits are needed from the one before it on.
    pub(super) fn scored_from(&self) -> Option<usize> {
        let scores = self.job.request.echo && self.job.request.top_logprobs.is_some();
        scores.then_some(self.echo_from)
    }
}

/// One choice in the batch.
pub(super) struct Sequence {
    pub(super) common: Rc<Common>,
    choice: u32,
    /// Choices beside this one that go on from the same prompt, once it is computed.
    siblings: u32,
    /// The prompt and what was generated.
    tokens: Vec<LlamaToken>,
    prompt: usize,
    /// Tokens of the prompt that came from a kept state.
    cached: usize,
    /// Tokens that the context holds.
    computed: usize,
    max_tokens: usize,
    /// Of the prompt's tokens, where they were asked for.
    scores: Vec<TokenLogprob>,
    sampler: Sampler,
    constraint: Option<Constraint>,
    thoughts: Option<Thoughts>,
    /// Of tokens that may be thoughts or the answer's.
    undecided: Vec<TokenLogprob>,
    calls: Option<CallParser>,
    assembler: Assembler,
    lookup: Lookup,
    /// What may come after the last token, and is computed with it.
    draft: VecDeque<LlamaToken>,
}

/// Whether a sequence stays in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stays,
    Leaves,
}

/// What a sequence brings to a step.
pub(super) struct Feed<'a> {
    pub(super) tokens: &'a [LlamaToken],
    /// The place of the first.
    pub(super) position: usize,
    /// At which of them logits are needed.
    pub(super) logits: Logits,
    /// What may come after them, and is computed with them. Logits are needed at each.
    pub(super) draft: &'a VecDeque<LlamaToken>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logits {
    None,
    Last,
    All,
}

impl Sequence {
    /// The first choice of a prompt, of which the context holds `cached` tokens. `None` when nobody waits for
    /// it any more.
    pub(super) fn start(task: Task, cached: usize, model: &Model) -> Option<Self> {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let Task {
            prompt,
            first,
            common,
        } = task;
        if common.answer.is_cancelled() || !common.answer.start(count(prompt.len()), count(cached))
        {
            return None;
        }
        let siblings = common.job.request.choices.saturating_sub(1);
        let mut sequence = Self::new(common, first, prompt, model);
        sequence.siblings = siblings;
        sequence.cached = cached;
        sequence.computed = cached;
        Some(sequence)
    }

    /// The choices that go on from this one's prompt, which is computed. They hold what it holds.
    pub(super) fn fork(&mut self, model: &Model) -> Vec<Self> {
        let siblings = std::mem::take(&mut self.siblings);
        (1..=siblings)
            .map(|offset| {
                let common = Rc::clone(&self.common);
                let prompt = self.tokens[..self.prompt].to_vec();
                let mut sibling = Self::new(common, self.choice + offset, prompt, model);
                sibling.computed = self.prompt;
                sibling.scores.clone_from(&self.scores);
                sibling
            })
            .collect()
    }

    fn new(common: Rc<Common>, choice: u32, tokens: Vec<LlamaToken>, model: &Model) -> Self {
        let request = &common.job.request;
        let room = (model.context_tokens as usize).saturating_sub(tokens.len());
        let asked = request.max_tokens.map(|tokens| tokens as usize);
        let ids = tokens.iter().map(|token| token.0.cast_unsigned());
        Self {
            choice,
            siblings: 0,
            prompt: tokens.len(),
            cached: 0,
            computed: 0,
            max_tokens: asked.map_or(room, |asked| asked.min(room)),
            scores: Vec::new(),
            sampler: Sampler::new(&request.sampling, choice, ids),
            constraint: common.constraint.as_ref().map(Constraint::fresh),
            thoughts: common.thoughts.clone(),
            undecided: Vec::new(),
            calls: common.calls.clone(),
            assembler: Assembler::new(request.stop.clone()),
            lookup: Lookup::default(),
            draft: VecDeque::new(),
            tokens,
            common,
        }
    }

    /// Tokens of its prompt that no kept state held.
    pub(super) fn cold(&self) -> usize {
        self.prompt.saturating_sub(self.cached)
    }

    /// Prompt tokens that are still to be computed.
    pub(super) fn prompt_left(&self) -> usize {
        self.prompt.saturating_sub(self.computed)
    }

    /// Prompt tokens that are to be computed before the first whose logits are needed; `None` where none is scored.
    pub(super) fn unscored_left(&self) -> Option<usize> {
        let first = self.common.scored_from()?.saturating_sub(1);
        Some(first.saturating_sub(self.computed))
    }

    /// Tokens that the context holds.
    pub(super) fn held(&self) -> &[LlamaToken] {
        &self.tokens[..self.computed]
    }

    /// Whether it has a token to be computed, and its reader has room for what comes of it.
    pub(super) fn can_decode(&self) -> bool {
        self.computed >= self.prompt
            && self.computed < self.tokens.len()
            && self.common.answer.has_room()
    }

    pub(super) fn has_siblings(&self) -> bool {
        self.siblings > 0
    }

    /// What [`Sequence::feed`] gave from this position on was not computed.
    pub(super) fn take_back(&mut self, position: usize) {
        self.computed = position;
        self.draft.clear();
    }

    /// The next tokens to be computed, `limit` of the prompt at most.
    pub(super) fn feed(&mut self, limit: usize) -> Feed<'_> {
        let position = self.computed;
        let end = if self.prompt_left() > 0 {
            self.prompt.min(position + limit)
        } else {
            self.tokens.len()
        };
        let scores = self.unscored_left() == Some(0);
        self.computed = end;
        let logits = if end <= self.prompt && scores {
            Logits::All
        } else if end >= self.prompt {
            Logits::Last
        } else {
            Logits::None
        };
        Feed {
            tokens: &self.tokens[position..end],
            position,
            logits,
            draft: &self.draft,
        }
    }

    /// Drafts what may come after its last token, `most` tokens of it, and not beyond what a state of `cuttable`
    /// tokens allows: what is wrong has to be taken out again. Gives the draft's length.
    pub(super) fn draft(&mut self, most: usize, cuttable: usize) -> usize {
        let left = self.max_tokens.saturating_sub(self.generated() + 1);
        let most = most
            .min(left)
            .min(cuttable.saturating_sub(self.tokens.len()))
            .min(self.common.answer.spare());
        if most == 0 {
            return 0;
        }
        self.draft = self
            .lookup
            .find(&self.tokens, most)
            .iter()
            .copied()
            .collect();
        self.draft.len()
    }

    /// Whether the token that was chosen last is the draft's next, which the context holds then.
    pub(super) fn follows_draft(&mut self) -> bool {
        let follows = self.draft.front().is_some() && self.draft.front() == self.tokens.last();
        if follows {
            self.draft.pop_front();
            self.computed += 1;
        }
        follows
    }

    /// Forgets the rest of a draft of so many tokens. Gives how many were right.
    pub(super) fn end_draft(&mut self, drafted: usize) -> usize {
        let right = drafted - self.draft.len();
        self.draft.clear();
        self.lookup.told(drafted, right);
        right
    }

    /// Scores the prompt's token at `position + 1` from the logits at `position`.
    pub(super) fn score(&mut self, position: usize, logits: &[f32], model: &Model) {
        if self.scores.is_empty() && self.common.echo_from == 0 {
            self.scores.push(TokenLogprob {
                id: self.tokens[0].0.cast_unsigned(),
                bytes: model.name(self.tokens[0]),
                logprob: None,
                top: Vec::new(),
            });
        }
        if position + 1 < self.prompt {
            let token = self.tokens[position + 1];
            let scored = self.logprob(logits, token, model);
            self.scores.extend(scored);
        }
    }

    /// Takes the logits after the prompt or the last token: chooses the next one and tells the reader.
    pub(super) fn sample(&mut self, logits: &[f32], model: &Model, scratch: &mut Scratch) -> Next {
        if self.tokens.len() == self.prompt && self.echoes(model) == Next::Leaves {
            return Next::Leaves;
        }
        let index = match self.choose(logits, model, scratch) {
            Ok(index) => index,
            Err(reason) => {
                self.common.answer.fail(Failure::Broken(reason));
                return Next::Leaves;
            }
        };
        // A refused count means that the reader went in this very step.
        let thinks = self.thoughts.as_ref().is_some_and(Thoughts::is_thinking);
        if !self.common.answer.advance(thinks) {
            return Next::Leaves;
        }
        let token = token_at(index);
        self.tokens.push(token);
        let request = &self.common.job.request;
        // A grammar ends where it ends, whatever else was asked for.
        let goes_on = request.ignore_eos && self.constraint.is_none();
        if model.weights.vocab().is_eog(token) && !goes_on {
            let rest = self.assembler.finish();
            // Whoever adds up a text's probability needs that of its end; a message has none.
            let ends_text = !matches!(request.prompts.first(), Some(Prompt::Chat(_)));
            let scored = ends_text.then(|| self.logprob(logits, token, model));
            let logprobs = scored.flatten().into_iter().collect();
            return self.end(&rest, logprobs, Finish::Stop);
        }
        let logprobs = self.logprob(logits, token, model).into_iter().collect();
        let bytes = model.bytes_with(token, self.calls.is_some(), self.thoughts.is_some());
        let shown = self.assembler.push(&bytes);
        if shown.stopped {
            return self.end(&shown.text, logprobs, Finish::Stop);
        }
        let complete = self
            .constraint
            .as_mut()
            .is_some_and(Constraint::is_finished);
        if complete || self.generated() >= self.max_tokens {
            let text = shown.text + &self.assembler.finish();
            let finish = if complete {
                Finish::Stop
            } else {
                Finish::Length
            };
            return self.end(&text, logprobs, finish);
        }
        self.tell(&shown.text, logprobs)
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    /// The prompt as the beginning of the answer, where it was asked for.
    fn echoes(&mut self, model: &Model) -> Next {
        if self.common.job.request.echo {
            let bytes: Vec<u8> = self.tokens[self.common.echo_from..self.prompt]
                .iter()
                .flat_map(|token| model.bytes(*token))
                .collect();
            self.common.answer.tell(Delta {
                choice: self.choice,
                text: String::from_utf8_lossy(&bytes).into_owned(),
                logprobs: std::mem::take(&mut self.scores),
                ..Delta::default()
            });
        }
        if self.max_tokens == 0 {
            self.common.answer.finish(self.choice, Finish::Length);
            return Next::Leaves;
        }
        Next::Stays
    }

    fn choose(
        &mut self,
        logits: &[f32],
        model: &Model,
        scratch: &mut Scratch,
    ) -> Result<usize, String> {
        const UNUSABLE: &str = "the model gave no usable logits";
        let too_early = self.generated() < self.common.job.request.min_tokens as usize;
        if self.constraint.is_none() && !too_early && !self.sampler.adjusts() {
            return self.sampler.choose(logits, scratch).ok_or(UNUSABLE.into());
        }
        let copy = scratch.copy(logits);
        self.sampler.adjust(copy);
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(copy)?;
        }
        if too_early {
            model.forbid_ends(copy);
        }
        let copy = scratch.take();
        let chosen = self.sampler.choose(&copy, scratch);
        scratch.put(copy);
        let index = chosen.ok_or("no token may follow, or the model gave no usable logits")?;
        let id = u32::try_from(index).map_err(|error| error.to_string())?;
        self.sampler.accept(id);
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(id)?;
        }
        Ok(index)
    }

    fn logprob(&self, logits: &[f32], token: LlamaToken, model: &Model) -> Option<TokenLogprob> {
        let count = self.common.job.request.top_logprobs?;
        let index = usize::try_from(token.0).ok()?;
        let (logprob, top) = log_probabilities(logits, index, count.into());
        let entry = |(index, logprob)| TopLogprob {
            bytes: model.name(token_at(index)),
            logprob,
        };
        Some(TokenLogprob {
            id: token.0.cast_unsigned(),
            bytes: model.name(token),
            logprob: Some(logprob),
            top: top.into_iter().map(entry).collect(),
        })
    }

    fn tell(&mut self, text: &str, mut logprobs: Vec<TokenLogprob>) -> Next {
        let Some(thoughts) = &mut self.thoughts else {
            return self.tell_text(text.to_owned(), logprobs);
        };
        let was_text = thoughts.is_over();
        let split = thoughts.push(text);
        // They are of the answer's own tokens.
        if thoughts.may_begin() {
            self.undecided.append(&mut logprobs);
        } else if !thoughts.is_over() {
            self.undecided.clear();
            logprobs.clear();
        } else if !was_text {
            logprobs.splice(0..0, self.undecided.drain(..));
        }
        self.send_thought(split.thought);
        self.tell_text(split.text, logprobs)
    }

    /// What is surely no thought.
    fn tell_text(&mut self, text: String, logprobs: Vec<TokenLogprob>) -> Next {
        let Some(parser) = &mut self.calls else {
            self.send(text, Vec::new(), logprobs);
            return Next::Stays;
        };
        let parsed = parser.push(&text);
        self.send(parsed.text, parsed.calls, logprobs);
        if parsed.done {
            self.common.answer.finish(self.choice, Finish::ToolCalls);
            return Next::Leaves;
        }
        Next::Stays
    }

    fn end(&mut self, text: &str, logprobs: Vec<TokenLogprob>, finish: Finish) -> Next {
        if self.tell(text, logprobs) == Next::Leaves {
            return Next::Leaves;
        }
        let rest = self.thoughts.as_mut().map(Thoughts::finish);
        if let Some(rest) = rest {
            self.send_thought(rest.thought);
            let undecided = std::mem::take(&mut self.undecided);
            if self.tell_text(rest.text, undecided) == Next::Leaves {
                return Next::Leaves;
            }
        }
        let mut finish = finish;
        if let Some(parser) = &mut self.calls {
            let rest = parser.finish();
            if parser.has_called() && finish == Finish::Stop {
                finish = Finish::ToolCalls;
            }
            self.send(rest.text, rest.calls, Vec::new());
        }
        self.common.answer.finish(self.choice, finish);
        Next::Leaves
    }

    fn send(&self, text: String, calls: Vec<CallDelta>, logprobs: Vec<TokenLogprob>) {
        self.common.answer.tell(Delta {
            choice: self.choice,
            text,
            calls,
            logprobs,
            ..Delta::default()
        });
    }

    fn send_thought(&self, thought: String) {
        self.common.answer.tell(Delta {
            choice: self.choice,
            thought,
            ..Delta::default()
        });
    }
}

/// Token ids are indexes into the logits.
fn token_at(index: usize) -> LlamaToken {
    LlamaToken::new(i32::try_from(index).unwrap_or(i32::MAX))
}
