//! The shapes of a text's continuation.

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::{Logprobs, Place};
use crate::api::openai::WireUsage;
use crate::api::openai::answer::{Shape, Whole};
use crate::types::{Delta, Finish, Usage};

/// What every part of one answer says.
pub(super) struct Text {
    id: String,
    created: i64,
    model: String,
    fingerprint: String,
    asks_logprobs: bool,
    include_usage: bool,
    /// Of each choice, while it is streamed.
    places: HashMap<u32, Place>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CreateCompletionResponse)]
pub(in crate::api) struct Completion {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    system_fingerprint: String,
    choices: Vec<Choice>,
    /// As on a chat's chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WireUsage>)]
    usage: Option<Option<WireUsage>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CompletionChoice)]
struct Choice {
    index: u32,
    text: String,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

impl Text {
    pub(super) fn new(
        id: String,
        created: i64,
        (model, fingerprint): (String, String),
        asks_logprobs: bool,
        include_usage: bool,
    ) -> Self {
        Self {
            id,
            created,
            model,
            fingerprint,
            asks_logprobs,
            include_usage,
            places: HashMap::new(),
        }
    }

    pub(super) fn completion(&self, whole: Whole) -> Completion {
        let choices = (0..).zip(whole.choices).map(|(index, choice)| Choice {
            index,
            text: choice.text,
            logprobs: self
                .asks_logprobs
                .then(|| Logprobs::new(choice.logprobs, &mut Place::default())),
            finish_reason: Some(choice.finish.as_str()),
        });
        Completion {
            usage: Some(Some(whole.usage.into())),
            ..self.chunk(choices.collect(), None)
        }
    }

    fn chunk(&self, choices: Vec<Choice>, usage: Option<WireUsage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.fingerprint.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        }
    }
}

impl Shape for Text {
    type Chunk = Completion;

    fn first(&self, _: u32) -> Option<Completion> {
        None
    }

    fn delta(&mut self, delta: Delta) -> Completion {
        let place = self.places.entry(delta.choice).or_default();
        let logprobs = self
            .asks_logprobs
            .then(|| Logprobs::new(delta.logprobs, place));
        self.chunk(
            vec![Choice {
                index: delta.choice,
                text: delta.text,
                logprobs,
                finish_reason: None,
            }],
            None,
        )
    }

    fn finish(&self, choice: u32, finish: Finish) -> Completion {
        let choice = Choice {
            index: choice,
            text: String::new(),
            logprobs: None,
            finish_reason: Some(finish.as_str()),
        };
        self.chunk(vec![choice], None)
    }

    fn usage(&self, usage: Usage) -> Option<Completion> {
        self.include_usage
            .then(|| self.chunk(Vec::new(), Some(usage.into())))
    }
}
