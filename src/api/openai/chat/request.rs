//! The request, as it comes and as it is checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use super::answer::Manner;
use super::messages::{WireMessage, conversation, opening};
use super::tools::{self, WireCall, WireChoice, WireFunction, WireTool};
use crate::api::asked::end_user;
use crate::api::body::optional_object;
use crate::api::error::ApiError;
use crate::api::openai::sampling::{
    Stop, StreamOptions, Tier, WireSampling, choices, max_tokens, min_tokens, stops,
};
use crate::api::openai::schemas;
use crate::api::openai::unsupported::{field, never, refuse, text_modality};
use crate::types::{Chat, Class, Format, Generate, Prompt, Thinking, ToolChoice};

const MAX_TOP_LOGPROBS: u8 = 20;
const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];
const VERBOSITIES: [&str; 3] = ["low", "medium", "high"];

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateChatCompletionRequest)]
pub(in crate::api) struct Request {
    /// The model, or an alias of one. It was read before.
    #[serde(default, rename = "model")]
    #[schema(value_type = String, required)]
    _model: IgnoredAny,
    #[schema(min_items = 1)]
    messages: Vec<WireMessage>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default, deserialize_with = "optional_object")]
    stream_options: Option<StreamOptions>,
    #[schema(minimum = 1, maximum = 128)]
    n: Option<u32>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(schema_with = schemas::biases)]
    logit_bias: Option<BTreeMap<String, f32>>,
    seed: Option<i64>,
    #[schema(schema_with = schemas::stop)]
    stop: Option<Stop>,
    logprobs: Option<bool>,
    #[schema(maximum = 20)]
    top_logprobs: Option<u8>,
    #[serde(default, deserialize_with = "optional_object")]
    response_format: Option<ResponseFormat>,
    #[schema(max_items = 128)]
    tools: Option<Vec<WireTool>>,
    #[schema(schema_with = schemas::tool_choice)]
    tool_choice: Option<WireChoice>,
    parallel_tool_calls: Option<bool>,
    /// The older name of `tools`.
    #[schema(max_items = 128)]
    functions: Option<Vec<WireFunction>>,
    /// The older name of `tool_choice`.
    #[schema(schema_with = schemas::function_call)]
    function_call: Option<WireCall>,
    /// The older name of `safety_identifier`.
    #[schema(max_length = 256)]
    user: Option<String>,
    /// The person behind the caller, as the ledger will name them.
    #[schema(max_length = 256)]
    safety_identifier: Option<String>,
    // Not of OpenAI, and named as other servers do:
    #[schema(exclusive_minimum = 0, maximum = 2)]
    repetition_penalty: Option<f32>,
    /// -1 and 0 leave all tokens.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    min_tokens: Option<u32>,
    /// Goes on past the model's own end. For benchmarks.
    ignore_eos: Option<bool>,
    /// The last message is an assistant's that is not at its end: the answer goes on from there.
    continue_final_message: Option<bool>,
    /// The answer repeats what it goes on from, with its log-probabilities where they are asked for.
    echo: Option<bool>,
    // Known, and refused unless they ask for nothing:
    #[schema(schema_with = schemas::text_alone)]
    modalities: Option<Value>,
    #[schema(schema_with = schemas::nothing)]
    audio: Option<Value>,
    #[schema(schema_with = schemas::nothing)]
    web_search_options: Option<Value>,
    /// How much a model thinks before it answers, where it is one that does. An answer that is bound to a form has no
    /// thoughts before it.
    #[schema(schema_with = efforts)]
    reasoning_effort: Option<String>,
    // Known, and of no effect on the models that run here: how much to say.
    #[schema(schema_with = verbosities)]
    verbosity: Option<String>,
    service_tier: Option<Tier>,
}

/// `response_format`
#[derive(Deserialize, ToSchema)]
struct ResponseFormat {
    #[schema(schema_with = formats)]
    r#type: String,
    json_schema: Option<JsonSchema>,
}

/// `strict` isn't looked at: the schema always holds.
#[derive(Deserialize, ToSchema)]
struct JsonSchema {
    #[schema(required, nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    name: Option<String>,
    #[schema(required, value_type = Object)]
    schema: Option<Value>,
}

fn efforts() -> Schema {
    schemas::optional(schemas::words(&EFFORTS))
}

fn verbosities() -> Schema {
    schemas::optional(schemas::words(&VERBOSITIES))
}

fn formats() -> Schema {
    schemas::words(&["text", "json_object", "json_schema"])
}

impl Request {
    /// Whether the answer comes as a stream.
    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// `safety_identifier` is the newer name of `user`.
    pub(super) fn end_user(&mut self) -> Result<Option<String>, ApiError> {
        let newer = end_user("safety_identifier", self.safety_identifier.take())?;
        Ok(newer.or(end_user("user", self.user.take())?))
    }

