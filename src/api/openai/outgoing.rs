//! What becomes of an answer on its way to a client: its thoughts are told apart, and its vertical's rules are kept.

mod frames;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::relay::Peeked;
use crate::api::Api;
use crate::gateway::Answer;
use crate::guard::{Filter, Found, Guards, Side};
use crate::metering::Error;
use crate::router::Choice;
use crate::telemetry::Metrics;
use crate::types::{CallDelta, Delta, Event, Finish, Split, Thoughts};

/// An answer, as it goes out.
pub(super) struct Source {
    answer: Answer,
    outgoing: Option<(Outgoing, Told)>,
    ready: VecDeque<Event>,
}

/// Whom to tell what the rules found.
struct Told {
    metrics: Arc<Metrics>,
    model: Arc<str>,
}

impl From<Answer> for Source {
    /// As the worker gives it.
    fn from(answer: Answer) -> Self {
        Self {
            answer,
            outgoing: None,
            ready: VecDeque::new(),
        }
    }
}

impl Source {
    /// As the model's vertical wants it.
    pub(super) fn new(answer: Answer, api: &Api, peeked: &Peeked) -> Self {
        let outgoing = peeked.choice.as_ref().and_then(|choice| {
            let told = Told {
                metrics: Arc::clone(&api.gateway.metrics),
                model: Arc::clone(choice.model()),
            };
            Some((Outgoing::of(choice, !peeked.is_bound())?, told))
        });
        Self {
            outgoing,
            ..Self::from(answer)
        }
    }

    /// See [`Answer::delivers`].
    pub(super) fn delivers(&mut self) {
        self.answer.delivers();
    }

    /// See [`Answer::next`].
    pub(super) async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let event = match self.answer.next().await? {
                Ok(event) => event,
                Err(error) => return Some(Err(error)),
            };
            let Some((outgoing, told)) = &mut self.outgoing else {
                return Some(Ok(event));
            };
            if matches!(event, Event::End { .. }) {
                let verticals = &told.metrics.verticals;
                verticals.guard(&told.model, Side::Output, outgoing.found());
            }
            self.ready.extend(outgoing.event(event));
        }
    }
}

/// Rules and marks of one answer.
pub(super) struct Outgoing {
    guards: Arc<Guards>,
    /// What ends the thoughts.
    until: Option<Arc<str>>,
    choices: BTreeMap<u32, State>,
    /// What the rules found.
    found: Found,
}

/// One choice.
struct State {
    thoughts: Option<Thoughts>,
    text: Filter,
    thought: Filter,
    /// Calls wait for their end: their arguments are one JSON text.
    calls: BTreeMap<u32, CallDelta>,
    over: bool,
}

/// What of a choice may go out.
#[derive(Default)]
struct Passing {
    text: String,
    thought: String,
    calls: Vec<CallDelta>,
}

impl Outgoing {
    /// `None` where nothing has to be done.
    pub(super) fn of(choice: &Choice, thinks: bool) -> Option<Self> {
        let until = choice.profile().filter(|_| thinks).and_then(|profile| {
            let reasoning = profile.reasoning.as_ref()?;
            Some(Arc::from(reasoning.until.as_str()))
        });
        Self::new(Arc::clone(choice.guards()), until)
    }

    fn new(guards: Arc<Guards>, until: Option<Arc<str>>) -> Option<Self> {
        (until.is_some() || guards.look_at(Side::Output)).then(|| Self {
            guards,
            until,
            choices: BTreeMap::new(),
            found: Found::default(),
        })
    }

    /// What goes out in this event's place.
    pub(super) fn event(&mut self, event: Event) -> Vec<Event> {
        match event {
            Event::Delta(delta) => self.delta(delta).into_iter().collect(),
            Event::Finish { choice, finish } => self.finish(choice, finish),
            Event::Relay { frames, ends, text } => vec![Event::Relay {
                frames: self.frames(&frames),
                ends,
                text,
            }],
            Event::End { .. } => vec![event],
        }
    }

    /// What the rules found in the whole answer, once it has ended.
    pub(super) fn found(&self) -> &Found {
        &self.found
    }

    fn delta(&mut self, delta: Delta) -> Option<Event> {
        let Delta {
            choice,
            text,
            thought,
            calls,
            mut logprobs,
        } = delta;
        let passing = self.more(choice, &text, &thought, calls);
        // They spell what is hidden.
        if self.guards.hold(Side::Output) {
            logprobs.clear();
        }
        let delta = passing.delta(choice, logprobs);
        (delta
            != Delta {
                choice,
                ..Delta::default()
            })
        .then_some(Event::Delta(delta))
    }

    fn finish(&mut self, choice: u32, finish: Finish) -> Vec<Event> {
        let (passing, finish) = self.rest(choice, finish);
        let delta = passing.delta(choice, Vec::new());
        let rest = (delta
            != Delta {
                choice,
                ..Delta::default()
            })
        .then_some(Event::Delta(delta));
        let end = Event::Finish { choice, finish };
        rest.into_iter().chain([end]).collect()
    }

