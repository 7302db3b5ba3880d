//! What a request takes of its caller's limits, before it waits for anything.

use super::{Ask, Error, Gateway};
use crate::tenancy::{Need, Reservation, Standing};
use crate::types::{self, Class, Embed, Generate, Input, Measure, Plan, Prompt};

/// Where no tokenizer is at hand. English has about 4 bytes a token, most other writing less.
const BYTES_PER_TOKEN: u64 = 3;
/// What a chat template adds to a turn.
const TOKENS_PER_TURN: u64 = 8;
/// Where nobody knows how long an answer can be.
const UNKNOWN_COMPLETION: u64 = 4096;

impl Gateway {
    /// Reserves the most that the answers can take, and cuts them to what a budget covers.
    pub(super) async fn reserve(
        &self,
        ask: &mut Ask<Generate>,
        plan: &Plan,
    ) -> Result<(Reserved, Measure), Error> {
        let measure = if ask.access.counts_tokens() {
            let measured = self.scheduler.measure(plan, &ask.body).await?;
            measured.unwrap_or_else(|| estimate(&ask.body))
        } else {
            estimate(&ask.body)
        };
        let need = Need {
            prompt_tokens: measure.prompt_tokens,
            completion_tokens: measure.completion_tokens,
            named: ask.body.max_tokens.is_some(),
            answers: ask.body.answers(),
            batch: ask.class == Class::Batch,
        };
        let reserved = self
            .limiter
            .reserve(&ask.access, &plan.model, &plan.price, need)
            .await?;
        if reserved.completion_tokens < need.completion_tokens {
            let each = reserved.completion_tokens / u64::from(need.answers).max(1);
            let each = u32::try_from(each).unwrap_or(u32::MAX);
            ask.body.max_tokens = Some(ask.body.max_tokens.map_or(each, |asked| asked.min(each)));
        }
        Ok((boxed(reserved), measure))
    }

    /// As [`Gateway::reserve`], for texts to be embedded.
    pub(super) async fn reserve_embed(
        &self,
        ask: &Ask<Embed>,
        plan: &Plan,
    ) -> Result<(Reserved, Measure), Error> {
        let measured = if ask.access.counts_tokens() {
            self.scheduler.measure_embed(plan, &ask.body).await?
        } else {
            None
        };
        let estimate = || ask.body.inputs.iter().map(tokens_of).sum();
        let prompt_tokens = measured.map_or_else(estimate, u64::from);
        let need = Need {
            prompt_tokens,
            completion_tokens: 0,
            named: true,
            answers: 1,
            batch: ask.class == Class::Batch,
        };
        let reserved = self
            .limiter
            .reserve(&ask.access, &plan.model, &plan.price, need);
        let measure = Measure {
            prompt_tokens,
            completion_tokens: 0,
        };
        Ok((boxed(reserved.await?), measure))
    }
}

/// What was reserved, and how its owner stands by it.
type Reserved = (Box<dyn types::Reserved>, Standing);

fn boxed(reserved: Reservation) -> Reserved {
    let standing = reserved.standing.clone();
    (Box::new(reserved), standing)
}

fn estimate(request: &Generate) -> Measure {
    let each = request.max_tokens.map_or(UNKNOWN_COMPLETION, u64::from);
    let prompt_tokens = match &request.relay {
        Some(relay) if request.prompts.is_empty() => relay.guess_prompt(BYTES_PER_TOKEN),
        _ => request.prompts.iter().map(prompt_tokens).sum(),
    };
    Measure {
        prompt_tokens,
        completion_tokens: each * u64::from(request.answers()),
    }
}

fn prompt_tokens(prompt: &Prompt) -> u64 {
    match prompt {
        Prompt::Text(text) => text_tokens(text),
        Prompt::Tokens(ids) => ids.len() as u64,
        Prompt::Chat(chat) => {
            let turns = chat.messages.iter();
            let turns = turns.map(|message| TOKENS_PER_TURN + text_tokens(&message.content));
            turns.sum::<u64>() + text_tokens(chat.opening.as_deref().unwrap_or_default())
        }
    }
}

fn tokens_of(input: &Input) -> u64 {
    match input {
        Input::Text(text) => text_tokens(text),
        Input::Tokens(ids) => ids.len() as u64,
    }
}

fn text_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(BYTES_PER_TOKEN)
}
