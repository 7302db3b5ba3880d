//! `logprobs` of chat completions.

use serde::Serialize;

use crate::types::{TokenLogprob, TopLogprob};

#[derive(Serialize)]
pub(super) struct Logprobs {
    content: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    #[serde(flatten)]
    chosen: Likely,
    top_logprobs: Vec<Likely>,
}

#[derive(Serialize)]
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
        })
    }
}

impl From<TokenLogprob> for Token {
    fn from(token: TokenLogprob) -> Self {
        Self {
            chosen: Likely {
                token: String::from_utf8_lossy(&token.bytes).into_owned(),
                logprob: token.logprob.unwrap_or(0.0),
                bytes: token.bytes,
            },
            top_logprobs: token.top.into_iter().map(Likely::from).collect(),
        }
    }
}

impl From<TopLogprob> for Likely {
    fn from(likely: TopLogprob) -> Self {
        Self {
            token: String::from_utf8_lossy(&likely.bytes).into_owned(),
            logprob: likely.logprob,
            bytes: likely.bytes,
        }
    }
}
