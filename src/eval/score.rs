use serde::Deserialize;
use serde_json::Value;

use super::suite::Item;
use super::words;

/// What an answer is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// From 0, wrong, to 1, right.
    pub score: f64,
    /// What the model said, or chose.
    pub said: String,
}

/// How answers are scored.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Scorer {
    /// The likeliest of the choices, by the sum of its tokens' log-probabilities: the model writes nothing.
    Choice {
        #[serde(default)]
        choices: Vec<String>,
        #[serde(default)]
        per: Per,
    },
    /// The text, but for blanks around it.
    Exact,
    /// The text without case, punctuation and articles, as SQuAD compares (arXiv 1606.05250).
    Normalised,
    /// The last number of the text.
    Number {
        /// How far it may be off.
        #[serde(default)]
        tolerance: f64,
    },
    /// The text has a place that `expected`, a regular expression, fits.
    Regex,
    /// The text is JSON that fits `expected`, a JSON schema.
    JsonSchema,
    /// The first call is of the function and with the arguments of `expected`.
    ToolCall { tools: Vec<Value> },
    /// Words in common, as SQuAD counts them (arXiv 1606.05250).
    F1,
    /// The longest common sequence of words, as ROUGE-L counts it (ACL W04-1013).
    RougeL,
    /// How near the text is to `expected`, by the vectors of an embedding model: their cosine, or whether it is at least so
    /// much.
    Similarity {
        embedding: String,
        #[serde(default)]
        at_least: Option<f64>,
    },
    /// Whether a model finds the text better than `expected`, which is asked twice with their places changed
    /// (arXiv 2306.05685): 1 better, 0.5 neither, 0 worse.
    Judge {
        model: String,
        #[serde(default = "better")]
        criterion: String,
    },
    /// The share of the text's sentences that `expected`, a passage or several, support: as a model judges, or where most of a
    /// sentence's words stand in one of them.
    Grounding {
        #[serde(default)]
        judge: Option<String>,
    },
    /// Whether the model refuses, as `expected` says that it should or should not.
    Refusal,
}

fn better() -> String {
    "Which answer is better?".into()
}

/// What a choice's log-probability is divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Per {
    /// Nothing.
    #[default]
    Answer,
    /// Its length in bytes: long choices are as likely as short ones.
    Byte,
}

impl Scorer {
    /// Whether an item has what it is scored by.
    pub(super) fn check(&self, item: &Item) -> Result<(), String> {
        let text = || item.expected.as_str().ok_or("expected must be a text");
        match self {
            Self::Choice { choices, .. } => {
                let choices = item.choices.as_ref().unwrap_or(choices);
                if choices.len() < 2 {
                    return Err("there must be two choices at least".into());
                }
                if choices.iter().any(String::is_empty) {
                    return Err("a choice is empty".into());
                }
                if !choices
                    .iter()
                    .any(|choice| Some(choice.as_str()) == item.expected.as_str())
                {
                    return Err("expected is none of the choices".into());
                }
            }
            Self::Exact
            | Self::Normalised
            | Self::F1
            | Self::RougeL
            | Self::Similarity { .. }
            | Self::Judge { .. } => {
                text()?;
            }
            Self::Number { .. } => {
                item.expected.as_f64().ok_or("expected must be a number")?;
            }
            Self::Regex => {
                regex::Regex::new(text()?).map_err(|error| error.to_string())?;
            }
            Self::JsonSchema => {
                jsonschema::validator_for(&item.expected).map_err(|error| error.to_string())?;
            }
            Self::Grounding { .. } => {
                let is_text = |passage: &Value| passage.is_string();
                let passages = item.expected.as_array();
                let all = passages.is_some_and(|all| !all.is_empty() && all.iter().all(is_text));
                if !all && !item.expected.is_string() {
                    return Err("expected must be a passage, or a list of passages".into());
                }
            }
            Self::Refusal => {
                item.expected
                    .as_bool()
                    .ok_or("expected must be true or false")?;
            }
            Self::ToolCall { .. } => {
                let name = item.expected.get("name").and_then(Value::as_str);
                name.ok_or("expected must have a name, and arguments")?;
            }
        }
        Ok(())
    }

