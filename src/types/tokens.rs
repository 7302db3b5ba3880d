use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Prompt;

/// A prompt that is to be taken apart, as vLLM's `/tokenize` has it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tokenize {
    /// A text or a conversation.
    pub prompt: Prompt,
    /// Whether a text begins as a prompt does, with the token that some models want there. A conversation always does.
    pub special: bool,
    /// Whether the tokens' texts are told, too.
    pub texts: bool,
    /// The request in the client's own words, for workers that take those.
    pub words: Map<String, Value>,
}

/// A prompt in its tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenized {
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, where they were asked for. Parts of a character are shown as U+FFFD.
    pub texts: Option<Vec<String>>,
    /// Tokens that a prompt and its answer may have together, where the worker tells.
    pub context: Option<u32>,
}
