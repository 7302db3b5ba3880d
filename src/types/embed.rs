use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Texts to be turned into vectors.
#[derive(Clone, Serialize, Deserialize)]
pub struct Embed {
    /// One vector comes back for each.
    pub inputs: Vec<Input>,
    /// Only so many of a vector's first numbers are kept, brought to unit length anew; `None` is all.
    pub dimensions: Option<u32>,
    /// How exact they have to be.
    pub precision: Precision,
}

/// How exact a vector has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// As the model's own weights give it.
    #[default]
    Full,
    /// It need only say which texts are near each other: a worker may compute in integers of 8 bits, where it has them.
    Approximate,
}

/// Texts with what a worker has to know of them.
#[derive(Clone)]
pub struct EmbedJob {
    /// What is asked.
    pub request: Arc<Embed>,
    /// The model's name among workers.
    pub model: Arc<str>,
}

/// What a vector is made of.
#[derive(Clone, Serialize, Deserialize)]
pub enum Input {
    /// A text.
    Text(String),
    /// Token ids of the model's own vocabulary, taken as they are.
    Tokens(Vec<u32>),
}

/// Vectors in the order of their texts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Embedded {
    /// Of unit length, where the model's configuration says so.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts together.
    pub prompt_tokens: u32,
}
