use std::borrow::Cow;
use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use serde::{Deserialize, Serialize};

use super::Usage;

/// A worker's answer under way. Dropped, it cancels the work.
pub type Events = Pin<Box<dyn Stream<Item = Result<Event, Failure>> + Send>>;

/// What a worker tells while it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// More of one of the answers.
    Delta(Delta),
    /// More of the answers, in the client's own wire format, from a worker that speaks it. It is passed on as it is.
    Relay {
        /// Whole frames of a stream, or a whole body.
        frames: Bytes,
        /// They tell of an end: they wait until the charge stands.
        ends: bool,
        /// The text in them, where the answer is one that another worker could go on with.
        text: Option<String>,
    },
    /// One of the answers has come to its end; the others may go on.
    Finish {
        /// Which.
        choice: u32,
        /// Why it ended.
        finish: Finish,
    },
    /// The last event, once every answer has come to its end.
    End {
        /// What it took, all answers together.
        usage: Usage,
    },
}

/// More of one of the answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Which of them, as [`super::Generate`] numbers them.
    pub choice: u32,
    /// Whole characters and never part of a stop string. May be empty where tokens came whose text is held
    /// back.
    pub text: String,
    /// More of what the model thinks before it answers.
    pub thought: String,
    /// More of the calls that it makes.
    pub calls: Vec<CallDelta>,
    /// One for each token of this delta, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// More of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallDelta {
    /// Which of the answer's calls, from 0.
    pub index: u32,
    /// Its id and the function's name: on the first delta of a call alone.
    pub opens: Option<(String, String)>,
    /// More of its arguments, a JSON text.
    pub arguments: String,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// The model's own end, or a stop string.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
    /// It calls functions, and waits for what they give.
    ToolCalls,
    /// A rule of the vertical refuses what comes next.
    ContentFilter,
}

impl Finish {
    /// OpenAI's `finish_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its id in the model's vocabulary.
    pub id: u32,
    /// The token's bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// ln p of the raw logits; `None` for the first token of a prompt, which nothing came before.
    pub logprob: Option<f32>,
    /// The likeliest tokens in falling order, as many as were asked for.
    pub top: Vec<TopLogprob>,
}

/// A token's text and its log-probability (natural, of the raw logits).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// The token's bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// ln p, before temperature and every cut.
    pub logprob: f32,
}

/// Why a worker gave no answer, or broke one off.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum Failure {
    /// The request can't be run by this model, whoever tries.
    #[error("{message}")]
    Invalid {
        /// The field to blame, in the request's terms.
        param: Option<Cow<'static, str>>,
        /// A sentence for the client.
        message: String,
    },
    /// Prompt and answer don't fit the model's context.
    #[error(
        "this model's maximum context length is {context} tokens, those of an answer included; {param} has at least {prompt}"
    )]
    ContextLength {
        /// Tokens that one sequence may have.
        context: u32,
        /// Tokens of the prompt, or a lower bound of them where it was too long to be counted.
        prompt: u32,
        /// The field that holds the prompt.
        param: Cow<'static, str>,
    },
    /// A remote worker refused the request as one that is wrong, whoever tries.
    #[error("{message}")]
    Refused {
        /// Its HTTP status, 4xx.
        status: u16,
        /// The field to blame, where it named one.
        param: Option<String>,
        /// Its word for the kind of error, where it has one.
        code: Option<String>,
        /// Its sentence for the client.
        message: String,
    },
    /// The weights are still being loaded, or could not be.
    #[error("the worker is not ready: {0}")]
    NotReady(String),
    /// The worker has as many requests as it can hold; the same one may succeed later.
    #[error("the worker is busy")]
    Busy,
    /// The worker broke: it is to blame, not the request.
    #[error("the worker failed: {0}")]
    Broken(String),
}

impl Failure {
    /// For the log: without the words of a worker, which may be the client's.
    #[must_use]
    pub fn told(&self) -> &str {
        match self {
            Self::Busy => "busy",
            Self::NotReady(reason) | Self::Broken(reason) => reason,
            Self::Invalid { .. } | Self::ContextLength { .. } | Self::Refused { .. } => "refused",
        }
    }

    /// Whether it was refused before anything ran: then nothing is booked.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Invalid { .. }
            | Self::ContextLength { .. }
            | Self::Refused { .. }
            | Self::NotReady(_)
            | Self::Busy => true,
            Self::Broken(_) => false,
        }
    }
}
