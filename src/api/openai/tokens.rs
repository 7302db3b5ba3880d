//! `POST /v1/tokenize` and `POST /v1/detokenize`, as vLLM has them: <https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>

use axum::Json as Answer;
use axum::extract::State;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chat;
use super::profile::with_profile;
use super::relay::peek;
use crate::api::Shared;
use crate::api::auth::Authenticated;
use crate::api::body::{Json, Raw};
use crate::api::error::ApiError;
use crate::api::openapi::ModelErrors;
use crate::types::{Endpoint, Prompt, Tokenize};

#[derive(Serialize, ToSchema)]
#[schema(as = TokenizeResponse)]
pub(in crate::api) struct Tokens {
    count: usize,
    max_model_len: Option<u32>,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = DetokenizeRequest)]
pub(in crate::api) struct Detokenize {
    model: String,
    tokens: Vec<u32>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DetokenizeResponse)]
pub(in crate::api) struct Detokenized {
    prompt: String,
}

/// What the body of a question for tokens may say.
#[derive(ToSchema)]
#[schema(as = TokenizeRequest)]
#[expect(dead_code, reason = "fields are looked up by name")]
pub(in crate::api) struct Asked {
    model: String,
    /// A text, where there are no `messages`.
    prompt: Option<String>,
    /// A conversation, as a chat's request has it.
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<Vec<Value>>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}

/// The tokens that a model makes of a prompt. As vLLM has it.
#[utoipa::path(
    post,
    path = "/v1/tokenize",
    tag = "Tokens",
    operation_id = "tokenize",
    request_body = Asked,
    responses((status = 200, body = Tokens, description = "The tokens of a prompt"), ModelErrors),
)]
pub(in crate::api) async fn tokenize(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Raw(bytes): Raw,
) -> Result<Answer<Tokens>, ApiError> {
    let missing = |name: &str| ApiError::invalid(Some(name), &format!("missing field `{name}`"));
    let peeked = peek(bytes, None)?;
    let model = peeked.model.clone();
    // As it would be asked.
    let peeked = with_profile(&api, (&access, access.class(None)), peeked, Endpoint::Chat).await?;
    let words: Map<String, Value> = peeked.decode()?;
    if field(&words, "add_generation_prompt")? == Some(false) {
        return Err(ApiError::unsupported("add_generation_prompt"));
    }
    let prompt = if words.contains_key("messages") {
        chat::prompt(Value::Object(words.clone()))?
    } else {
        Prompt::Text(field(&words, "prompt")?.ok_or_else(|| missing("prompt"))?)
    };
    let ask = Tokenize {
        prompt,
        special: field(&words, "add_special_tokens")?.unwrap_or(true),
        texts: field(&words, "return_token_strs")?.unwrap_or(false),
        words,
    };
    let told = api
        .gateway
        .tokenize(&access, (&model, peeked.choice.as_ref()), ask)
        .await?;
    Ok(Answer(Tokens {
        count: told.tokens.len(),
        max_model_len: told.context,
        tokens: told.tokens,
        token_strs: told.texts,
    }))
}

/// The text that tokens are. As vLLM has it.
#[utoipa::path(
    post,
    path = "/v1/detokenize",
    tag = "Tokens",
    operation_id = "detokenize",
    request_body = Detokenize,
    responses((status = 200, body = Detokenized, description = "The text of tokens"), ModelErrors),
)]
pub(in crate::api) async fn detokenize(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Json(body): Json<Detokenize>,
) -> Result<Answer<Detokenized>, ApiError> {
    let text = api.gateway.detokenize(&access, &body.model, body.tokens);
    let prompt = text.await?;
    Ok(Answer(Detokenized { prompt }))
}

/// A field's value; `None` where it is null or isn't there.
fn field<T: DeserializeOwned>(
    words: &Map<String, Value>,
    name: &str,
) -> Result<Option<T>, ApiError> {
    let value = words.get(name).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| ApiError::invalid(Some(name), &error.to_string()))
}