    /// Of a text that the model wrote.
    pub(super) fn text(&self, said: &str, item: &Item) -> f64 {
        let expected = item.expected.as_str().unwrap_or_default();
        let right = match self {
            Self::Exact => said.trim() == expected.trim(),
            Self::Normalised => words::normalised(said) == words::normalised(expected),
            Self::Number { tolerance } => {
                let number = words::last_number(said);
                let off = number
                    .zip(item.expected.as_f64())
                    .map(|(a, b)| (a - b).abs());
                off.is_some_and(|off| off <= *tolerance)
            }
            Self::Regex => regex::Regex::new(expected).is_ok_and(|regex| regex.is_match(said)),
            Self::JsonSchema => serde_json::from_str(said)
                .is_ok_and(|value: Value| jsonschema::is_valid(&item.expected, &value)),
            Self::F1 => return words::f1(said, expected),
            Self::RougeL => return words::rouge_l(said, expected),
            Self::Refusal => item.expected.as_bool() == Some(words::refuses(said)),
            Self::Choice { .. }
            | Self::ToolCall { .. }
            | Self::Similarity { .. }
            | Self::Judge { .. }
            | Self::Grounding { .. } => false,
        };
        f64::from(u8::from(right))
    }
}

/// Of the first call that the model made: the function, and its arguments as values.
pub(super) fn call(name: &str, arguments: &str, item: &Item) -> f64 {
    let is_named = item.expected["name"] == name;
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    let expected = item.expected.get("arguments");
    let fits = expected.is_none_or(|expected| *expected == arguments);
    f64::from(u8::from(is_named && fits))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(expected: Value) -> Item {
        Item {
            id: "a".into(),
            input: "?".into(),
            expected,
            choices: None,
        }
    }

    fn scorer(value: Value) -> Scorer {
        serde_json::from_value(value).unwrap()
    }

    fn worth(by: Value, expected: Value, said: &str) -> f64 {
        let (scorer, item) = (scorer(by), item(expected));
        scorer.check(&item).unwrap();
        scorer.text(said, &item)
    }

    #[test]
    fn texts_are_right_or_wrong() {
        let by = |name: &str| json!({"by": name});
        let about = json!({"by": "number", "tolerance": 0.5});
        for (by, expected, said, right) in [
            (by("exact"), json!("weir"), " weir\n", true),
            (by("exact"), json!("weir"), "Weir", false),
            (by("normalised"), json!("A weir."), "the Weir", true),
            (by("number"), json!(1200), "It is 3 or 1,200.", true),
            (by("number"), json!(12), "It costs 12EUR, or -", true),
            (about.clone(), json!(3), "-3.4", false),
            (about, json!(3), "about 3.4 m", true),
            (by("regex"), json!("(?i)^yes\\b"), "Yes, it is", true),
            (by("regex"), json!("^no"), "Yes", false),
            (
                by("json_schema"),
                json!({"required": ["a"]}),
                "{\"a\": 1}",
                true,
            ),
            (
                by("json_schema"),
                json!({"required": ["a"]}),
                "{\"a\": 1",
                false,
            ),
        ] {
            let score = f64::from(u8::from(right));
            assert_eq!(worth(by.clone(), expected, said), score, "{by} {said:?}");
        }
    }

    #[test]
    fn texts_are_right_by_shares() {
        let f1 = worth(json!({"by": "f1"}), json!("the red gate"), "a gate");
        assert!((f1 - 2.0 / 3.0).abs() < 1e-12, "{f1}");
        let rouge = worth(json!({"by": "rouge_l"}), json!("a b c d"), "a c x");
        assert!((rouge - 4.0 / 7.0).abs() < 1e-12, "{rouge}");
    }

    #[test]
    fn a_call_is_right_by_name_and_arguments() {
        let item = item(json!({"name": "tide", "arguments": {"zone": "b", "n": 1}}));
        assert_eq!(call("tide", "{\"n\": 1, \"zone\": \"b\"}", &item), 1.0);
        assert_eq!(call("tide", "{\"n\": 2, \"zone\": \"b\"}", &item), 0.0);
        assert_eq!(call("ebb", "{\"n\": 1, \"zone\": \"b\"}", &item), 0.0);
        assert_eq!(call("tide", "", &item), 0.0);
    }

    #[test]
    fn items_that_can_not_be_scored_are_refused() {
        for (by, expected) in [
            (json!({"by": "choice", "choices": ["a", "b"]}), json!("c")),
            (json!({"by": "choice"}), json!("a")),
            (json!({"by": "choice", "choices": ["a", ""]}), json!("a")),
            (json!({"by": "exact"}), json!(3)),
            (json!({"by": "number"}), json!("3")),
            (json!({"by": "regex"}), json!("(")),
            (json!({"by": "json_schema"}), json!({"type": 3})),
            (json!({"by": "tool_call", "tools": []}), json!({})),
        ] {
            assert!(scorer(by.clone()).check(&item(expected)).is_err(), "{by}");
        }
    }
}