    /// How urgent it is, where it says so.
    pub(super) fn class(&self) -> Option<Class> {
        self.service_tier.and_then(Tier::class)
    }

    /// Whether its answer says how urgent it was.
    pub(super) fn names_tier(&self) -> bool {
        self.service_tier.is_some()
    }

    /// The form of its answer.
    pub(super) fn manner(&self) -> Manner {
        let include_usage = self
            .stream_options
            .as_ref()
            .and_then(|options| options.include_usage);
        let named = self.tool_choice.as_ref().is_some_and(WireChoice::is_named);
        let called = matches!(self.function_call, Some(WireCall::Named { .. }));
        Manner {
            asks_logprobs: self.logprobs.unwrap_or(false),
            include_usage: include_usage.unwrap_or(false),
            legacy: self.functions.as_ref().is_some_and(|list| !list.is_empty()),
            forced: named || called,
        }
    }

    pub(super) fn decode(mut self) -> Result<Generate, ApiError> {
        self.refuse_unsupported()?;
        let opening = match self.continue_final_message {
            Some(true) => Some(opening(&mut self.messages)?),
            _ => None,
        };
        let limit = max_tokens("max_completion_tokens", self.max_completion_tokens)?
            .or(max_tokens("max_tokens", self.max_tokens)?);
        let sampling = WireSampling {
            logit_bias: self.logit_bias,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            temperature: self.temperature,
            min_p: self.min_p,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        };
        let format = format(self.response_format)?;
        let tools = tools::Asked {
            tools: self.tools.unwrap_or_default(),
            choice: self.tool_choice,
            parallel: self.parallel_tool_calls.unwrap_or(true),
            functions: self.functions.unwrap_or_default(),
            call: self.function_call,
        };
        let tools = tools.decode()?;
        let calls = matches!(tools.choice, ToolChoice::Required | ToolChoice::Named(_));
        if opening.is_some() && (format != Format::Text || calls) {
            let message = "an answer that is bound to a form begins with its first token";
            return Err(ApiError::invalid(Some("continue_final_message"), message));
        }
        // What is bound to a form from its first token on leaves no room for thoughts.
        let bound = format != Format::Text || opening.is_some() || calls;
        let thinking = match self.reasoning_effort {
            Some(effort) if effort != "none" && !bound => Thinking::Effort(effort),
            None if !bound => Thinking::Free,
            _ => Thinking::Off,
        };
        Ok(Generate {
            choices: choices(self.n, 1)?,
            max_tokens: limit,
            min_tokens: min_tokens(self.min_tokens, limit)?,
            sampling: sampling.decode()?,
            stop: stops(self.stop)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            top_logprobs: top_logprobs(self.logprobs, self.top_logprobs)?,
            echo: self.echo.unwrap_or(false) && opening.is_some(),
            format,
            prompts: vec![Prompt::Chat(Chat {
                messages: conversation(self.messages)?,
                tools,
                thinking,
                opening,
            })],
            relay: None,
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        refuse(&[
            field("modalities", &self.modalities, text_modality),
            field("audio", &self.audio, never),
            field("web_search_options", &self.web_search_options, never),
        ])?;
        one_of(
            "reasoning_effort",
            self.reasoning_effort.as_deref(),
            &EFFORTS,
        )?;
        one_of("verbosity", self.verbosity.as_deref(), &VERBOSITIES)
    }
}

fn one_of(param: &str, value: Option<&str>, words: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !words.contains(&value) => {
            let message = format!("{param} must be one of {}", words.join(", "));
            Err(ApiError::invalid(Some(param), &message))
        }
        _ => Ok(()),
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

/// A schema's own faults are for the worker to find, which has to follow it.
fn format(asked: Option<ResponseFormat>) -> Result<Format, ApiError> {
    let Some(asked) = asked else {
        return Ok(Format::Text);
    };
    let missing = |at: &str, message: &str| {
        let param = format!("response_format.json_schema{at}");
        Err(ApiError::invalid(Some(&param), message))
    };
    match asked.r#type.as_str() {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::JsonObject),
        "json_schema" => {
            let Some(JsonSchema { name, schema }) = asked.json_schema else {
                return missing("", "the response format has no json_schema");
            };
            if !name.as_deref().is_some_and(tools::is_name) {
                let message = "the schema needs a name of 1 to 64 letters, digits, _ and -";
                return missing(".name", message);
            }
            match schema {
                Some(schema @ Value::Object(_)) => Ok(Format::JsonSchema(schema)),
                _ => missing(".schema", "the schema must be there, and an object"),
            }
        }
        _ => Err(ApiError::unsupported("response_format.type")),
    }
}
