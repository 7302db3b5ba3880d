//! `prompt` in its four forms: a text, texts, token ids, lists of token ids.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};

use crate::api::error::ApiError;
use crate::api::openai::sampling::is_token_id;
use crate::types::Prompt;

/// Read element by element: a list may be long, and an error says which element is wrong.
pub(super) struct Prompts(Vec<Prompt>);

impl Prompts {
    pub(super) fn decode(self) -> Result<Vec<Prompt>, ApiError> {
        if self.0.is_empty() {
            let message = "prompt must hold at least one text or token";
            return Err(ApiError::invalid(Some("prompt"), message));
        }
        let empty = |prompt: &Prompt| matches!(prompt, Prompt::Tokens(ids) if ids.is_empty());
        match self.0.iter().position(empty) {
            None => Ok(self.0),
            Some(index) => Err(ApiError::invalid(
                Some(&format!("prompt[{index}]")),
                "a list of tokens is empty",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Top).map(Self)
    }
}

struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Vec<Prompt>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, a list of texts, or token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<Prompt>, E> {
        Ok(vec![Prompt::Text(text.to_owned())])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Prompt>, A::Error> {
        let mut prompts = Vec::new();
        let mut ids = Vec::new();
        while let Some(element) = list.next_element()? {
            match element {
                Element::Token(id) => ids.push(id),
                Element::Prompt(prompt) => prompts.push(prompt),
            }
            if !ids.is_empty() && !prompts.is_empty() {
                return Err(A::Error::custom(
                    "prompt holds either prompts or the token ids of one, not both",
                ));
            }
        }
        if !ids.is_empty() {
            prompts.push(Prompt::Tokens(ids));
        }
        Ok(prompts)
    }
}

/// What a list holds.
enum Element {
    Token(u32),
    Prompt(Prompt),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Inner)
    }
}

struct Inner;

impl<'de> Visitor<'de> for Inner {
    type Value = Element;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, a list of token ids, or a token id")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Prompt(Prompt::Text(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Element, E> {
        token(number).map(Element::Token)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        let mut ids = Vec::new();
        while let Some(Token(id)) = list.next_element()? {
            ids.push(id);
        }
        Ok(Element::Prompt(Prompt::Tokens(ids)))
    }
}

struct Token(u32);

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        token(u64::deserialize(deserializer)?).map(Self)
    }
}

fn token<E: Error>(number: u64) -> Result<u32, E> {
    u32::try_from(number)
        .ok()
        .filter(|id| is_token_id(*id))
        .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &"a token id"))
}
