//! A conversation to tokens, by the model's own chat template.
//!
//! The template may spell control tokens; what a user wrote may not. So each control token's text inside
//! what a user wrote is broken up by a mark that nobody can guess, the template is rendered, whatever control
//! tokens are still whole in it are the template's own, and the marks are taken out of the text between them.
//!
//! Many templates know nothing of tools, and leave them out without a word. So it is tried once what the
//! template shows, and what it doesn't is told in plain text.

mod json;
mod marks;
#[cfg(test)]
mod tests;
mod turns;

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};

pub(super) use json::to_json;
use marks::Controls;
use turns::{Abilities, Turn};

use crate::types::Thoughts;
use crate::types::{Chat, Failure, Thinking, ToolFormat};

/// Steps of the template's interpreter: a template of 100 messages takes a few thousand.
const FUEL: u64 = 10_000_000;
const RECURSION: usize = 64;

/// Part of a rendered prompt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A control token that the template wrote: an index into the list given to [`Prompts::new`].
    Control(usize),
    /// Text, to be tokenised as such.
    Text(String),
}

impl Piece {
    /// How long its text is.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Control(_) => 0,
            Self::Text(text) => text.len(),
        }
    }
}

/// Renders one model's prompts.
pub(super) struct Prompts {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    controls: Controls,
    format: ToolFormat,
    abilities: Abilities,
}

impl Prompts {
    /// A model's template (Jinja2, as transformers runs it) and the texts of its control tokens.
    pub(super) fn new(
        template: String,
        control: &[String],
        bos: String,
        eos: String,
    ) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_function("strftime_now", |format: String| {
            jiff::Zoned::now().strftime(&format).to_string()
        });
        environment.add_filter("tojson", json::filter);
        let format = ToolFormat::of_template(&template);
        environment
            .add_template_owned("chat", template)
            .map_err(|error| format!("its chat template can't be read: {error}"))?;
        let mut prompts = Self {
            environment,
            bos,
            eos,
            controls: Controls::new(control)?,
            format,
            abilities: Abilities::default(),
        };
        prompts.abilities = turns::probe(format, |turns, tools| {
            prompts.render(turns, tools, &Thinking::Free)
        });
        Ok(prompts)
    }

    /// The model spells calls in this form, whatever its template looks like.
    pub(super) fn with_tool_format(mut self, format: ToolFormat) -> Self {
        self.format = format;
        self.abilities = turns::probe(format, |turns, tools| {
            self.render(turns, tools, &Thinking::Free)
        });
        self
    }

    /// How the model is told to spell calls.
    pub(super) fn tool_format(&self) -> ToolFormat {
        self.format
    }

    /// The prompt that asks for the next turn of a conversation.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub(super) fn chat(&self, chat: &Chat) -> Result<Vec<Piece>, Failure> {
        let marks = self.controls.marks();
        let tools = turns::tools(chat, &marks);
        let turns = turns::turns(chat, &tools, self.format, self.abilities, &marks);
        let shown = (self.abilities.tools && !tools.is_empty()).then_some(tools.as_slice());
        let rendered = self
            .render(&turns, shown, &chat.thinking)
            .map_err(|error| refusal(&error))?;
        let mut pieces = marks.split(&rendered);
        if chat.thinking == Thinking::Off && Thoughts::are_open_after(&rendered) {
            pieces.push(Piece::Text(Thoughts::NONE.to_owned()));
        }
        Ok(pieces)
    }

    fn render(
        &self,
        turns: &[Turn],
        tools: Option<&[serde_json::Value]>,
        thinking: &Thinking,
    ) -> Result<String, Error> {
        // A template that isn't told decides for itself.
        let (thinks, effort) = match thinking {
            Thinking::Free => (Value::UNDEFINED, Value::UNDEFINED),
            Thinking::Effort(effort) => (true.into(), effort.into()),
            Thinking::Off => (false.into(), Value::UNDEFINED),
        };
        self.environment.get_template("chat")?.render(context! {
            messages => turns,
            // None and not undefined where there are none, as transformers gives it.
            tools => tools,
            add_generation_prompt => true,
            // Qwen's name of it, and DeepSeek's.
            enable_thinking => thinks,
            thinking => thinks,
            reasoning_effort => effort,
            bos_token => self.bos,
            eos_token => self.eos,
        })
    }
}

/// A template's own `raise_exception` is meant for the client; other errors are the template's fault, and
/// their message may quote the conversation only to its own author.
fn refusal(error: &Error) -> Failure {
    let reason = error.detail().unwrap_or("it can't be rendered").to_owned();
    Failure::Invalid {
        param: Some("messages".into()),
        message: format!("this model's chat template refuses the conversation: {reason}"),
    }
}
