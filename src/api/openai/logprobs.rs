//! `logprobs` of chat completions.

use serde::Serialize;
use utoipa::ToSchema;

use crate::types::{TokenLogprob, TopLogprob};

/// What stands for a token that can't come at all: JSON has no infinity. OpenAI's number.
const NEVER: f32 = -9999.0;

/// A log-probability that JSON can say.
pub(super) fn finite(logprob: f32) -> f32 {
    // NaN too is taken for the other one.
    logprob.max(NEVER)
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatLogprobs)]
pub(super) struct Logprobs {
    content: Vec<Token>,
    /// No model here refuses in a way of its own.
    refusal: Option<Vec<Token>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TokenLogprob)]
struct Token {
    #[serde(flatten)]
    chosen: Likely,
    top_logprobs: Vec<Likely>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TopLogprob)]
struct Likely {
    /// Bytes that are part of a character are shown as U+FFFD; `bytes` has them.
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Logprobs {
    /// `None` where they weren't asked for.
    pub(super) fn new(asked: bool, tokens: Vec<TokenLogprob>) -> Option<Self> {
        asked.then(|| Self {
            content: tokens.into_iter().map(Token::from).collect(),
            refusal: None,
        })
    }
}

impl From<TokenLogprob> for Token {
    fn from(token: TokenLogprob) -> Self {
        Self {
            // A chat shows no token of its prompt, so there is one.
            chosen: Likely::new(token.bytes, token.logprob.unwrap_or(NEVER)),
            top_logprobs: token.top.into_iter().map(Likely::from).collect(),
        }
    }
}

impl From<TopLogprob> for Likely {
    fn from(likely: TopLogprob) -> Self {
        Self::new(likely.bytes, likely.logprob)
    }
}

impl Likely {
    fn new(bytes: Vec<u8>, logprob: f32) -> Self {
        Self {
            token: String::from_utf8_lossy(&bytes).into_owned(),
            logprob: finite(logprob),
            bytes,
        }
    }
}
