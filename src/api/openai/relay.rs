//! Requests that are passed on in the client's own words. Only what the gateway acts on itself is read.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::{streamed, whole_relayed, with_headers};
use super::outgoing::Source;
use super::sampling::{StreamOptions, Tier, choices};
use crate::api::Api;
use crate::api::asked::{Asked, end_user};
use crate::api::body;
use crate::api::error::ApiError;
use crate::gateway::{self, Answer, Ask, Decision, Served};
use crate::guard::Found;
use crate::router::{Choice, Speech};
use crate::types::{Class, Endpoint, Field, Generate, Relay};

/// Fields by which requests are authorised, limited, scheduled and billed.
const ACTED_ON: [&str; 16] = [
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "n_predict",
    "service_tier",
    "priority",
    "cache_salt",
    "user",
    "safety_identifier",
    "tools",
];

/// A JSON object whose values have not been read yet.
pub(super) struct Peeked {
    body: Bytes,
    fields: Vec<Field>,
    pub(super) model: String,
    /// What the model came to, once it was looked up.
    pub(super) choice: Option<Choice>,
    /// What `auto` came to, where it was asked for.
    pub(super) decision: Option<Arc<Decision>>,
    /// What the model's rules found in it.
    pub(super) found: Found,
    /// Another revision that is to be asked the same.
    pub(super) shadow: Option<Shadow>,
}

/// A request as it came, for a revision that answers nobody.
pub(super) struct Shadow {
    pub(super) body: Bytes,
    pub(super) choice: Choice,
}

/// What the gateway has to know beside the model.
struct Known {
    request: Generate,
    class: Option<Class>,
    end_user: Option<String>,
}

/// Looks at a body without taking it apart. A field that stands twice is refused: of two values one would be
/// authorised, and the other run.
pub(super) fn peek(bytes: Bytes, deployment: Option<&str>) -> Result<Peeked, ApiError> {
    let Fields(values) = body::decode(&bytes)?;
    if let Some((name, _)) = values.iter().find(|(name, _)| is_disguised(name)) {
        let message = format!("{name:?} is another spelling of a field that this server acts on");
        return Err(ApiError::invalid(Some(name), &message));
    }
    let place = |value: &RawValue| {
        let start = value.get().as_ptr().addr() - bytes.as_ptr().addr();
        start..start + value.get().len()
    };
    let fields: Vec<_> = values
        .into_iter()
        .map(|(name, value)| Field {
            name,
            value: place(value),
        })
        .collect();
    let mut peeked = Peeked {
        body: bytes,
        fields,
        model: String::new(),
        choice: None,
        decision: None,
        found: Found::default(),
        shadow: None,
    };
    let model = match deployment {
        Some(name) => Some(name.to_owned()),
        None => peeked.field("model")?,
    };
    let missing = || ApiError::invalid(Some("model"), "missing field `model`");
    peeked.model = model.ok_or_else(missing)?;
    Ok(peeked)
}

/// A request of these fields. The model's name is told beside them, since a path may name it.
pub(super) fn written(fields: &[(&str, String)], model: &str) -> Result<Peeked, ApiError> {
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{}:{value}", json!(name)));
    let body = format!("{{{}}}", fields.collect::<Vec<_>>().join(","));
    peek(body.into(), Some(model))
}

/// Some servers read names without regard to case: they would act on what was not looked at here.
fn is_disguised(name: &str) -> bool {
    if name
        .bytes()
        .all(|byte| byte == b'_' || byte.is_ascii_lowercase())
    {
        return false;
    }
    let plain = name.to_lowercase().replace('\u{17f}', "s");
    plain != name && ACTED_ON.contains(&plain.as_str())
}

