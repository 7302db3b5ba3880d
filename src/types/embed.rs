/// Texts to be turned into vectors.
#[derive(Clone)]
pub struct Embed {
    /// One vector comes back for each.
    pub inputs: Vec<String>,
}

/// Vectors in the order of their texts.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Of unit length, where the model's configuration says so.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts together.
    pub prompt_tokens: u32,
}
