//! `logprobs` of text completions: four lists, with an entry for each token.

use std::fmt::Write;

use encoding_rs::{Decoder, UTF_8};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::api::openai::logprobs::finite;
use crate::types::TokenLogprob;

#[derive(Serialize, Default, ToSchema)]
#[schema(as = CompletionLogprobs)]
pub(super) struct Logprobs {
    tokens: Vec<String>,
    /// Null for the first token of a prompt, which nothing came before.
    token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens and the one that stands there: up to one more than were asked for.
    #[schema(value_type = Vec<Option<BTreeMap<String, f32>>>)]
    top_logprobs: Vec<Option<Top>>,
    /// Where in the text the token begins, in characters. The prompt is part of the text where it is echoed.
    text_offset: Vec<usize>,
}

impl Logprobs {
    pub(super) fn new(tokens: Vec<TokenLogprob>, place: &mut Place) -> Self {
        let mut logprobs = Self::default();
        for token in tokens {
            logprobs.text_offset.push(place.pass(&token.bytes));
            logprobs.top_logprobs.push(top(&token));
            logprobs.token_logprobs.push(token.logprob.map(finite));
            logprobs.tokens.push(spelled(&token.bytes));
        }
        logprobs
    }
}

/// An object from tokens to log-probabilities. As numbers of the same precision as in `token_logprobs`:
/// clients compare the two to see whether a token was the likeliest.
struct Top(Vec<(String, f32)>);

impl Serialize for Top {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

/// Of tokens that are spelled alike the likelier one is shown.
fn top(token: &TokenLogprob) -> Option<Top> {
    let own = token.logprob?;
    let likeliest = token.top.iter().map(|top| (&top.bytes, top.logprob));
    let mut shown: Vec<(String, f32)> = Vec::with_capacity(token.top.len() + 1);
    for (bytes, logprob) in likeliest.chain([(&token.bytes, own)]) {
        let token = spelled(bytes);
        if shown.iter().all(|(known, _)| *known != token) {
            shown.push((token, finite(logprob)));
        }
    }
    Some(Top(shown))
}

/// A token that is no text by itself is spelled by its bytes, as OpenAI did it, so that no two look the same.
fn spelled(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
        if matches!(byte, b' '..=b'~') && *byte != b'\\' {
            text.push(char::from(*byte));
        } else {
            // Writing to a String can't fail.
            let _infallible = write!(text, "\\x{byte:02x}");
        }
        text
    })
}

/// How far the tokens of an answer have come in its text.
pub(super) struct Place {
    characters: usize,
    /// Holds a character that has begun.
    decoder: Decoder,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            characters: 0,
            decoder: UTF_8.new_decoder_without_bom_handling(),
        }
    }
}

impl Place {
    /// Where a token begins: inside a character, where that does.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let begin = self.characters;
        let room = self.decoder.max_utf8_buffer_length(bytes.len());
        let mut text = String::with_capacity(room.unwrap_or(0));
        // There is room for all of it.
        let _all_read = self.decoder.decode_to_string(bytes, &mut text, false);
        self.characters += text.chars().count();
        begin
    }
}
