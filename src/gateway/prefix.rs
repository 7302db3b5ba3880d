//! What a prompt begins with, as hashes: by them a request finds the worker that has lately read the same.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::Ask;
use crate::types::{Chat, Generate, Plan, Preface, Prompt, Relay};

/// Bytes of a prompt between two hashes.
const BLOCK: usize = 1024;
/// Beyond so many of them nothing is told apart any more.
const BLOCKS: usize = 32;

/// A hash of each beginning of the request's prompt, the shortest first. The first is the adapter's, which a worker has
/// loaded for everybody; the others are salted by tenant, since no more is shared between tenants than a vertical's own words.
pub(super) fn of(ask: &Ask<Arc<Generate>>, plan: &Plan) -> Vec<u64> {
    let mut beginnings = Beginnings::default();
    if let Some(adapter) = &plan.adapter {
        adapter.path.hash(&mut beginnings.hasher);
        adapter.content.hash(&mut beginnings.hasher);
        beginnings.mark();
    }
    ask.access.caller.project.hash(&mut beginnings.hasher);
    match (&ask.body.relay, ask.body.prompts.first()) {
        (Some(relay), _) => beginnings.relay(relay),
        (None, Some(Prompt::Chat(chat))) => beginnings.chat(chat),
        (None, Some(Prompt::Text(text))) => beginnings.add(text.as_bytes()),
        (None, Some(Prompt::Tokens(tokens))) => {
            for tokens in tokens.chunks(BLOCK / 4) {
                tokens.hash(&mut beginnings.hasher);
                beginnings.mark();
            }
        }
        (None, None) => {}
    }
    beginnings.hashes
}

/// What of the request's conversation is its vertical's, as it stands there.
pub(super) fn preface(request: &Generate, plan: &Plan) -> Option<Preface> {
    match (&plan.profile, request.prompts.as_slice()) {
        (Some(profile), [Prompt::Chat(chat)]) => profile.preface(chat),
        _ => None,
    }
}

#[derive(Default)]
struct Beginnings {
    hasher: DefaultHasher,
    hashes: Vec<u64>,
}

impl Beginnings {
    /// Messages as they stand there: the next turn of a conversation sends the same ones again.
    fn relay(&mut self, relay: &Relay) {
        let Some(messages) = relay.get("messages") else {
            return self.add(relay.get("prompt").unwrap_or_default());
        };
        let messages: Vec<&RawValue> = serde_json::from_slice(messages).unwrap_or_default();
        for message in messages {
            self.add(message.get().as_bytes());
        }
    }

    fn chat(&mut self, chat: &Chat) {
        for message in &chat.messages {
            message.role.as_str().hash(&mut self.hasher);
            self.add(message.content.as_bytes());
        }
    }

    /// What is left over after the last whole block is a beginning of its own: a short system prompt is one.
    fn add(&mut self, text: &[u8]) {
        let left = BLOCKS.saturating_sub(self.hashes.len());
        for block in text.chunks(BLOCK).take(left) {
            block.hash(&mut self.hasher);
            self.mark();
        }
    }

    fn mark(&mut self) {
        if self.hashes.len() < BLOCKS {
            self.hashes.push(self.hasher.finish());
        }
    }
}
