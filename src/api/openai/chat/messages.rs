//! `messages`: each by itself, and whether calls and their answers match.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use crate::api::error::ApiError;
use crate::api::openai::schemas;
use crate::api::openai::unsupported::empty;
use crate::types::{Message, Role, ToolCall};

#[derive(Deserialize, ToSchema)]
#[schema(as = ChatCompletionRequestMessage)]
pub(super) struct WireMessage {
    role: WireRole,
    #[serde(default)]
    content: Option<Content>,
    name: Option<String>,
    /// The functions that an assistant called. Messages of the role `tool` answer them, each by its id.
    tool_calls: Option<Vec<WireToolCall>>,
    tool_call_id: Option<String>,
    /// The older form of one tool call.
    function_call: Option<WireCalled>,
    /// What an assistant said instead of content.
    refusal: Option<String>,
    #[schema(schema_with = schemas::nothing)]
    audio: Option<Value>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ChatRole)]
enum WireRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    /// The older form of `tool`.
    Function,
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = MessageContent)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize, ToSchema)]
#[schema(as = MessagePart)]
struct Part {
    #[schema(schema_with = text_kind)]
    r#type: String,
    #[schema(required, nullable = false)]
    text: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = RequestToolCall)]
struct WireToolCall {
    id: String,
    #[schema(schema_with = schemas::function_kind)]
    r#type: String,
    #[schema(required, nullable = false)]
    function: Option<WireCalled>,
}

fn text_kind() -> Schema {
    schemas::words(&["text"])
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CalledFunction)]
struct WireCalled {
    name: String,
    arguments: String,
}

/// The last message's text, which an answer goes on from.
pub(super) fn opening(messages: &mut Vec<WireMessage>) -> Result<String, ApiError> {
    let index = messages.len().saturating_sub(1);
    let last = messages.pop().map(|last| (last.role, last.decode(index)));
    match last {
        Some((WireRole::Assistant, turn))
            if turn.as_ref().map_or(true, |turn| turn.calls.is_empty()) =>
        {
            Ok(turn?.content)
        }
        _ => {
            let message =
                "continue_final_message needs a last message of role 'assistant', without calls";
            Err(ApiError::invalid(Some("messages"), message))
        }
    }
}

/// The turns, if they make a conversation.
pub(super) fn conversation(messages: Vec<WireMessage>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid(
            Some("messages"),
            "messages must hold at least one",
        ));
    }
    let mut turns = Vec::with_capacity(messages.len());
    let mut open = Open::default();
    for (index, message) in messages.into_iter().enumerate() {
        let older = message.role == WireRole::Function;
        let calls_older = message.function_call.is_some();
        let mut turn = message.decode(index)?;
        match turn.role {
            Role::Tool if older => turn.call_id = open.older.take(),
            Role::Tool => open.answered(index, turn.call_id.as_deref())?,
            _ => {
                open.all_answered()?;
                open = Open::of(index, &turn.calls, calls_older)?;
            }
        }
        turns.push(turn);
    }
    open.all_answered()?;
    Ok(turns)
}

/// The calls of the last message that wasn't a tool's, and which of them were answered since.
#[derive(Default)]
struct Open {
    /// Where they stand.
    message: usize,
    ids: Vec<String>,
    answered: HashSet<String>,
    /// The id that we gave to an older call, which has none and needs no answer.
    older: Option<String>,
}

impl Open {
    fn of(message: usize, calls: &[ToolCall], older: bool) -> Result<Self, ApiError> {
        if older {
            return Ok(Self {
                older: calls.first().map(|call| call.id.clone()),
                ..Self::default()
            });
        }
        let mut seen = HashSet::new();
        for (index, call) in calls.iter().enumerate() {
            if !seen.insert(&call.id) {
                let param = format!("messages[{message}].tool_calls[{index}].id");
                let message = "another call of this message has this id already";
                return Err(ApiError::invalid(Some(&param), message));
            }
        }
        Ok(Self {
            message,
            ids: calls.iter().map(|call| call.id.clone()).collect(),
            ..Self::default()
        })
    }

