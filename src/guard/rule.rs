use serde::Deserialize;
use std::sync::Arc;

use super::Side;
use super::pattern::Pattern;

/// `[[model.guard]]`: one rule. It has one of `words`, `regex`, `pii` and `max_chars`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardRule {
    /// Its name, in errors, metrics and what stands in the place of what it hides.
    pub name: String,
    /// Which texts it looks at.
    #[serde(default)]
    pub on: On,
    /// What becomes of what it finds.
    pub then: Then,
    /// Words, whatever their case.
    words: Option<Vec<String>>,
    /// A regular expression, in the words of Rust's `regex`.
    regex: Option<String>,
    /// Data by which people are known.
    pii: Option<Vec<Pii>>,
    /// Characters that a message or an answer may have.
    max_chars: Option<usize>,
}

/// Which texts a rule looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// What clients send.
    Input,
    /// What the model answers.
    Output,
    /// All of them.
    #[default]
    Both,
}

/// What becomes of what a rule finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// A request is refused; an answer ends before it.
    Block,
    /// The rule's name stands in its place; what is too long is cut.
    Mask,
    /// It passes, and is told of.
    Flag,
}

/// Kinds of data by which people are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pii {
    /// An address of electronic mail.
    Email,
    /// A telephone number, with a country's prefix or a leading zero.
    Phone,
    /// The number of a bank account (ISO 13616), by its check digits.
    Iban,
    /// The number of a payment card (ISO/IEC 7812), by its check digit.
    Card,
    /// An address of the internet, version 4.
    Ip,
}

/// A rule that can be applied.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) name: Arc<str>,
    on: On,
    pub(super) then: Then,
    pub(super) what: What,
}

/// What a rule looks for.
#[derive(Debug)]
pub(super) enum What {
    Patterns(Vec<Pattern>),
    Longer(usize),
}

impl Compiled {
    pub(super) fn new(rule: &GuardRule) -> Result<Self, String> {
        let wrong = |what: &str| format!("guard {:?}: {what}", rule.name);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if rule.name.is_empty() || rule.name.len() > 64 || !rule.name.chars().all(plain) {
            return Err(wrong("its name has 1 to 64 letters, digits, - and _"));
        }
        let label = |name: &str| format!("[{name}]");
        let pattern = |text: &str, label: String, check| {
            Pattern::new(text, label, check).map_err(|error| wrong(&error))
        };
        let what = match (&rule.words, &rule.regex, &rule.pii, rule.max_chars) {
            (Some(words), None, None, None) if !words.is_empty() => {
                let text = any_of(words).map_err(wrong)?;
                What::Patterns(vec![pattern(&text, label(&rule.name), None)?])
            }
            (None, Some(text), None, None) => {
                What::Patterns(vec![pattern(text, label(&rule.name), None)?])
            }
            (None, None, Some(kinds), None) if !kinds.is_empty() => {
                let kinds = kinds.iter().map(|kind| {
                    let (text, name, check) = kind.pattern();
                    pattern(text, label(name), check)
                });
                What::Patterns(kinds.collect::<Result<_, _>>()?)
            }
            (None, None, None, Some(most)) => What::Longer(most),
            _ => return Err(wrong("it has one of words, regex, pii and max_chars")),
        };
        Ok(Self {
            name: rule.name.as_str().into(),
            on: rule.on,
            then: rule.then,
            what,
        })
    }

    pub(super) fn is_on(&self, side: Side) -> bool {
        match self.on {
            On::Both => true,
            On::Input => side == Side::Input,
            On::Output => side == Side::Output,
        }
    }
}

/// Whole words only, where a word's end is one that ASCII knows.
fn any_of(words: &[String]) -> Result<String, &'static str> {
    let edge = |c: Option<char>| {
        let is_word = c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_word { r"(?-u:\b)" } else { "" }
    };
    let word = |word: &String| {
        let word = word.trim();
        if word.is_empty() {
            return Err("a word is empty");
        }
        let (first, last) = (word.chars().next(), word.chars().next_back());
        Ok(format!(
            "{}{}{}",
            edge(first),
            regex::escape(word),
            edge(last)
        ))
    };
    // Of two that begin alike the longer one is looked for first.
    let mut words = words.to_vec();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let words: Vec<_> = words.iter().map(word).collect::<Result<_, _>>()?;
    Ok(format!("(?i:{})", words.join("|")))
}

type Check = Option<fn(&str) -> bool>;

impl Pii {
    /// What it looks like, its name, and what else must hold of it.
    fn pattern(self) -> (&'static str, &'static str, Check) {
        match self {
            Self::Email => (
                r"(?i)[a-z0-9][a-z0-9._%+-]*@[a-z0-9-]+(?:\.[a-z0-9-]+)+",
                "email",
                None,
            ),
            Self::Phone => (
                r"(?:\+|(?-u:\b)00?)[1-9](?:[ ()/.-]{0,2}[0-9]){6,13}(?-u:\b)",
                "phone",
                None,
            ),
            Self::Iban => (
                r"(?-u:\b)[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]{1,4}){3,10}(?-u:\b)",
                "iban",
                Some(is_iban),
            ),
            Self::Card => (
                r"(?-u:\b)[0-9](?:[ -]?[0-9]){11,18}(?-u:\b)",
                "card",
                Some(is_card),
            ),
            Self::Ip => (
                r"(?-u:\b)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?-u:\b)",
                "ip",
                Some(|text| text.parse::<std::net::Ipv4Addr>().is_ok()),
            ),
        }
    }
}

/// Its remainder by 97, letters being two digits (ISO 7064).
fn is_iban(text: &str) -> bool {
    let plain: Vec<_> = text.chars().filter(|c| *c != ' ').collect();
    if !(15..=34).contains(&plain.len()) {
        return false;
    }
    let (head, rest) = plain.split_at(plain.len().min(4));
    let remainder = rest.iter().chain(head).try_fold(0, |sum: u32, c| {
        let digit = c.to_digit(36)?;
        Some(
            if digit < 10 {
                sum * 10 + digit
            } else {
                sum * 100 + digit
            } % 97,
        )
    });
    remainder == Some(1)
}

/// Its check digit (Luhn, US patent 2,950,048).
fn is_card(text: &str) -> bool {
    let digits = text.chars().rev().filter_map(|c| c.to_digit(10));
    let count = digits.clone().count();
    let sum: u32 = digits
        .enumerate()
        .map(|(place, digit)| match (place % 2, digit * 2) {
            (0, _) => digit,
            (_, twice) if twice > 9 => twice - 9,
            (_, twice) => twice,
        })
        .sum();
    (12..=19).contains(&count) && sum.is_multiple_of(10)
}
