use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Map, Value};

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
#[derive(Debug, Clone, Default, PartialEq)]
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
}

/// The examples that are nearest to what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nearest {
    /// How many.
    pub count: usize,
    /// The embedding model by whose vectors.
    pub embedding: String,
}

/// A question as it should be answered: learning in context (arXiv 2005.14165).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
        self.system.is_none() && self.examples.is_empty() && fields.all(alike)
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A name for its content: another one where anything in it is another.
    #[must_use]
    pub fn revision(&self) -> String {
        let mut hash = crc32fast::Hasher::new();
        let mut add = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(self.system.as_deref().unwrap_or_default());
        for example in &self.examples {
            add(&example.input);
            add(&example.output);
        }
        if let Some(nearest) = &self.nearest {
            add(&format!("{} {}", nearest.count, nearest.embedding));
        }
        for fields in [&self.defaults, &self.locked] {
            add("fields");
            for (name, value) in fields {
                add(name);
                add(&value.to_string());
            }
        }
        let mut name = String::new();
        // Writing to a String can't fail.
        let _infallible = write!(name, "{:08x}", hash.finalize());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn another_content_is_another_revision() {
        let profile = Profile {
            system: Some("Be short.".into()),
            examples: vec![Example {
                input: "a".into(),
                output: "b".into(),
            }],
            ..Profile::default()
        };
        let mut others = vec![Profile::default(), profile.clone()];
        others[1].system = Some("Be short".into());
        others.push(Profile {
            examples: vec![Example {
                input: "ab".into(),
                output: String::new(),
            }],
            ..profile.clone()
        });
        for name in ["defaults", "locked"] {
            let fields = Map::from_iter([("temperature".to_owned(), Value::from(0))]);
            let mut other = profile.clone();
            *if name == "locked" {
                &mut other.locked
            } else {
                &mut other.defaults
            } = fields;
            others.push(other);
        }
        let mut names: Vec<_> = others.iter().map(Profile::revision).collect();
        assert!(!names.contains(&profile.revision()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), others.len());
        assert_eq!(profile.revision(), profile.clone().revision());
    }
}
