//! `POST /v1/embeddings`

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer;
use super::chat::observed;
use super::unsupported::{field, never, refuse};
use crate::api::Shared;
use crate::api::asked::{Asked, end_user};
use crate::api::body::Json;
use crate::api::error::ApiError;
use crate::types::{Embed, Endpoint, Input as Text};

const MAX_INPUTS: usize = 2048;

#[derive(Deserialize)]
pub(in crate::api) struct Request {
    model: String,
    input: Input,
    encoding_format: Option<Format>,
    user: Option<String>,
    // Known, and not served yet:
    dimensions: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
    /// Token ids, for one: not served yet.
    Tokens(#[expect(dead_code, reason = "its shape is enough to refuse it")] Vec<Value>),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Format {
    Float,
    Base64,
}

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Item>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    /// Little-endian single-precision numbers.
    Base64(String),
}

#[derive(Serialize)]
struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u64,
}

pub(in crate::api) async fn create(
    State(api): Shared,
    asked: Asked,
    Json(mut request): Json<Request>,
) -> Response {
    let model = request.model.clone();
    let format = request.encoding_format.unwrap_or(Format::Float);
    let answer = async {
        let end_user = end_user("user", request.user.take())?;
        let body = request.decode()?;
        let ask = asked.ask(Endpoint::Embeddings, &model, end_user, body);
        let (served, vectors, usage) = api.gateway.embed(ask).await?;
        let item = |(index, vector)| Item {
            object: "embedding",
            index,
            embedding: encode(vector, format),
        };
        let list = List {
            object: "list",
            data: vectors.into_iter().enumerate().map(item).collect(),
            model: served.model.to_string(),
            usage: EmbeddingUsage {
                prompt_tokens: usage.prompt_tokens,
                total_tokens: usage.total_tokens(),
            },
        };
        Ok(answer::with_headers(
            axum::Json(list).into_response(),
            &served,
        ))
    };
    let answer = answer.await;
    observed(&api, Endpoint::Embeddings, &model, answer)
}

impl Request {
    fn decode(self) -> Result<Embed, ApiError> {
        refuse(&[field("dimensions", &self.dimensions, never)])?;
        let inputs = match self.input {
            Input::One(text) => vec![text],
            Input::Many(texts) => texts,
            Input::Tokens(_) => return Err(ApiError::unsupported("input")),
        };
        if inputs.is_empty() || inputs.len() > MAX_INPUTS {
            return Err(ApiError::invalid(
                Some("input"),
                "input must hold 1 to 2048 texts",
            ));
        }
        if inputs.iter().any(String::is_empty) {
            return Err(ApiError::invalid(Some("input"), "a text of input is empty"));
        }
        Ok(Embed {
            inputs: inputs.into_iter().map(Text::Text).collect(),
            dimensions: None,
        })
    }
}

fn encode(vector: Vec<f32>, format: Format) -> Vector {
    match format {
        Format::Float => Vector::Float(vector),
        Format::Base64 => {
            let bytes: Vec<u8> = vector
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}
