use serde_json::Value;

use super::super::prompt::to_json;
use crate::types::{ToolCall, ToolFormat};

pub(super) const HERMES_OPEN: &str = "<tool_call>";
pub(super) const HERMES_CLOSE: &str = "</tool_call>";
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";
pub(super) const TOOL_CALLS: &str = "[TOOL_CALLS]";
pub(super) const ARGS: &str = "[ARGS]";
pub(super) const CALL_ID: &str = "[CALL_ID]";

impl ToolFormat {
    /// The form that a chat template spells: a model follows what it was trained with.
    pub(in crate::worker) fn of_template(template: &str) -> Self {
        if template.contains(HERMES_OPEN) {
            Self::Hermes
        } else if template.contains(TOOL_CALLS) {
            Self::Mistral
        } else if template.contains(PYTHON_TAG) {
            Self::Llama3
        } else {
            Self::Hermes
        }
    }

    /// Whether this control token is part of how a call is spelled. An answer's control tokens have no text;
    /// those of a call must have theirs, or the parser could not see them.
    pub(in crate::worker) fn spells(self, control: &str) -> bool {
        match self {
            Self::Hermes => [HERMES_OPEN, HERMES_CLOSE].contains(&control),
            Self::Llama3 => control == PYTHON_TAG,
            Self::Mistral => [TOOL_CALLS, ARGS, CALL_ID].contains(&control),
        }
    }

    /// The key of a call's arguments.
    pub(super) fn arguments_key(self) -> &'static str {
        match self {
            Self::Hermes | Self::Mistral => "arguments",
            Self::Llama3 => "parameters",
        }
    }

    /// What a model with these calls would have answered.
    pub(in crate::worker) fn write(self, calls: &[ToolCall]) -> String {
        let bodies: Vec<_> = calls
            .iter()
            .map(|call| {
                let name = Value::from(call.name.as_str());
                let arguments = serde_json::from_str(&call.arguments)
                    .unwrap_or_else(|_| Value::from(call.arguments.as_str()));
                format!(
                    r#"{{"name": {}, "{}": {}}}"#,
                    to_json(&name),
                    self.arguments_key(),
                    to_json(&arguments)
                )
            })
            .collect();
        match self {
            Self::Hermes => bodies
                .iter()
                .map(|body| format!("{HERMES_OPEN}\n{body}\n{HERMES_CLOSE}"))
                .collect::<Vec<_>>()
                .join("\n"),
            Self::Llama3 => bodies.join("; "),
            Self::Mistral => format!("{TOOL_CALLS} [{}]", bodies.join(", ")),
        }
    }
}