    fn answered(&mut self, index: usize, id: Option<&str>) -> Result<(), ApiError> {
        let refused = |field: &str, message: &str| {
            let param = format!("messages[{index}].{field}");
            Err(ApiError::invalid(Some(&param), message))
        };
        if self.ids.is_empty() {
            let message =
                "a message of role 'tool' must answer a message before it that has 'tool_calls'";
            return refused("role", message);
        }
        let Some(id) = id.filter(|id| self.ids.iter().any(|known| known == id)) else {
            let message = "the message before it has no call with this tool_call_id";
            return refused("tool_call_id", message);
        };
        if !self.answered.insert(id.to_owned()) {
            return refused("tool_call_id", "this call was answered already");
        }
        Ok(())
    }

    fn all_answered(&self) -> Result<(), ApiError> {
        let unanswered = |id: &String| !self.answered.contains(id);
        let Some(call) = self.ids.iter().position(unanswered) else {
            return Ok(());
        };
        let param = format!("messages[{}].tool_calls[{call}].id", self.message);
        let message =
            "each tool call must be answered by a message of role 'tool' right after its own";
        Err(ApiError::invalid(Some(&param), message))
    }
}

impl WireMessage {
    fn decode(self, index: usize) -> Result<Message, ApiError> {
        let at = |field: &str| format!("messages[{index}].{field}");
        let refused =
            |field: &str, message: &str| Err(ApiError::invalid(Some(&at(field)), message));
        let audio = self.audio.as_ref();
        if audio.is_some_and(|audio| !audio.is_null() && !empty(audio)) {
            return Err(ApiError::unsupported(&at("audio")));
        }
        let role = self.role.decode();
        let calls = calls(index, self.tool_calls, self.function_call)?;
        if !calls.is_empty() && role != Role::Assistant {
            return refused("tool_calls", "only an assistant calls tools");
        }
        if self.role == WireRole::Tool && self.tool_call_id.is_none() {
            return refused(
                "tool_call_id",
                "the message doesn't say which call it answers",
            );
        }
        if self.role == WireRole::Function && self.name.is_none() {
            return refused("name", "the message doesn't name its function");
        }
        let content = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => joined(parts, &at("content"))?,
            None => match self.refusal {
                Some(refusal) if role == Role::Assistant => refusal,
                // Whose turn was nothing but calls, or nothing at all.
                _ if role == Role::Assistant => String::new(),
                _ => return refused("content", "the message has no content"),
            },
        };
        Ok(Message {
            role,
            content,
            name: self.name,
            calls,
            call_id: self.tool_call_id.filter(|_| role == Role::Tool),
        })
    }
}

impl WireRole {
    fn decode(self) -> Role {
        match self {
            Self::System | Self::Developer => Role::System,
            Self::User => Role::User,
            Self::Assistant => Role::Assistant,
            Self::Tool | Self::Function => Role::Tool,
        }
    }
}

fn calls(
    message: usize,
    tool_calls: Option<Vec<WireToolCall>>,
    older: Option<WireCalled>,
) -> Result<Vec<ToolCall>, ApiError> {
    let call = |id, called: WireCalled| ToolCall {
        id,
        name: called.name,
        arguments: called.arguments,
    };
    let tool_calls = tool_calls.unwrap_or_default();
    if let Some(called) = older {
        if tool_calls.is_empty() {
            return Ok(vec![call(format!("function_call_{message}"), called)]);
        }
        let param = format!("messages[{message}].function_call");
        let message = "a message has tool_calls or a function_call, not both";
        return Err(ApiError::invalid(Some(&param), message));
    }
    let decoded = tool_calls.into_iter().enumerate().map(|(index, wire)| {
        let at = |field: &str| format!("messages[{message}].tool_calls[{index}].{field}");
        match (wire.r#type.as_str(), wire.function) {
            ("function", Some(called)) => Ok(call(wire.id, called)),
            ("function", None) => {
                let message = "the call names no function";
                Err(ApiError::invalid(Some(&at("function")), message))
            }
            _ => Err(ApiError::unsupported(&at("type"))),
        }
    });
    decoded.collect()
}

/// The texts one after another: a message has one voice, however many parts it comes in.
fn joined(parts: Vec<Part>, at: &str) -> Result<String, ApiError> {
    let mut content = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        match (part.r#type.as_str(), part.text) {
            ("text", Some(text)) => content.push_str(&text),
            ("text", None) => {
                return Err(ApiError::invalid(
                    Some(&format!("{at}[{index}].text")),
                    "the part has no text",
                ));
            }
            _ => return Err(ApiError::unsupported(&format!("{at}[{index}].type"))),
        }
    }
    Ok(content)
}
