//! A conversation as a chat template takes it, or as one takes it that knows nothing of tools.

use minijinja::Error;
use serde::Serialize;
use serde_json::{Value, json};

use super::json::to_json;
use super::marks::Marks;
use crate::types::{Chat, Message, Role, ToolCall, ToolChoice, ToolFormat};

/// Characters of a call's id that Mistral's templates ask for.
const MISTRAL_ID: usize = 9;

/// What a template shows of what it is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    /// A list of functions.
    pub(super) tools: bool,
    /// Calls, and what they gave.
    calls: Calls,
    /// A system's turn.
    system: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Calls {
    #[default]
    Hidden,
    Shown,
    /// In a turn whose content is null.
    WithoutContent,
}

/// One turn, with the names that transformers' templates know.
#[derive(Serialize)]
pub(super) struct Turn {
    role: &'static str,
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
}

impl Turn {
    fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role: role.as_str(),
            content: Some(content.into()),
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }

    fn prepend(&mut self, text: &str) {
        let content = self.content.take().unwrap_or_default();
        self.content = Some(format!("{text}\n\n{content}"));
    }

    fn append(&mut self, between: &str, text: &str) {
        let content = self.content.get_or_insert_default();
        if !content.is_empty() {
            content.push_str(between);
        }
        content.push_str(text);
    }
}

/// Tries what a template shows. One that can't be rendered shows nothing.
pub(super) fn probe(
    format: ToolFormat,
    render: impl Fn(&[Turn], Option<&[Value]>) -> Result<String, Error>,
) -> Abilities {
    let shows = |turns: &[Turn], tools, words: &[&str]| {
        let rendered = render(turns, tools);
        rendered.is_ok_and(|text| words.iter().all(|word| text.contains(word)))
    };
    let function = json!({"name": "look_up_probe", "description": "Probes.", "parameters": {
        "type": "object", "properties": {"key": {"type": "string", "description": "A key."}},
    }});
    let tools = [json!({"type": "function", "function": function})];
    let question = || Turn::new(Role::User, "Hello");
    let lists = shows(&[question()], Some(&tools), &["look_up_probe"]);
    let conversation = |content: Option<&str>| {
        let call = ToolCall {
            id: "call_0".to_owned(),
            name: "look_up_probe".to_owned(),
            arguments: String::new(),
        };
        let mut called = Turn::new(Role::Assistant, "");
        called.content = content.map(str::to_owned);
        called.tool_calls = vec![native(&call, &json!({"key": "probed-key"}), format)];
        let mut gave = Turn::new(Role::Tool, "probed-value");
        gave.name = Some(call.name);
        gave.tool_call_id = Some(id(&call.id, format));
        [question(), called, gave]
    };
    let offered = lists.then_some(tools.as_slice());
    let words = ["look_up_probe", "probed-key", "probed-value"];
    let calls = if shows(&conversation(Some("")), offered, &words) {
        Calls::Shown
    } else if shows(&conversation(None), offered, &words) {
        Calls::WithoutContent
    } else {
        Calls::Hidden
    };
    let told = [Turn::new(Role::System, "probed-order"), question()];
    Abilities {
        tools: lists,
        calls,
        system: shows(&told, None, &["probed-order"]),
    }
}

/// The functions that the model hears of, in OpenAI's shape.
pub(super) fn tools(chat: &Chat, marks: &Marks) -> Vec<Value> {
    if chat.tools.choice == ToolChoice::None {
        return Vec::new();
    }
    chat.tools
        .functions
        .iter()
        .map(|function| {
            let mut told = json!({"name": function.name});
            if let Some(description) = &function.description {
                told["description"] = description.as_str().into();
            }
            told["parameters"] = Value::Object(function.parameters.clone());
            json!({"type": "function", "function": marks.break_up_json(&told)})
        })
        .collect()
}

/// The turns of a conversation, tools told of in text where the template doesn't show them.
pub(super) fn turns(
    chat: &Chat,
    tools: &[Value],
    format: ToolFormat,
    abilities: Abilities,
    marks: &Marks,
) -> Vec<Turn> {
    let mut turns: Vec<Turn> = if abilities.calls == Calls::Hidden {
        in_text(&chat.messages, format, marks)
    } else {
        let turn = |message| natively(message, &chat.messages, format, abilities.calls, marks);
        chat.messages.iter().map(turn).collect()
    };
    if tools.is_empty() || abilities.tools {
        return turns;
    }
    let instructions = instructions(chat, tools, format, marks);
    let system = Role::System.as_str();
    let user = Role::User.as_str();
    match turns.first_mut() {
        Some(first) if first.role == system => first.append("\n\n", &instructions),
        _ if abilities.system => turns.insert(0, Turn::new(Role::System, instructions)),
        _ => match turns.iter_mut().find(|turn| turn.role == user) {
            Some(first) => first.prepend(&instructions),
            None => turns.insert(0, Turn::new(Role::User, instructions)),
        },
    }
    turns
}

