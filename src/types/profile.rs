use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Chat, Preface, Role};

/// Fields that mean the same of a text as of a chat.
const OF_TEXTS: [&str; 15] = [
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "max_tokens",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "user",
];

/// What a vertical says before its clients do, and what it fills in of their requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Goes before whatever the client's own system message says.
    pub system: Option<String>,
    /// Turns before the client's first.
    pub examples: Vec<Example>,
    /// Only these of the examples, where it isn't all of them.
    pub nearest: Option<Nearest>,
    /// Fields of a request, for clients that leave them out.
    pub defaults: Map<String, Value>,
    /// Fields of a request, whatever clients say.
    pub locked: Map<String, Value>,
    /// How it is to think before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Reasoning>,
}

/// How a model that wasn't made to think thinks before it answers (arXiv 2201.11903).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasoning {
    /// What it is told, behind its orders.
    pub prompt: String,
    /// What it writes between its thoughts and its answer; neither of them has it.
    pub until: String,
}

/// The examples that are nearest to what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nearest {
    /// How many.
    pub count: usize,
    /// The embedding model by whose vectors.
    pub embedding: String,
}

/// A question as it should be answered: learning in context (arXiv 2005.14165).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What a user says.
    pub input: String,
    /// What the model is to answer; `expected` in a file that suites and trainings read as well.
    #[serde(alias = "expected")]
    pub output: String,
}

impl Profile {
    /// Whether a text can have all of it: it has no turns, and says of a request only what texts and chats are asked alike.
    #[must_use]
    pub fn is_of_texts(&self) -> bool {
        let mut fields = self.defaults.keys().chain(self.locked.keys());
        let alike = |field: &String| OF_TEXTS.contains(&field.as_str());
        self.orders().is_none() && self.examples.is_empty() && fields.all(alike)
    }

    /// What goes before the client's own orders.
    #[must_use]
    pub fn orders(&self) -> Option<String> {
        let reasoning = self.reasoning.as_ref().map(|one| one.prompt.as_str());
        let all: Vec<_> = self
            .system
            .as_deref()
            .into_iter()
            .chain(reasoning)
            .collect();
        (!all.is_empty()).then(|| all.join("\n\n"))
    }

    /// How much of a conversation is the profile's, and the same in each that it begins. Examples that are picked for a
    /// question are not: they would tell others what was asked.
    #[must_use]
    pub fn preface(&self, chat: &Chat) -> Option<Preface> {
        let mut turns = 0;
        let orders = self.orders();
        if let Some(orders) = &orders {
            let first = chat.messages.first()?;
            if first.role != Role::System || !first.content.starts_with(orders) {
                return None;
            }
            turns = 1;
        }
        let said = |turn: usize, role: Role, text: &str| {
            let message = chat.messages.get(turn);
            message.is_some_and(|message| message.role == role && message.content == text)
        };
        let examples = self.examples.iter().filter(|_| self.nearest.is_none());
        for example in examples {
            if !said(turns, Role::User, &example.input)
                || !said(turns + 1, Role::Assistant, &example.output)
            {
                break;
            }
            turns += 2;
        }
        (turns > 0).then(|| Preface {
            turns,
            system_bytes: orders.map(|orders| orders.len()),
        })
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Message;

    #[test]
    fn a_text_has_no_turns_and_no_fields_of_chats() {
        let locked = |name: &str| Profile {
            locked: Map::from_iter([(name.to_owned(), Value::from(1))]),
            ..Profile::default()
        };
        assert!(locked("temperature").is_of_texts());
        for field in [
            "response_format",
            "max_completion_tokens",
            "logprobs",
            "tools",
        ] {
            assert!(!locked(field).is_of_texts(), "{field}");
        }
        let system = Some("Be kind.".into());
        assert!(
            !Profile {
                system,
                ..Profile::default()
            }
            .is_of_texts()
        );
    }

    #[test]
    fn only_what_stands_there_word_for_word_is_the_profiles() {
        let example = |input: &str| Example {
            input: input.into(),
            output: "Ho".into(),
        };
        let mut profile = Profile {
            system: Some("Be kind.".into()),
            examples: vec![example("Hi"), example("Hey")],
            ..Profile::default()
        };
        let chat = |turns: &[(Role, &str)]| Chat {
            messages: turns
                .iter()
                .map(|(role, content)| Message {
                    role: *role,
                    content: (*content).into(),
                    name: None,
                    calls: Vec::new(),
                    call_id: None,
                })
                .collect(),
            ..Chat::default()
        };
        let (system, user, assistant) = (Role::System, Role::User, Role::Assistant);
        let whole = chat(&[
            (system, "Be kind.\n\nMy name is Bo."),
            (user, "Hi"),
            (assistant, "Ho"),
            (user, "Hey"),
            (assistant, "Ho"),
            (user, "Hi"),
        ]);
        let is = |turns| Preface {
            turns,
            system_bytes: Some(8),
        };
        assert_eq!(profile.preface(&whole), Some(is(5)));
        let own = whole.cut(is(5)).messages;
        assert_eq!(own.len(), 5);
        assert_eq!(own[0].content, "Be kind.");

        let other = chat(&[(system, "Be kind."), (user, "Hi"), (assistant, "Hm")]);
        assert_eq!(profile.preface(&other), Some(is(1)));
        assert_eq!(profile.preface(&chat(&[(user, "Be kind.")])), None);
        assert_eq!(profile.preface(&chat(&[(system, "Be kin")])), None);
        assert_eq!(profile.preface(&chat(&[])), None);

        profile.nearest = Some(Nearest {
            count: 2,
            embedding: "minilm".into(),
        });
        assert_eq!(profile.preface(&whole), Some(is(1)));
        profile.system = None;
        assert_eq!(profile.preface(&whole), None);
    }
}
