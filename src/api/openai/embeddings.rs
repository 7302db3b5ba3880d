//! `POST /v1/embeddings`

use std::fmt;
use std::num::NonZeroU32;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use super::chat::observed;
use super::{answer, schemas};
use crate::api::Shared;
use crate::api::asked::{Asked, end_user};
use crate::api::body::Json;
use crate::api::error::ApiError;
use crate::api::openapi::{IdempotencyKey, ModelErrors};
use crate::gateway::Ask;
use crate::types::{Embed, Endpoint, Input, Precision};

const MAX_INPUTS: usize = 2048;

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateEmbeddingRequest)]
pub(in crate::api) struct Request {
    /// The model, or an alias of one.
    #[schema(required, nullable = false)]
    model: Option<String>,
    #[schema(schema_with = inputs)]
    input: Inputs,
    encoding_format: Option<Format>,
    #[schema(value_type = Option<u32>, minimum = 1)]
    dimensions: Option<NonZeroU32>,
    /// The person behind the caller, as the ledger will name them.
    #[schema(max_length = 256)]
    user: Option<String>,
}

/// A text, a list of texts, a text's token ids, or a list of such lists.
struct Inputs(Vec<Input>);

fn inputs() -> Schema {
    schemas::texts_or_tokens(1, MAX_INPUTS)
}

/// What stands in the list.
enum Element {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
}

#[derive(Deserialize, Clone, Copy, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = EmbeddingFormat)]
enum Format {
    Float,
    Base64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CreateEmbeddingResponse)]
struct List {
    object: &'static str,
    data: Vec<Item>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Embedding)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = EmbeddingVector)]
enum Vector {
    Float(Vec<f32>),
    /// Little-endian single-precision numbers.
    Base64(String),
}

#[derive(Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u64,
}

/// Makes vectors of texts.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "Embeddings",
    operation_id = "createEmbedding",
    params(IdempotencyKey),
    request_body = Request,
    responses((status = 200, body = List, description = "A vector for each input"), ModelErrors),
)]
pub(in crate::api) async fn create(
    State(api): Shared,
    asked: Asked,
    Json(mut request): Json<Request>,
) -> Response {
    let named = asked.deployment().map(str::to_owned);
    let Some(model) = named.or_else(|| request.model.take()) else {
        let missing = ApiError::invalid(Some("model"), "missing field `model`");
        return observed(&api, Endpoint::Embeddings, "", Err(missing));
    };
    let format = request.encoding_format.unwrap_or(Format::Float);
    let answer = async {
        let end_user = end_user("user", request.user.take())?;
        let body = request.decode();
        let choice = api
            .gateway
            .choose(asked.access(), &model, end_user.as_deref());
        let ask = Ask {
            choice,
            ..asked.ask(Endpoint::Embeddings, &model, end_user, body)
        };
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
    fn decode(self) -> Embed {
        Embed {
            inputs: self.input.0,
            dimensions: self.dimensions.map(NonZeroU32::get),
            precision: Precision::Full,
        }
    }
}

/// By hand, since `untagged` could not say which element is wrong.
impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of such lists")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Inputs, E> {
        Ok(Inputs(vec![Input::Text(filled(text)?)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Inputs, A::Error> {
        let mixed = || A::Error::custom("strings, token ids and lists of them can't be mixed");
        let (mut inputs, mut ids) = (Vec::new(), Vec::new());
        while let Some(element) = list.next_element()? {
            let input = match element {
                Element::Id(id) if inputs.is_empty() => {
                    ids.push(id);
                    continue;
                }
                Element::Text(text) => Input::Text(text),
                Element::Ids(ids) => Input::Tokens(ids),
                Element::Id(_) => return Err(mixed()),
            };
            let is_text = matches!(input, Input::Text(_));
            let fits = |first: &Input| matches!(first, Input::Text(_)) == is_text;
            if !ids.is_empty() || !inputs.first().is_none_or(fits) {
                return Err(mixed());
            }
            if inputs.len() == MAX_INPUTS {
                let message =
                    format!("more than {MAX_INPUTS} inputs: send them in several requests");
                return Err(A::Error::custom(message));
            }
            inputs.push(input);
        }
        if !ids.is_empty() {
            inputs.push(Input::Tokens(ids));
        }
        if inputs.is_empty() {
            return Err(A::Error::custom("the list is empty"));
        }
        Ok(Inputs(inputs))
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        filled(text).map(Element::Text)
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        let id = u32::try_from(id);
        id.map(Element::Id)
            .map_err(|_| E::custom("no model has such a token id"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = list.next_element()? {
            ids.push(id);
        }
        if ids.is_empty() {
            return Err(A::Error::custom("the list is empty"));
        }
        Ok(Element::Ids(ids))
    }
}

fn filled<E: Error>(text: &str) -> Result<String, E> {
    if text.is_empty() {
        return Err(E::custom("the text is empty"));
    }
    Ok(text.to_owned())
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
