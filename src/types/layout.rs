use serde::{Deserialize, Serialize};

/// How an engine keeps a model's weights in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// The faster of the others on this machine, measured once.
    #[default]
    Auto,
    /// As they stand in the file.
    AsIs,
    /// Blocks of 32 weights of 8 bits (GGML's Q8_0).
    #[serde(rename = "q8_0")]
    Q8_0,
}

/// How an engine keeps the cells of its KV cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CellType {
    /// Half precision.
    #[default]
    #[serde(rename = "f16")]
    F16,
    /// Blocks of 32 numbers of 8 bits: about half the memory, and a little less exact.
    #[serde(rename = "q8_0")]
    Q8_0,
}
