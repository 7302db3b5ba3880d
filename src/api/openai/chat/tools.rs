//! `tools` and `tool_choice`, and their older names `functions` and `function_call`.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::api::error::ApiError;
use crate::api::openai::schemas;
use crate::types::{Function, ToolChoice, Tools};

/// OpenAI's bounds.
const MAX_TOOLS: usize = 128;
const MAX_NAME_BYTES: usize = 64;

#[derive(Deserialize, ToSchema)]
#[schema(as = ChatTool)]
pub(super) struct WireTool {
    #[schema(schema_with = schemas::function_kind)]
    r#type: String,
    #[schema(required, nullable = false)]
    function: Option<WireFunction>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = FunctionObject)]
pub(super) struct WireFunction {
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    name: String,
    description: Option<String>,
    /// A JSON schema of an object.
    #[schema(value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
    strict: Option<bool>,
}

/// `tool_choice`
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum WireChoice {
    Word(String),
    Object {
        r#type: String,
        function: Option<WireName>,
    },
}

/// `function_call`
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum WireCall {
    Word(String),
    Named { name: String },
}

#[derive(Deserialize)]
pub(super) struct WireName {
    name: String,
}

impl WireChoice {
    /// Whether it names a function.
    pub(super) fn is_named(&self) -> bool {
        matches!(
            self,
            Self::Object {
                function: Some(_),
                ..
            }
        )
    }
}

/// A name of a function or a schema.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Everything that a request says of functions.
pub(super) struct Asked {
    pub(super) tools: Vec<WireTool>,
    pub(super) choice: Option<WireChoice>,
    pub(super) parallel: bool,
    pub(super) functions: Vec<WireFunction>,
    pub(super) call: Option<WireCall>,
}

impl Asked {
    pub(super) fn decode(self) -> Result<Tools, ApiError> {
        let refused = |param, message| Err(ApiError::invalid(Some(param), message));
        if !self.functions.is_empty() && !self.tools.is_empty() {
            return refused(
                "functions",
                "name the functions in tools or in functions, not in both",
            );
        }
        // An older client knows of one call in an answer.
        let parallel = self.parallel && self.functions.is_empty();
        let older = function_call(self.call, &self.functions)?;
        let functions = if self.functions.is_empty() {
            tools(self.tools)?
        } else {
            older_functions(self.functions)?
        };
        let choice = tool_choice(self.choice, &functions)?;
        Ok(Tools {
            functions,
            choice: choice.or(older).unwrap_or_default(),
            parallel,
        })
    }
}

fn tools(tools: Vec<WireTool>) -> Result<Vec<Function>, ApiError> {
    let mut wire = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        if tool.r#type != "function" {
            return Err(ApiError::unsupported(&format!("tools[{index}].type")));
        }
        let param = format!("tools[{index}].function");
        let Some(function) = tool.function else {
            return Err(ApiError::invalid(Some(&param), "the tool has no function"));
        };
        wire.push((param, function));
    }
    functions("tools", wire)
}

fn older_functions(wire: Vec<WireFunction>) -> Result<Vec<Function>, ApiError> {
    let place = |(index, function)| (format!("functions[{index}]"), function);
    functions(
        "functions",
        wire.into_iter().enumerate().map(place).collect(),
    )
}

/// The functions, each with the place where it stands.
fn functions(param: &str, wire: Vec<(String, WireFunction)>) -> Result<Vec<Function>, ApiError> {
    if wire.len() > MAX_TOOLS {
        let message = format!("{param} may hold 128 functions at most");
        return Err(ApiError::invalid(Some(param), &message));
    }
    let mut names = HashSet::new();
    let mut functions = Vec::with_capacity(wire.len());
    for (at, function) in wire {
        let refused = |field: &str, message: &str| {
            Err(ApiError::invalid(Some(&format!("{at}.{field}")), message))
        };
        if !is_name(&function.name) {
            let message = "a function's name is 1 to 64 letters, digits, _ and -";
            return refused("name", message);
        }
        if !names.insert(function.name.clone()) {
            return refused("name", "another function has this name already");
        }
        let parameters = function.parameters.unwrap_or_else(no_parameters);
        if parameters.get("type").is_some_and(|kind| kind != "object") {
            return refused("parameters.type", "a function's parameters are an object");
        }
        functions.push(Function {
            name: function.name,
            description: function.description,
            parameters,
            strict: function.strict.unwrap_or(false),
        });
    }
    Ok(functions)
}

/// A function that says nothing of parameters has none.
fn no_parameters() -> Map<String, Value> {
    Map::from_iter([
        ("type".to_owned(), json!("object")),
        ("properties".to_owned(), json!({})),
        ("additionalProperties".to_owned(), json!(false)),
    ])
}

/// `None` where nothing is said.
fn tool_choice(
    choice: Option<WireChoice>,
    functions: &[Function],
) -> Result<Option<ToolChoice>, ApiError> {
    let refused = |param, message| Err(ApiError::invalid(Some(param), message));
    let choice = match choice {
        None => return Ok(None),
        Some(WireChoice::Word(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            _ => {
                let message = "tool_choice must be none, auto, required or an object";
                return refused("tool_choice", message);
            }
        },
        Some(WireChoice::Object { r#type, function }) => match (r#type.as_str(), function) {
            ("function", Some(function)) => ToolChoice::Named(function.name),
            ("function", None) => {
                let message = "tool_choice names no function";
                return refused("tool_choice.function", message);
            }
            // `allowed_tools` and `custom`
            _ => return Err(ApiError::unsupported("tool_choice.type")),
        },
    };
    match &choice {
        ToolChoice::Required | ToolChoice::Named(_) if functions.is_empty() => refused(
            "tool_choice",
            "tool_choice asks for a call, and there are no tools",
        ),
        ToolChoice::Named(name) if !functions.iter().any(|known| known.name == *name) => refused(
            "tool_choice.function.name",
            "tool_choice names a function that isn't among the tools",
        ),
        _ => Ok(Some(choice)),
    }
}

/// `None` where nothing is said.
fn function_call(
    call: Option<WireCall>,
    functions: &[WireFunction],
) -> Result<Option<ToolChoice>, ApiError> {
    let refused = |param, message| Err(ApiError::invalid(Some(param), message));
    match call {
        None => Ok(None),
        Some(WireCall::Word(word)) => match word.as_str() {
            "none" => Ok(Some(ToolChoice::None)),
            "auto" => Ok(Some(ToolChoice::Auto)),
            _ => {
                let message = "function_call must be none, auto or an object";
                refused("function_call", message)
            }
        },
        Some(WireCall::Named { .. }) if functions.is_empty() => refused(
            "function_call",
            "function_call asks for a call, and there are no functions",
        ),
        Some(WireCall::Named { name }) if functions.iter().any(|known| known.name == name) => {
            Ok(Some(ToolChoice::Named(name)))
        }
        Some(WireCall::Named { .. }) => refused(
            "function_call.name",
            "function_call names a function that isn't among the functions",
        ),
    }
}
