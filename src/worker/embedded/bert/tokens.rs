//! From a request's inputs to rows of token ids, all checked before anything is computed.

use tokenizers::{Encoding, NormalizerWrapper, PaddingParams, Token, Tokenizer};

use super::folder::{Folder, Normaliser, failed};
use crate::types::{Failure, Input, Prompt, Tokenize, Tokenized};

/// No text that fits is longer by so much: a tokenizer takes memory by a text's bytes, so it must not see
/// more.
const BYTES_PER_TOKEN: usize = 1024;
/// Tokens of one request, as OpenAI bounds it: minutes of work for a CPU.
const MAX_REQUEST_TOKENS: usize = 300_000;

/// One text as the model takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) ids: Vec<u32>,
    pub(super) types: Vec<u32>,
}

impl Row {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}

/// A model's vocabulary and limits.
pub(super) struct Tokens {
    tokenizer: Tokenizer,
    lower_case: bool,
    max_tokens: usize,
    /// Ids below are known.
    vocabulary: usize,
    /// So are kinds of text below this.
    kinds: usize,
}

impl Tokens {
    /// # Errors
    /// One line about `tokenizer.json`.
    pub(super) fn load(folder: &Folder) -> Result<Self, String> {
        let path = folder.transformer.join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_file(&path).map_err(|error| failed(&path, &error))?;
        // What is too long is refused, and no batch is padded.
        tokenizer
            .with_truncation(None)
            .map_err(|error| failed(&path, &error))?;
        tokenizer.with_padding(None::<PaddingParams>);
        if let Some(normaliser) = folder.normaliser {
            configure(&mut tokenizer, normaliser);
        }
        Ok(Self {
            vocabulary: tokenizer.get_vocab_size(true).min(folder.config.vocab_size),
            kinds: folder.config.type_vocab_size,
            tokenizer,
            lower_case: folder.lower_case,
            max_tokens: folder.max_tokens,
        })
    }

