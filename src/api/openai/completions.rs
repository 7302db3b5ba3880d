//! `POST /v1/completions`

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::WireUsage;
use super::answer::{self, Shape};
use super::chat::observed;
use super::sampling::{Stop, StreamOptions, max_tokens, sampling, stops};
use super::unsupported::{empty, field, never, no, one, refuse, zero};
use crate::api::Shared;
use crate::api::asked::{Asked, end_user};
use crate::api::body::Json;
use crate::api::error::ApiError;
use crate::types::{Delta, Endpoint, Finish, Generate, Prompt, Usage};

/// OpenAI's default of this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;

#[derive(Deserialize)]
pub(in crate::api) struct Request {
    model: String,
    prompt: Prompts,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    user: Option<String>,
    /// Not of OpenAI: goes on past the model's own end. For benchmarks.
    ignore_eos: Option<bool>,
    // Known, and refused unless they ask for nothing:
    n: Option<Value>,
    best_of: Option<Value>,
    echo: Option<Value>,
    suffix: Option<Value>,
    logprobs: Option<Value>,
    frequency_penalty: Option<Value>,
    presence_penalty: Option<Value>,
    repetition_penalty: Option<Value>,
    logit_bias: Option<Value>,
    top_k: Option<Value>,
    min_p: Option<Value>,
    min_tokens: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    One(String),
    Many(Vec<String>),
    /// Token ids, for one: not served yet.
    Tokens(#[expect(dead_code, reason = "its shape is enough to refuse it")] Vec<Value>),
}

pub(in crate::api) async fn create(
    State(api): Shared,
    asked: Asked,
    Json(mut request): Json<Request>,
) -> Response {
    let request_id = asked.request;
    let model = request.model.clone();
    let streams = request.stream.unwrap_or(false);
    let include_usage = request
        .stream_options
        .as_ref()
        .and_then(|options| options.include_usage);
    let answer = async {
        let end_user = end_user("user", request.user.take())?;
        let body = request.decode()?;
        let ask = asked.ask(Endpoint::Completions, &model, end_user, body);
        let (served, meter) = api.gateway.generate(ask).await?;
        let text = Text {
            id: format!("cmpl-{}", request_id.simple()),
            created: Timestamp::now().as_second(),
            model: served.model.to_string(),
            include_usage: include_usage.unwrap_or(false),
        };
        let response = if streams {
            answer::streamed(meter, text)
        } else {
            axum::Json(text.completion(answer::whole(meter, 1).await?)).into_response()
        };
        Ok(answer::with_headers(response, &served))
    };
    let answer = answer.await;
    observed(&api, Endpoint::Completions, &model, answer)
}

impl Request {
    fn decode(self) -> Result<Generate, ApiError> {
        self.refuse_unsupported()?;
        Ok(Generate {
            prompts: vec![Prompt::Text(self.prompt.only()?)],
            max_tokens: Some(
                max_tokens("max_tokens", self.max_tokens)?.unwrap_or(DEFAULT_MAX_TOKENS),
            ),
            sampling: sampling(self.temperature, self.top_p, self.seed)?,
            stop: stops(self.stop)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            ..Generate::default()
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        refuse(&[
            field("n", &self.n, one),
            field("best_of", &self.best_of, one),
            field("echo", &self.echo, no),
            field("suffix", &self.suffix, |value| value == ""),
            field("logprobs", &self.logprobs, never),
            field("frequency_penalty", &self.frequency_penalty, zero),
            field("presence_penalty", &self.presence_penalty, zero),
            field("repetition_penalty", &self.repetition_penalty, one),
            field("logit_bias", &self.logit_bias, empty),
            field("top_k", &self.top_k, |value| {
                matches!(value.as_i64(), Some(0 | -1))
            }),
            field("min_p", &self.min_p, zero),
            field("min_tokens", &self.min_tokens, zero),
        ])
    }
}

impl Prompts {
    fn only(self) -> Result<String, ApiError> {
        match self {
            Self::One(text) => Ok(text),
            Self::Many(mut texts) if texts.len() == 1 => Ok(texts.remove(0)),
            Self::Many(texts) if texts.is_empty() => Err(ApiError::invalid(
                Some("prompt"),
                "prompt must hold at least one text",
            )),
            Self::Many(_) | Self::Tokens(_) => Err(ApiError::unsupported("prompt")),
        }
    }
}

/// What every part of one answer says.
struct Text {
    id: String,
    created: i64,
    model: String,
    include_usage: bool,
}

#[derive(Serialize)]
struct Completion {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    choices: Vec<Choice>,
    /// As on a chat's chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<WireUsage>>,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    text: String,
    /// Not there yet, and a key that clients read all the same.
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

impl Text {
    fn completion(&self, whole: answer::Whole) -> Completion {
        Completion {
            usage: Some(Some(whole.usage.into())),
            ..self.chunk(
                (0..)
                    .zip(whole.choices)
                    .map(|(index, choice)| Choice {
                        index,
                        text: choice.delta.text,
                        logprobs: None,
                        finish_reason: choice.finish.map(Finish::as_str),
                    })
                    .collect(),
                None,
            )
        }
    }

    fn chunk(&self, choices: Vec<Choice>, usage: Option<WireUsage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        }
    }
}

impl Shape for Text {
    type Chunk = Completion;

    fn first(&self) -> Option<Completion> {
        None
    }

    fn delta(&self, delta: Delta) -> Completion {
        self.chunk(
            vec![Choice {
                index: 0,
                text: delta.text,
                logprobs: None,
                finish_reason: None,
            }],
            None,
        )
    }

    fn finish(&self, _: u32, finish: Finish) -> Completion {
        let choice = Choice {
            index: 0,
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
