//! OpenAI's shapes: <https://platform.openai.com/docs/api-reference>

pub(super) mod batches;
pub(super) mod chat;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod files;
pub(super) mod models;
pub(super) mod route;
pub(super) mod tokens;
pub(super) mod uploads;

mod answer;
mod form;
mod incoming;
mod logprobs;
mod outgoing;
mod profile;
mod relay;
mod sampling;
pub(super) mod schemas;
mod shadow;
mod unsupported;

use serde::Serialize;
use utoipa::ToSchema;

use crate::gateway::Served;
use crate::types::Usage;

/// `system_fingerprint`: another one where a seed can't be expected to give the same answer.
fn fingerprint(served: &Served) -> String {
    let mut hash = crc32fast::Hasher::new();
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    hash.update(served.revision.as_bytes());
    format!("fp_{:08x}", hash.finalize())
}

/// `usage`, with the details that clients of today look for.
#[derive(Serialize, ToSchema)]
#[schema(as = CompletionUsage)]
struct WireUsage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PromptTokensDetails)]
struct PromptDetails {
    cached_tokens: u32,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CompletionTokensDetails)]
struct CompletionDetails {
    reasoning_tokens: u32,
}

impl From<Usage> for WireUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens(),
            prompt_tokens_details: PromptDetails {
                cached_tokens: usage.cached_tokens,
            },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: usage.reasoning_tokens,
            },
        }
    }
}
