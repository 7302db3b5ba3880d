//! `POST /v1/chat/completions`

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::WireUsage;
use super::answer::{self, Shape};
use super::logprobs::Logprobs;
use super::sampling::{Stop, StreamOptions, max_tokens, sampling, stops};
use super::unsupported::{
    empty, field, never, no, none_or_auto, one, refuse, text_format, text_modality, usual_tier,
    zero,
};
use crate::api::asked::{Asked, end_user};
use crate::api::body::Json;
use crate::api::error::ApiError;
use crate::api::{Api, Shared};
use crate::types::{
    Chat as Conversation, Delta as Piece, Endpoint, Finish, Generate, Message, Prompt, Role, Usage,
};

const MAX_TOP_LOGPROBS: u8 = 20;

#[derive(Deserialize)]
pub(in crate::api) struct Request {
    model: String,
    messages: Vec<WireMessage>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    logprobs: Option<bool>,
    top_logprobs: Option<u8>,
    user: Option<String>,
    safety_identifier: Option<String>,
    /// Not of OpenAI: goes on past the model's own end. For benchmarks.
    ignore_eos: Option<bool>,
    // Known, and refused unless they ask for nothing:
    n: Option<Value>,
    tools: Option<Value>,
    tool_choice: Option<Value>,
    functions: Option<Value>,
    function_call: Option<Value>,
    response_format: Option<Value>,
    frequency_penalty: Option<Value>,
    presence_penalty: Option<Value>,
    repetition_penalty: Option<Value>,
    logit_bias: Option<Value>,
    top_k: Option<Value>,
    min_p: Option<Value>,
    min_tokens: Option<Value>,
    modalities: Option<Value>,
    audio: Option<Value>,
    prediction: Option<Value>,
    web_search_options: Option<Value>,
    reasoning_effort: Option<Value>,
    verbosity: Option<Value>,
    service_tier: Option<Value>,
    store: Option<Value>,
}

#[derive(Deserialize)]
struct WireMessage {
    role: WireRole,
    #[serde(default)]
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Value>,
    function_call: Option<Value>,
    audio: Option<Value>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum WireRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
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
        let end_user = request.end_user()?;
        let body = request.decode()?;
        let asks_logprobs = body.top_logprobs.is_some();
        let ask = asked.ask(Endpoint::Chat, &model, end_user, body);
        let (served, meter) = api.gateway.generate(ask).await?;
        let chat = Chat {
            id: format!("chatcmpl-{}", request_id.simple()),
            created: Timestamp::now().as_second(),
            model: served.model.to_string(),
            asks_logprobs,
            include_usage: include_usage.unwrap_or(false),
        };
        let response = if streams {
            answer::streamed(meter, chat)
        } else {
            axum::Json(chat.completion(answer::whole(meter, 1).await?)).into_response()
        };
        Ok(answer::with_headers(response, &served))
    };
    let answer = answer.await;
    observed(&api, Endpoint::Chat, &model, answer)
}

/// Counts the answer, and gives it.
pub(super) fn observed(
    api: &Api,
    endpoint: Endpoint,
    model: &str,
    answer: Result<Response, ApiError>,
) -> Response {
    let response = answer.into_response();
    let label = api.gateway.router.label(model);
    api.gateway
        .metrics
        .request(endpoint, label, response.status().as_u16());
    response
}

impl Request {
    /// `safety_identifier` is the newer name of `user`.
    fn end_user(&mut self) -> Result<Option<String>, ApiError> {
        let newer = end_user("safety_identifier", self.safety_identifier.take())?;
        Ok(newer.or(end_user("user", self.user.take())?))
    }

