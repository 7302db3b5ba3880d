use serde::{Deserialize, Serialize};

/// How a model spells a call of a function in its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolFormat {
    /// Between `<tool_call>` and `</tool_call>` an object of `name` and `arguments`: Hermes, Qwen, and models
    /// that know no form of their own.
    #[default]
    Hermes,
    /// An object of `name` and `parameters` as the whole answer, `<|python_tag|>` before it or not: Llama
    /// from 3.1 on.
    Llama3,
    /// After `[TOOL_CALLS]` an array of objects of `name` and `arguments`, or, in newer models, `name[ARGS]`
    /// and the arguments.
    Mistral,
}