fn plain(message: &Message, marks: &Marks) -> Turn {
    let mut turn = Turn::new(message.role, marks.break_up(&message.content));
    turn.name = message.name.as_ref().map(|name| marks.break_up(name));
    turn
}

fn natively(
    message: &Message,
    all: &[Message],
    format: ToolFormat,
    calls: Calls,
    marks: &Marks,
) -> Turn {
    let mut turn = plain(message, marks);
    turn.tool_calls = message
        .calls
        .iter()
        .map(|call| {
            let (call, arguments) = break_up_call(call, marks);
            native(&call, &arguments, format)
        })
        .collect();
    if message.content.is_empty() && !message.calls.is_empty() && calls == Calls::WithoutContent {
        turn.content = None;
    }
    if let Some(call_id) = &message.call_id {
        turn.tool_call_id = Some(id(&marks.break_up(call_id), format));
        // Some templates show what a tool gave by its name alone, which OpenAI's shape has at the call.
        let call = || {
            all.iter()
                .flat_map(|message| &message.calls)
                .find(|call| call.id == *call_id)
        };
        turn.name = turn.name.or_else(|| Some(marks.break_up(&call()?.name)));
    }
    turn
}

/// A call with nothing in it that spells a control token, and its arguments as templates want them.
fn break_up_call(call: &ToolCall, marks: &Marks) -> (ToolCall, Value) {
    let arguments = serde_json::from_str(&call.arguments)
        .unwrap_or_else(|_| Value::from(call.arguments.as_str()));
    let arguments = marks.break_up_json(&arguments);
    let call = ToolCall {
        id: marks.break_up(&call.id),
        name: marks.break_up(&call.name),
        arguments: to_json(&arguments),
    };
    (call, arguments)
}

fn native(call: &ToolCall, arguments: &Value, format: ToolFormat) -> Value {
    json!({
        "id": id(&call.id, format),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    })
}

/// Mistral's templates refuse ids of any other length than theirs.
fn id(id: &str, format: ToolFormat) -> String {
    if format != ToolFormat::Mistral {
        return id.to_owned();
    }
    let usable: Vec<_> = id.chars().filter(char::is_ascii_alphanumeric).collect();
    let last = &usable[usable.len().saturating_sub(MISTRAL_ID)..];
    format!("{:0>MISTRAL_ID$}", last.iter().collect::<String>())
}

/// Calls as the model would have written them, and what they gave as a user's turn: templates that don't know
/// tools often insist that users and assistants take turns, so neighbours are put together.
fn in_text(messages: &[Message], format: ToolFormat, marks: &Marks) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::with_capacity(messages.len());
    let mut after_tool = false;
    for message in messages {
        let is_tool = message.role == Role::Tool;
        let mut turn = plain(message, marks);
        if is_tool {
            let content = marks.break_up(&message.content);
            let gave = format!("<tool_response>\n{content}\n</tool_response>");
            turn = Turn::new(Role::User, gave);
        }
        if !message.calls.is_empty() {
            let calls: Vec<_> = message
                .calls
                .iter()
                .map(|call| break_up_call(call, marks).0)
                .collect();
            turn.append("\n", &format.write(&calls));
        }
        match turns.last_mut() {
            Some(last) if after_tool && turn.role == last.role => {
                last.append("\n", &turn.content.unwrap_or_default());
            }
            _ => turns.push(turn),
        }
        after_tool = is_tool || (after_tool && message.role == Role::User);
    }
    turns
}

fn instructions(chat: &Chat, tools: &[Value], format: ToolFormat, marks: &Marks) -> String {
    let list: Vec<_> = tools.iter().map(to_json).collect();
    let example = ToolCall {
        id: String::new(),
        name: "the function's name".to_owned(),
        arguments: r#"{"an argument": "its value"}"#.to_owned(),
    };
    let duty = match &chat.tools.choice {
        ToolChoice::Required => "Your next answer has to be a call.".to_owned(),
        ToolChoice::Named(name) => {
            let name = marks.break_up(name);
            format!("Your next answer has to be a call of the function {name}.")
        }
        ToolChoice::None | ToolChoice::Auto => {
            "Where no function is of use, answer in plain words.".to_owned()
        }
    };
    let number = if chat.tools.parallel {
        "You may make several calls, one after another."
    } else {
        "Make one call at a time."
    };
    format!(
        "These functions are at your service, each described by a line of JSON:\n{}\n\n\
         To call one, write this and nothing else, with the name and the arguments filled in:\n{}\n\n\
         {number} What a function gives comes back between <tool_response> and </tool_response>. {duty}",
        list.join("\n"),
        format.write(&[example])
    )
}
