use serde::Deserialize;

/// What a remote worker is, where servers of OpenAI's API differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Anything that keeps to OpenAI's own API.
    #[default]
    Openai,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// Hugging Face's text-generation-inference.
    Tgi,
    /// llama.cpp's server.
    LlamaServer,
    /// Another Forebay.
    Forebay,
}

impl Dialect {
    /// Whether it can go on with an answer that was begun elsewhere.
    #[must_use]
    pub fn resumes(self) -> bool {
        match self {
            Self::Vllm | Self::Sglang | Self::LlamaServer => true,
            Self::Openai | Self::Tgi | Self::Forebay => false,
        }
    }
}