impl Peeked {
    /// Every field's name with its value, as it is written.
    pub(super) fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|field| {
            let value = self.body.get(field.value.clone()).unwrap_or_default();
            // It is JSON.
            (
                field.name.as_str(),
                std::str::from_utf8(value).unwrap_or("null"),
            )
        })
    }

    /// The model that answers it, by its own name.
    pub(super) fn answers(&self) -> &str {
        let choice = self.choice.as_ref();
        choice.map_or(&self.model, |choice| choice.model())
    }

    /// All of it, as it is written.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// In what form the workers want it. A model that can't be asked is as good as none.
    pub(super) fn speech(&self) -> Speech {
        let choice = self.choice.as_ref();
        choice.map_or(Speech::UNKNOWN, Choice::speech)
    }

    /// The person behind the caller, in the caller's own words; what can't be read is refused later.
    pub(super) fn end_user(&self) -> Option<String> {
        let field = |name| self.field::<String>(name).ok().flatten();
        field("safety_identifier").or_else(|| field("user"))
    }

    /// Whether the answer is bound from its first token on, to a form or to how it begins: then it has no thoughts of its own.
    pub(super) fn is_bound(&self) -> bool {
        let binds = |(name, value): (&str, &str)| match name {
            "response_format" => value != "null" && !value.contains("\"text\""),
            "continue_final_message" => value == "true",
            _ => false,
        };
        self.values().any(binds)
    }

    /// Has it answered, by what its model came to and by nothing else: that has said its part already.
    pub(super) async fn generate(
        &self,
        api: &Api,
        ask: Ask<Generate>,
    ) -> Result<(Served, Answer), gateway::Error> {
        if self.choice.is_none() {
            return Err(api.gateway.refusal(&ask.access, &ask.model));
        }
        api.gateway.generate(ask).await
    }

    /// Whether it names tools.
    pub(super) fn names_tools(&self) -> bool {
        let names = |(name, value): (&str, &str)| {
            ["tools", "functions"].contains(&name) && !["null", "[]"].contains(&value)
        };
        self.values().any(names)
    }

    /// The whole body, to be taken apart after all.
    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        body::decode(&self.body)
    }

    /// A field's value; `None` where it is null or isn't there.
    fn field<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(field) = self.fields.iter().find(|field| field.name == name) else {
            return Ok(None);
        };
        let value = self.body.get(field.value.clone()).unwrap_or(b"null");
        serde_json::from_slice(value).map_err(|error| {
            // Its line and column are those of the value alone.
            let text = error.to_string();
            let words = text.split(" at line ").next().unwrap_or_default();
            ApiError::invalid(Some(name), words)
        })
    }

    /// The request in its own words.
    pub(super) fn relay(&self, endpoint: Endpoint) -> Result<Relay, ApiError> {
        let options: Option<StreamOptions> = self.field("stream_options")?;
        let include_usage = options.and_then(|options| options.include_usage);
        Ok(Relay {
            endpoint,
            body: self.body.clone(),
            fields: self.fields.clone().into(),
            streams: self.field("stream")?.unwrap_or(false),
            include_usage: include_usage.unwrap_or(false),
        })
    }

    fn known(&self, endpoint: Endpoint) -> Result<Known, ApiError> {
        let relay = self.relay(endpoint)?;
        let newer = end_user("safety_identifier", self.field("safety_identifier")?)?;
        let tier: Option<Tier> = self.field("service_tier")?;
        let limit: Option<u32> = self.field("max_completion_tokens")?;
        let limit = limit.or(self.field("max_tokens")?);
        // Of these the worker makes as many, and gives the best.
        let best_of: Option<u32> = self.field("best_of")?;
        let prompts = self.prompts(endpoint)?;
        let each = choices(self.field("n")?, prompts)?;
        let each = choices(best_of, prompts)?.max(each);
        let request = Generate {
            choices: each.saturating_mul(u32::try_from(prompts).unwrap_or(u32::MAX)),
            max_tokens: limit,
            relay: Some(relay),
            ..Generate::default()
        };
        Ok(Known {
            request,
            class: tier.and_then(Tier::class),
            end_user: newer.or(end_user("user", self.field("user")?)?),
        })
    }

    /// How many prompts there are.
    fn prompts(&self, endpoint: Endpoint) -> Result<usize, ApiError> {
        let name = match endpoint {
            Endpoint::Chat => "messages",
            Endpoint::Completions | Endpoint::Embeddings => "prompt",
        };
        let Prompts(count) = self
            .field(name)?
            .ok_or_else(|| ApiError::invalid(Some(name), &format!("missing field `{name}`")))?;
        match endpoint {
            Endpoint::Chat => Ok(1),
            _ if count == 0 => Err(ApiError::invalid(Some(name), "there is no prompt")),
            _ => Ok(count),
        }
    }
}

/// Answers a request by workers that speak its own words.
pub(super) async fn answer(
    api: &Api,
    asked: Asked,
    endpoint: Endpoint,
    peeked: &Peeked,
) -> Result<Response, ApiError> {
    let known = peeked.known(endpoint)?;
    let streams = known
        .request
        .relay
        .as_ref()
        .is_some_and(|relay| relay.streams);
    let ask = Ask {
        class: asked.class_for(peeked.choice.as_ref(), known.class),
        choice: peeked.choice.clone(),
        decision: peeked.decision.clone(),
        ..asked.ask(endpoint, &peeked.model, known.end_user, known.request)
    };
    let (served, begun) = peeked.generate(api, ask).await?;
    let begun = Source::new(begun, api, peeked);
    let response = if streams {
        streamed(begun, Never)
    } else {
        whole_relayed(begun).await?
    };
    Ok(with_headers(response, &served))
}

/// A relayed answer has its shape already.
struct Never;

impl super::answer::Shape for Never {
    type Chunk = ();

    fn first(&self, _: u32) -> Option<()> {
        None
    }
    fn delta(&mut self, _: crate::types::Delta) {}
    fn finish(&self, _: u32, _: crate::types::Finish) {}
    fn usage(&self, _: crate::types::Usage) -> Option<()> {
        None
    }
}

/// So many names are sooner compared than hashed.
const FEW: usize = 16;

/// The fields of an object, in their order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Vec<(String, _)> = Vec::with_capacity(8);
                // Of all but the first few, which are looked through.
                let mut names = HashSet::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    let first = fields.len().min(FEW);
                    if fields[..first].iter().any(|(known, _)| *known == name)
                        || first == FEW && !names.insert(name.clone())
                    {
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Read)
    }
}

/// How many prompts a value holds: a text is one, a list of numbers is one, any other list has its length.
struct Prompts(usize);

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;

        impl<'de> Visitor<'de> for Count {
            type Value = Prompts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Prompts, E> {
                Ok(Prompts(1))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts, A::Error> {
                let mut count = 0_usize;
                let mut numbers = true;
                while let Some(element) = list.next_element::<Element>()? {
                    count = count.saturating_add(1);
                    numbers &= matches!(element, Element::Number);
                }
                Ok(Prompts(if numbers { count.min(1) } else { count }))
            }
        }

        deserializer.deserialize_any(Count)
    }
}

/// An element of a list. What is in it is read, so that its texts are sound, and let go.
enum Element {
    Number,
    Other,
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Element, E> {
                Ok(Element::Number)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Element, E> {
                Ok(Element::Other)
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Element, E> {
                Ok(Element::Other)
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Element, E> {
                Ok(Element::Other)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Element, E> {
                Ok(Element::Other)
            }

            fn visit_unit<E: Error>(self) -> Result<Element, E> {
                Ok(Element::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
                while list.next_element::<Element>()?.is_some() {}
                Ok(Element::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
                while map.next_entry::<Element, Element>()?.is_some() {}
                Ok(Element::Other)
            }
        }

        deserializer.deserialize_any(Read)
    }
}
