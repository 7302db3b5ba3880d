use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::ApproximateTokEnv;
use serde_json::{Value, json};

use super::super::constrain::embedded;
use super::format::{HERMES_CLOSE, HERMES_OPEN};
use crate::types::{Failure, Function, ToolChoice, ToolFormat, Tools};

impl ToolFormat {
    /// A grammar (llguidance's Lark) for an answer that has to be a call, or whose calls have to be strict; none where it may
    /// be anything.
    ///
    /// It spells only text. Llama's and Mistral's openers are control tokens, which no text gives, so there
    /// a forced answer is the JSON alone; a [`super::CallParser`] that is told of the force expects that. Where it isn't forced
    /// they have no grammar.
    ///
    /// # Errors
    /// The function that has to be called isn't there, or a schema can't be followed.
    pub(in crate::worker) fn grammar(self, tools: &Tools) -> Result<Option<String>, Failure> {
        let (functions, many): (Vec<_>, _) = match &tools.choice {
            ToolChoice::None => return Ok(None),
            ToolChoice::Auto => return self.free(tools),
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
        let more = |between: &str, what: &str| match many {
            true => format!(" ({} {what})*", literal(between)),
            false => String::new(),
        };
        let start = match self {
            Self::Hermes => {
                let open = literal(&format!("{HERMES_OPEN}\n"));
                let close = literal(&format!("\n{HERMES_CLOSE}"));
                format!(
                    "start: call{}\ncall: {open} body {close}\n",
                    more("\n", "call")
                )
            }
            Self::Llama3 => format!("start: body{}\n", more("; ", "body")),
            Self::Mistral => {
                let (open, close) = (literal("["), literal("]"));
                format!("start: {open} body{} {close}\n", more(", ", "body"))
            }
        };
        let body = self.body(functions.into_iter(), |_| true)?;
        Ok(Some(start + &body))
    }

    /// For an answer that may be anything, but whose calls of strict functions follow their schemas.
    fn free(self, tools: &Tools) -> Result<Option<String>, Failure> {
        let any_is_strict = tools.functions.iter().any(|function| function.strict);
        if self != Self::Hermes || !any_is_strict {
            return Ok(None);
        }
        let (open, close) = (literal(HERMES_OPEN), literal(HERMES_CLOSE));
        let many = if tools.parallel { "*" } else { "?" };
        let start = format!(
            "start: call{many} rest\ncall: open \"\\n\"? body \"\\n\"? {close}\n\
             open[lazy]: TEXT {open}\nrest: TEXT\nTEXT: /(\\n|.)*/\n"
        );
        let functions = tools.functions.iter().enumerate();
        let body = self.body(functions, |function| function.strict)?;
        Ok(Some(start + &body))
    }

    /// The rule `body`: a call of one of these functions. The arguments of some follow their schemas, those of the others are
    /// any object.
    fn body<'a>(
        self,
        functions: impl Iterator<Item = (usize, &'a Function)>,
        is_held: impl Fn(&Function) -> bool,
    ) -> Result<String, Failure> {
        let (mut names, mut rules) = (Vec::new(), String::new());
        for (index, (place, function)) in functions.enumerate() {
            let opening = literal(&format!(
                r#"{{"name": {}, "{}": "#,
                Value::from(function.name.as_str()),
                self.arguments_key()
            ));
            let schema = match is_held(function) {
                true => schema(place, function)?,
                false => embedded(&json!({"type": "object"}), "tools")?,
            };
            names.push(format!("call_{index}"));
            rules.push_str(&format!(
                "call_{index}: {opening} arguments_{index} {}\narguments_{index}: %json {schema}\n",
                literal("}"),
            ));
        }
        Ok(format!("body: {}\n{rules}", names.join(" | ")))
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
    let is_held = |function: &Function| tools.choice != ToolChoice::Auto || function.strict;
    let alone = tools
        .functions
        .iter()
        .enumerate()
        .filter(|(_, function)| is_held(function))
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
