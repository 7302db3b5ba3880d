//! What may go into a vertical and come out of it: rules over texts, which hold while a text is still coming. Nothing that a
//! rule hides ever leaves in part.

mod filter;
mod pattern;
mod rule;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use filter::Filter;
use serde_json::Value;

pub use rule::{GuardRule, On, Then};

use rule::Compiled;

/// Which way a text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// From a client to the model.
    Input,
    /// From the model to a client.
    Output,
}

impl Side {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// A model's rules.
#[derive(Debug, Default)]
pub struct Guards {
    rules: Vec<Arc<Compiled>>,
}

/// What rules found in texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The first rule that refuses.
    pub blocked: Option<Arc<str>>,
    /// Rules that hid something.
    pub masked: BTreeSet<Arc<str>>,
    /// Rules that only tell.
    pub flagged: BTreeSet<Arc<str>>,
    /// What was too long was cut.
    pub cut: bool,
}

impl Found {
    /// With what was found elsewhere.
    pub fn add(&mut self, other: Self) {
        self.blocked = self.blocked.take().or(other.blocked);
        self.masked.extend(other.masked);
        self.flagged.extend(other.flagged);
        self.cut |= other.cut;
    }

    /// Every rule that found something, with what it did.
    pub fn all(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let blocked = self.blocked.iter().map(|name| (&**name, "block"));
        let masked = self.masked.iter().map(|name| (&**name, "mask"));
        let flagged = self.flagged.iter().map(|name| (&**name, "flag"));
        blocked.chain(masked).chain(flagged)
    }
}

impl Guards {
    /// Of these rules, in their order: each reads what the one before it left.
    ///
    /// # Errors
    /// A rule that can't be kept.
    pub fn new(rules: &[GuardRule]) -> Result<Self, String> {
        let rules = rules.iter().map(|rule| Compiled::new(rule).map(Arc::new));
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// Whether any rule looks at texts that go this way.
    #[must_use]
    pub fn look_at(&self, side: Side) -> bool {
        self.rules.iter().any(|rule| rule.is_on(side))
    }

    /// Whether any rule hides or refuses some of what goes this way.
    #[must_use]
    pub fn hold(&self, side: Side) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.is_on(side) && rule.then != Then::Flag)
    }

    /// A whole text, at once.
    pub fn text(&self, side: Side, text: &str, found: &mut Found) -> String {
        let mut filter = self.filter(side);
        let passes = filter.whole(text);
        found.add(filter.found());
        passes
    }

    /// The arguments of a call, which are JSON: each text in them by itself, as whoever reads them will.
    pub fn arguments(&self, side: Side, arguments: &str, found: &mut Found) -> String {
        let Ok(mut value) = serde_json::from_str::<Value>(arguments) else {
            return self.text(side, arguments, found);
        };
        let before = value.clone();
        self.texts_in(side, &mut value, found);
        // Of a name that stands twice only the last value is read, and both are written.
        let mut raw = Found::default();
        self.text(side, arguments, &mut raw);
        if value == before && raw == Found::default() {
            return arguments.to_owned();
        }
        found.add(raw);
        value.to_string()
    }

    /// Every text in a value.
    pub fn texts_in(&self, side: Side, value: &mut Value, found: &mut Found) {
        match value {
            Value::String(text) => *text = self.text(side, text, found),
            Value::Array(values) => {
                for value in values {
                    self.texts_in(side, value, found);
                }
            }
            Value::Object(fields) => {
                let told = std::mem::take(fields).into_iter();
                *fields = told
                    .map(|(name, mut value)| {
                        self.texts_in(side, &mut value, found);
                        (self.text(side, &name, found), value)
                    })
                    .collect();
            }
            // A number may be somebody's.
            Value::Number(number) => {
                let text = number.to_string();
                let passes = self.text(side, &text, found);
                if passes != text {
                    *value = Value::String(passes);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// For one text.
    #[must_use]
    pub fn filter(&self, side: Side) -> Filter {
        let rules = self.rules.iter().filter(|rule| rule.is_on(side));
        Filter::new(rules.map(Arc::clone))
    }
}
