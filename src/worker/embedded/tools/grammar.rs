use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::ApproximateTokEnv;
use serde_json::Value;

use super::super::constrain::embedded;
use super::format::{HERMES_CLOSE, HERMES_OPEN};
use crate::types::{Failure, Function, ToolChoice, ToolFormat, Tools};

impl ToolFormat {
    /// A grammar (llguidance's Lark) for an answer that has to be a call; none where it may be anything.
    ///
    /// It spells only text. Llama's and Mistral's openers are control tokens, which no text gives, so there
    /// the answer is the JSON alone; a [`super::CallParser`] that is told of the force expects that.
    ///
    /// # Errors
    /// The function that has to be called isn't there.
    pub(in crate::worker) fn grammar(self, tools: &Tools) -> Result<Option<String>, Failure> {
        let (functions, many): (Vec<_>, _) = match &tools.choice {
            ToolChoice::None | ToolChoice::Auto => return Ok(None),
            ToolChoice::Required => (tools.functions.iter().enumerate().collect(), tools.parallel),
            ToolChoice::Named(name) => {
                let named = |(_, function): &(usize, &Function)| function.name == *name;
                let found = tools.functions.iter().enumerate().find(named);
                (found.into_iter().collect(), false)
            }
        };
        if functions.is_empty() {
            return Err(Failure::Invalid {
                param: Some("tool_choice".into()),
                message: "tool_choice asks for a function that is not among the tools".into(),
            });
        }
        let start = match self {
            Self::Hermes => {
                let open = literal(&format!("{HERMES_OPEN}\n"));
                let close = literal(&format!("\n{HERMES_CLOSE}"));
                let more = if many {
                    format!(" ({} call)*", literal("\n"))
                } else {
                    String::new()
                };
                format!("start: call{more}\ncall: {open} body {close}\n")
            }
            Self::Llama3 => {
                let more = if many {
                    format!(" ({} body)*", literal("; "))
                } else {
                    String::new()
                };
                format!("start: body{more}\n")
            }
            Self::Mistral => {
                let more = if many {
                    format!(" ({} body)*", literal(", "))
                } else {
                    String::new()
                };
                format!("start: {} body{more} {}\n", literal("["), literal("]"))
            }
        };
        let names: Vec<_> = (0..functions.len())
            .map(|index| format!("call_{index}"))
            .collect();
        let mut grammar = format!("{start}body: {}\n", names.join(" | "));
        for (index, (place, function)) in functions.into_iter().enumerate() {
            let opening = literal(&format!(
                r#"{{"name": {}, "{}": "#,
                Value::from(function.name.as_str()),
                self.arguments_key()
            ));
            grammar.push_str(&format!(
                "call_{index}: {opening} arguments_{index} {}\narguments_{index}: %json {}\n",
                literal("}"),
                schema(place, function)?
            ));
        }
        Ok(Some(grammar))
    }
}

/// Lark writes its strings as JSON does.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// The schema of a function's arguments, an object whatever else it says.
fn schema(place: usize, function: &Function) -> Result<String, Failure> {
    let mut schema = function.parameters.clone();
    schema.entry("type").or_insert_with(|| "object".into());
    embedded(&Value::Object(schema), "tools").map_err(|failure| match failure {
        Failure::Invalid { message, .. } => Failure::Invalid {
            param: Some(format!("tools[{place}].function.parameters").into()),
            message,
        },
        other => other,
    })
}

/// A grammar could not be used: says which function's schema is to blame, as far as one alone is.
pub(in crate::worker) fn blame(tools: &Tools, reason: &str) -> Failure {
    let alone = tools
        .functions
        .iter()
        .enumerate()
        .find_map(|(index, function)| {
            let schema = schema(index, function).ok()?;
            let reason = compile(&format!("start: %json {schema}\n")).err()?;
            Some((format!("tools[{index}].function.parameters"), reason))
        });
    let (param, reason) = alone.unwrap_or_else(|| ("tools".to_owned(), reason.to_owned()));
    Failure::Invalid {
        message: format!("{param} can't be made a grammar of: {reason}"),
        param: Some(param.into()),
    }
}

/// Compiles a grammar without a model's vocabulary, over single bytes.
fn compile(grammar: &str) -> Result<(), String> {
    let factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env());
    factory
        .map(|mut factory| {
            factory.quiet();
            factory
        })
        .and_then(|factory| factory.create_parser(TopLevelGrammar::from_lark(grammar.to_owned())))
        .map(drop)
        .map_err(|error| error.to_string())
}