    fn decode(self) -> Result<Generate, ApiError> {
        self.refuse_unsupported()?;
        if self.messages.is_empty() {
            return Err(ApiError::invalid(
                Some("messages"),
                "messages must hold at least one",
            ));
        }
        let limit = max_tokens("max_completion_tokens", self.max_completion_tokens)?;
        Ok(Generate {
            max_tokens: limit.or(max_tokens("max_tokens", self.max_tokens)?),
            sampling: sampling(self.temperature, self.top_p, self.seed)?,
            top_logprobs: top_logprobs(self.logprobs, self.top_logprobs)?,
            stop: stops(self.stop)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            prompts: vec![Prompt::Chat(Conversation {
                messages: self
                    .messages
                    .into_iter()
                    .enumerate()
                    .map(|(index, message)| message.decode(index))
                    .collect::<Result<_, _>>()?,
                ..Conversation::default()
            })],
            ..Generate::default()
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        refuse(&[
            field("n", &self.n, one),
            field("tools", &self.tools, empty),
            field("tool_choice", &self.tool_choice, none_or_auto),
            field("functions", &self.functions, empty),
            field("function_call", &self.function_call, none_or_auto),
            field("response_format", &self.response_format, text_format),
            field("frequency_penalty", &self.frequency_penalty, zero),
            field("presence_penalty", &self.presence_penalty, zero),
            field("repetition_penalty", &self.repetition_penalty, one),
            field("logit_bias", &self.logit_bias, empty),
            field("top_k", &self.top_k, |value| {
                matches!(value.as_i64(), Some(0 | -1))
            }),
            field("min_p", &self.min_p, zero),
            field("min_tokens", &self.min_tokens, zero),
            field("modalities", &self.modalities, text_modality),
            field("audio", &self.audio, never),
            field("prediction", &self.prediction, never),
            field("web_search_options", &self.web_search_options, never),
            field("reasoning_effort", &self.reasoning_effort, |value| {
                value == "none"
            }),
            field("verbosity", &self.verbosity, |value| value == "medium"),
            field("service_tier", &self.service_tier, usual_tier),
            field("store", &self.store, no),
        ])
    }
}

fn top_logprobs(logprobs: Option<bool>, top: Option<u8>) -> Result<Option<u8>, ApiError> {
    match (logprobs.unwrap_or(false), top) {
        (false, Some(1..)) => Err(ApiError::invalid(
            Some("top_logprobs"),
            "top_logprobs needs logprobs to be true",
        )),
        (_, Some(count)) if count > MAX_TOP_LOGPROBS => Err(ApiError::invalid(
            Some("top_logprobs"),
            "top_logprobs may be 20 at most",
        )),
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, _) => Ok(None),
    }
}

impl WireMessage {
    fn decode(self, index: usize) -> Result<Message, ApiError> {
        let at = |field: &str| format!("messages[{index}].{field}");
        for (field, value) in [
            ("tool_calls", &self.tool_calls),
            ("function_call", &self.function_call),
            ("audio", &self.audio),
        ] {
            if value
                .as_ref()
                .is_some_and(|value| !value.is_null() && !empty(value))
            {
                return Err(ApiError::unsupported(&at(field)));
            }
        }
        let role = match self.role {
            WireRole::System | WireRole::Developer => Role::System,
            WireRole::User => Role::User,
            WireRole::Assistant => Role::Assistant,
            WireRole::Tool | WireRole::Function => return Err(ApiError::unsupported(&at("role"))),
        };
        let content = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => joined(parts, &at("content"))?,
            None if role == Role::Assistant => String::new(),
            None => {
                return Err(ApiError::invalid(
                    Some(&at("content")),
                    "the message has no content",
                ));
            }
        };
        Ok(Message {
            role,
            content,
            name: self.name,
            calls: Vec::new(),
            call_id: None,
        })
    }
}

/// The texts one after another: a message has one voice, however many parts it comes in.
fn joined(parts: Vec<Part>, at: &str) -> Result<String, ApiError> {
    let mut content = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        match (part.r#type.as_str(), part.text) {
            ("text", Some(text)) => content.push_str(&text),
            ("text", None) => {
                return Err(ApiError::invalid(
                    Some(&format!("{at}[{index}].text")),
                    "the part has no text",
                ));
            }
            _ => return Err(ApiError::unsupported(&format!("{at}[{index}].type"))),
        }
    }
    Ok(content)
}

/// What every part of one answer says.
struct Chat {
    id: String,
    created: i64,
    model: String,
    asks_logprobs: bool,
    include_usage: bool,
}

#[derive(Serialize)]
struct Completion {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    choices: Vec<Choice>,
    usage: WireUsage,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    message: AnswerMessage,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct AnswerMessage {
    role: &'static str,
    content: String,
    refusal: Option<String>,
}

#[derive(Serialize)]
struct Chunk {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    choices: Vec<ChunkChoice>,
    /// Null on every chunk but the last, and not there at all where it wasn't asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<WireUsage>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl Chat {
    fn completion(self, whole: answer::Whole) -> Completion {
        Completion {
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            choices: (0..)
                .zip(whole.choices)
                .map(|(index, choice)| Choice {
                    index,
                    message: AnswerMessage {
                        role: "assistant",
                        content: choice.delta.text,
                        refusal: None,
                    },
                    logprobs: Logprobs::new(self.asks_logprobs, choice.delta.logprobs),
                    finish_reason: choice.finish.map(Finish::as_str),
                })
                .collect(),
            usage: whole.usage.into(),
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<WireUsage>) -> Chunk {
        Chunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        }
    }

    fn choice(
        &self,
        delta: Delta,
        logprobs: Option<Logprobs>,
        finish_reason: Option<&'static str>,
    ) -> Chunk {
        self.chunk(
            vec![ChunkChoice {
                index: 0,
                delta,
                logprobs,
                finish_reason,
            }],
            None,
        )
    }
}

impl Shape for Chat {
    type Chunk = Chunk;

    fn first(&self) -> Option<Chunk> {
        let delta = Delta {
            role: Some("assistant"),
            content: Some(String::new()),
        };
        Some(self.choice(delta, None, None))
    }

    fn delta(&self, piece: Piece) -> Chunk {
        let delta = Delta {
            role: None,
            content: Some(piece.text),
        };
        self.choice(
            delta,
            Logprobs::new(self.asks_logprobs, piece.logprobs),
            None,
        )
    }

    fn finish(&self, _: u32, finish: Finish) -> Chunk {
        self.choice(Delta::default(), None, Some(finish.as_str()))
    }

    fn usage(&self, usage: Usage) -> Option<Chunk> {
        self.include_usage
            .then(|| self.chunk(Vec::new(), Some(usage.into())))
    }
}