    /// One row for each input.
    ///
    /// Token ids are taken to be what this model's tokenizer makes of a text without special tokens: those
    /// are put around them as around a text's, so that both give the same vector.
    ///
    /// # Errors
    /// An input doesn't fit, or has ids that the model doesn't know; or nobody waits any more.
    pub(super) fn rows(
        &self,
        inputs: &[Input],
        is_cancelled: impl Fn() -> bool,
    ) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::with_capacity(inputs.len());
        let mut total = 0;
        // One after another and only the ids kept: an encoding takes a hundred times its text.
        for (index, input) in inputs.iter().enumerate() {
            if is_cancelled() {
                return Err(gone());
            }
            let name = || match inputs.len() {
                1 => "input".to_owned(),
                _ => format!("input[{index}]"),
            };
            let row = match input {
                Input::Text(text) => self.text(text, name)?,
                Input::Tokens(ids) => self.ids(ids, name)?,
            };
            total += row.len();
            if total > MAX_REQUEST_TOKENS {
                let message = format!(
                    "the inputs have more than {MAX_REQUEST_TOKENS} tokens together: send them in several requests"
                );
                return Err(invalid("input".into(), message));
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn text(&self, text: &str, name: impl Fn() -> String) -> Result<Row, Failure> {
        self.row(&self.encoded(text, true, &name)?, name)
    }

    fn encoded(
        &self,
        text: &str,
        special: bool,
        name: impl Fn() -> String,
    ) -> Result<Encoding, Failure> {
        if text.len() > self.max_tokens * BYTES_PER_TOKEN {
            return Err(self.too_long(self.max_tokens + 1, name()));
        }
        let lower;
        let text = if self.lower_case {
            lower = text.to_lowercase();
            &lower
        } else {
            text
        };
        let encoding = self.tokenizer.encode_fast(text, special);
        encoding.map_err(|error| broken(&error))
    }

    /// A text's tokens, with their texts where they are asked for.
    ///
    /// # Errors
    /// It is no text, or longer than any that fits.
    pub(super) fn tokenized(&self, ask: &Tokenize) -> Result<Tokenized, Failure> {
        let Prompt::Text(text) = &ask.prompt else {
            let message = "this model takes texts, and no conversations";
            return Err(invalid("messages".into(), message.into()));
        };
        let encoding = self.encoded(text, ask.special, || "prompt".to_owned())?;
        Ok(Tokenized {
            tokens: encoding.get_ids().to_vec(),
            texts: ask.texts.then(|| encoding.get_tokens().to_vec()),
            context: Some(saturating(self.max_tokens)),
        })
    }

    /// The text that tokens stand for, special ones included.
    ///
    /// # Errors
    /// There is no such token, or there are more than any text has.
    pub(super) fn text_of(&self, ids: &[u32]) -> Result<String, Failure> {
        if ids.len() > self.max_tokens {
            return Err(self.too_long(ids.len(), "tokens".into()));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            let message = format!("the model's vocabulary has no token {id}");
            return Err(invalid("tokens".into(), message));
        }
        let text = self.tokenizer.decode(ids, false);
        text.map_err(|error| broken(&error))
    }

    fn ids(&self, ids: &[u32], name: impl Fn() -> String) -> Result<Row, Failure> {
        if ids.len() > self.max_tokens {
            return Err(self.too_long(ids.len(), name()));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            let (name, last) = (name(), self.vocabulary.saturating_sub(1));
            let message = format!("{name} holds {id}; this model's token ids are 0 to {last}");
            return Err(invalid(name, message));
        }
        let token = |id: &u32| Token::new(*id, String::new(), (0, 0));
        let bare = Encoding::from_tokens(ids.iter().map(token).collect(), 0);
        let encoding = self.tokenizer.post_process(bare, None, true);
        self.row(&encoding.map_err(|error| broken(&error))?, name)
    }

    fn row(&self, encoding: &Encoding, name: impl Fn() -> String) -> Result<Row, Failure> {
        if encoding.len() > self.max_tokens {
            return Err(self.too_long(encoding.len(), name()));
        }
        if encoding.is_empty() {
            let name = name();
            let message = format!("{name} has no tokens");
            return Err(invalid(name, message));
        }
        let (ids, types) = (encoding.get_ids(), encoding.get_type_ids());
        // Such a folder's tokenizer is another model's. Here it fails whoever asks, later it would fail others too.
        if ids.iter().any(|id| *id as usize >= self.vocabulary)
            || types.iter().any(|kind| *kind as usize >= self.kinds)
        {
            let message = "its tokenizer has tokens that the model doesn't know";
            return Err(Failure::Broken(message.into()));
        }
        Ok(Row {
            ids: ids.to_vec(),
            types: types.to_vec(),
        })
    }

    fn too_long(&self, tokens: usize, name: String) -> Failure {
        Failure::ContextLength {
            context: saturating(self.max_tokens),
            prompt: saturating(tokens),
            param: name.into(),
        }
    }
}

/// The configuration of the tokenizer goes before what `tokenizer.json` was once saved with.
fn configure(tokenizer: &mut Tokenizer, wanted: Normaliser) {
    if let Some(NormalizerWrapper::BertNormalizer(normaliser)) = tokenizer.get_normalizer() {
        let mut normaliser = *normaliser;
        normaliser.lowercase = wanted.lower_case;
        normaliser.strip_accents = wanted.strip_accents;
        normaliser.handle_chinese_chars = wanted.chinese_chars;
        tokenizer.with_normalizer(Some(normaliser));
    }
}

fn invalid(param: String, message: String) -> Failure {
    Failure::Invalid {
        param: Some(param.into()),
        message,
    }
}

/// What a job ends with that nobody waits for; so nobody reads it.
pub(super) fn gone() -> Failure {
    Failure::Broken("nobody waits for it any more".into())
}

pub(super) fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

pub(super) fn saturating(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word a token, and nothing around a text.
    fn tokens(vocabulary: usize, kinds: usize) -> Tokens {
        let text = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"one": 0, "two": 1}, "unk_token": "one"}}"#;
        Tokens {
            tokenizer: text.parse().unwrap(),
            lower_case: false,
            max_tokens: 8,
            vocabulary,
            kinds,
        }
    }

    fn row(tokens: &Tokens, text: &str) -> Result<Vec<Row>, Failure> {
        tokens.rows(&[Input::Text(text.into())], || false)
    }

    #[test]
    fn a_text_without_tokens_is_refused() {
        let tokens = tokens(2, 1);
        assert_eq!(row(&tokens, "two one").unwrap()[0].ids, [1, 0]);
        let refused = row(&tokens, " ").unwrap_err();
        assert!(matches!(refused, Failure::Invalid { .. }), "{refused:?}");
    }

    #[test]
    fn tokens_that_the_model_does_not_know_fail_their_own_request() {
        for tokens in [tokens(1, 1), tokens(2, 0)] {
            let failed = row(&tokens, "two").unwrap_err();
            assert!(matches!(failed, Failure::Broken(_)), "{failed:?}");
        }
    }
}