    fn state(&mut self, choice: u32) -> &mut State {
        let (guards, until) = (&self.guards, &self.until);
        self.choices.entry(choice).or_insert_with(|| State {
            thoughts: until.as_ref().map(|until| Thoughts::until(until)),
            text: guards.filter(Side::Output),
            thought: guards.filter(Side::Output),
            calls: BTreeMap::new(),
            over: false,
        })
    }

    /// More of a choice.
    fn more(&mut self, choice: u32, text: &str, thought: &str, calls: Vec<CallDelta>) -> Passing {
        let holds = self.guards.look_at(Side::Output);
        let state = self.state(choice);
        let mut passing = state.more(text, thought);
        if holds {
            for call in calls {
                state.call(call);
            }
        } else {
            passing.calls = calls;
        }
        passing
    }

    /// A choice of which no more comes, and why it ended.
    fn entire(&mut self, choice: u32, read: frames::Read, finish: Finish) -> (Passing, Finish) {
        let holds = self.guards.look_at(Side::Output);
        let state = self.state(choice);
        let mut passing = state.entire(&read.text, &read.thought);
        if holds {
            for call in read.calls {
                state.call(call);
            }
        } else {
            passing.calls = read.calls;
        }
        let (rest, finish) = self.rest(choice, finish);
        passing.calls.extend(rest.calls);
        (passing, finish)
    }

    /// What was kept back of a choice that has ended, and why it has.
    fn rest(&mut self, choice: u32, finish: Finish) -> (Passing, Finish) {
        let guards = Arc::clone(&self.guards);
        let state = self.state(choice);
        let mut passing = state.end();
        let mut found = state.text.found();
        let cut = found.cut;
        found.add(state.thought.found());
        for mut call in std::mem::take(&mut state.calls).into_values() {
            call.arguments = guards.arguments(Side::Output, &call.arguments, &mut found);
            passing.calls.push(call);
        }
        // Thoughts and calls may be cut without the answer being so.
        let cut = cut && finish != Finish::ToolCalls;
        let finish = match (&found.blocked, cut) {
            (Some(_), _) => {
                passing.calls.clear();
                Finish::ContentFilter
            }
            (None, true) => Finish::Length,
            (None, false) => finish,
        };
        self.found.add(found);
        (passing, finish)
    }
}

impl State {
    fn more(&mut self, text: &str, thought: &str) -> Passing {
        let split = match &mut self.thoughts {
            Some(thoughts) => thoughts.push(text),
            None => Split {
                text: text.to_owned(),
                thought: String::new(),
            },
        };
        let thought = thought.to_owned() + &split.thought;
        self.pass(&split.text, &thought)
    }

    fn pass(&mut self, text: &str, thought: &str) -> Passing {
        // What one of them may not say, the other may not go on with.
        if self.over {
            return Passing::default();
        }
        let mut passing = Passing {
            thought: self.thought.push(thought),
            ..Passing::default()
        };
        if !self.thought.is_blocked() {
            passing.text = self.text.push(text);
        }
        self.over = self.thought.is_blocked() || self.text.is_blocked();
        passing
    }

    /// All of it at once; then nothing is kept back.
    fn entire(&mut self, text: &str, thought: &str) -> Passing {
        let (mut thought, mut text) = (thought.to_owned(), text.to_owned());
        if let Some(thoughts) = &mut self.thoughts {
            for split in [thoughts.push(&std::mem::take(&mut text)), thoughts.finish()] {
                thought += &split.thought;
                text += &split.text;
            }
        }
        let mut passing = Passing {
            thought: self.thought.whole(&thought),
            ..Passing::default()
        };
        if !self.thought.is_blocked() {
            passing.text = self.text.whole(&text);
        }
        self.over = true;
        passing
    }

    fn call(&mut self, more: CallDelta) {
        match self.calls.get_mut(&more.index) {
            Some(call) => {
                call.opens = call.opens.take().or(more.opens);
                call.arguments.push_str(&more.arguments);
            }
            None => {
                self.calls.insert(more.index, more);
            }
        }
    }

    fn end(&mut self) -> Passing {
        let split = self.thoughts.as_mut().map(Thoughts::finish);
        let split = split.unwrap_or_default();
        let mut passing = self.pass(&split.text, &split.thought);
        if !self.over {
            passing.thought += &self.thought.finish();
            passing.text += &self.text.finish();
        }
        passing
    }
}

impl Passing {
    fn delta(self, choice: u32, logprobs: Vec<crate::types::TokenLogprob>) -> Delta {
        Delta {
            choice,
            text: self.text,
            thought: self.thought,
            calls: self.calls,
            logprobs,
        }
    }
}

#[cfg(test)]
mod tests;
