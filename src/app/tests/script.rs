//! A worker that does what it is told, and counts for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::mpsc;

use crate::types::{
    Count, Delta, Event, Events, Failure, Generate, Job, Measure, Progress, Prompt, Usage,
};
use crate::worker::{Health, Worker};

/// What a run is told to do next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Take the prompt on, where that isn't done, and generate so many tokens.
    Tokens(u32),
    /// Come to the answer's end.
    End,
    /// Break.
    Break,
    /// Be too busy, where the prompt isn't taken on.
    Refuse,
}

/// One request as the worker sees it.
pub(super) struct Run {
    orders: Mutex<Option<mpsc::Receiver<Order>>>,
    count: Mutex<Count>,
}

/// Every run, by the words of its prompt.
#[derive(Default)]
pub(super) struct Scripted {
    runs: Mutex<HashMap<String, Arc<Run>>>,
}

pub(super) const PROMPT_TOKENS: u32 = 5;
const SLOTS: usize = 4;
/// More than any test gives.
const MAX_ORDERS: usize = 1024;

impl Run {
    /// What the worker has done for it, by its own count.
    pub(super) fn count(&self) -> Count {
        *self.count.lock().unwrap()
    }

    /// Counts what the meter takes.
    fn add(&self, taken: bool, to: impl FnOnce(&mut Count)) {
        if taken {
            to(&mut self.count.lock().unwrap());
        }
    }
}

impl Scripted {
    /// A request with these words is going to come.
    pub(super) fn expect(&self, words: String) -> (mpsc::Sender<Order>, Arc<Run>) {
        let (tell, orders) = mpsc::channel(MAX_ORDERS);
        let run = Arc::new(Run {
            orders: Mutex::new(Some(orders)),
            count: Mutex::default(),
        });
        self.runs.lock().unwrap().insert(words, Arc::clone(&run));
        (tell, run)
    }
}

#[async_trait]
impl Worker for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn capacity(&self) -> usize {
        SLOTS
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    async fn measure(&self, request: &Generate) -> Result<Option<Measure>, Failure> {
        Ok(Some(Measure {
            prompt_tokens: PROMPT_TOKENS.into(),
            completion_tokens: request.max_tokens.unwrap().into(),
        }))
    }

    async fn generate(&self, job: Job, progress: Arc<Progress>) -> Result<Events, Failure> {
        let Some(Prompt::Text(words)) = job.request.prompts.first() else {
            return Err(Failure::Broken("no words".into()));
        };
        let run = Arc::clone(&self.runs.lock().unwrap()[words]);
        let orders = run.orders.lock().unwrap().take().unwrap();
        let answer = Answer {
            orders,
            left: job.request.max_tokens.unwrap(),
            run,
            progress,
        };
        Ok(Box::pin(stream::unfold(answer, |mut answer| async {
            let event = answer.next().await?;
            Some((event, answer))
        })))
    }
}

struct Answer {
    orders: mpsc::Receiver<Order>,
    run: Arc<Run>,
    progress: Arc<Progress>,
    /// Tokens that it may still generate.
    left: u32,
}

impl Answer {
    async fn next(&mut self) -> Option<Result<Event, Failure>> {
        let begun = self.run.count().prompt_tokens > 0;
        Some(match self.orders.recv().await? {
            Order::Refuse if !begun => Err(Failure::Busy),
            Order::Refuse | Order::Break => Err(Failure::Broken("told to".into())),
            Order::Tokens(tokens) => {
                self.begin();
                let tokens = tokens.min(self.left);
                self.left -= tokens;
                for _ in 0..tokens {
                    let taken = self.progress.advance();
                    self.run.add(taken, |count| count.completion_tokens += 1);
                }
                Ok(Event::Delta(Delta::default()))
            }
            Order::End => {
                self.begin();
                let usage = usage_of(self.run.count());
                Ok(Event::End { usage })
            }
        })
    }

    fn begin(&self) {
        if self.run.count().prompt_tokens == 0 {
            let taken = self.progress.start(PROMPT_TOKENS);
            let prompt = |count: &mut Count| count.prompt_tokens = PROMPT_TOKENS;
            self.run.add(taken, prompt);
        }
    }
}

pub(super) fn usage_of(count: Count) -> Usage {
    Usage {
        prompt_tokens: count.prompt_tokens,
        cached_tokens: count.cached_tokens,
        completion_tokens: count.completion_tokens,
        reasoning_tokens: 0,
    }
}
