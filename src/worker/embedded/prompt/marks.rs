//! Keeps what a user wrote from spelling control tokens.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use super::Piece;

/// A character that stands for nothing (a noncharacter of Unicode).
pub(super) const MARK: char = '\u{fdd0}';

/// A model's control tokens.
pub(super) struct Controls {
    /// Finds every one, overlapping ones too.
    everywhere: AhoCorasick,
    /// Finds the longest one at each place, as a tokenizer does.
    longest: AhoCorasick,
}

/// One prompt's mark, and what is done with it.
pub(super) struct Marks<'a> {
    controls: &'a Controls,
    mark: String,
}

impl Controls {
    pub(super) fn new(texts: &[String]) -> Result<Self, String> {
        let finder = |kind| {
            AhoCorasick::builder()
                .match_kind(kind)
                .build(texts)
                .map_err(|error| format!("its control tokens can't be searched for: {error}"))
        };
        Ok(Self {
            everywhere: finder(MatchKind::Standard)?,
            longest: finder(MatchKind::LeftmostLongest)?,
        })
    }

    /// A mark that nobody can guess.
    pub(super) fn marks(&self) -> Marks<'_> {
        Marks {
            controls: self,
            mark: format!("{MARK}{:016x}{MARK}", rand::random::<u64>()),
        }
    }
}

impl Marks<'_> {
    /// A user's text, with a mark inside whatever spells a control token.
    pub(super) fn break_up(&self, text: &str) -> String {
        let first_char = |at: usize| text[at..].chars().next().map_or(0, char::len_utf8);
        let mut breaks: Vec<usize> = self
            .controls
            .everywhere
            .find_overlapping_iter(text)
            .map(|found| found.start() + first_char(found.start()))
            .collect();
        breaks.sort_unstable();
        breaks.dedup();
        let mut broken = String::with_capacity(text.len() + breaks.len() * self.mark.len());
        let mut start = 0;
        for end in breaks {
            broken.push_str(&text[start..end]);
            broken.push_str(&self.mark);
            start = end;
        }
        broken.push_str(&text[start..]);
        broken
    }

    /// Breaks up every string in a user's JSON, keys too.
    pub(super) fn break_up_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.break_up(text)),
            Value::Array(items) => items.iter().map(|item| self.break_up_json(item)).collect(),
            Value::Object(members) => members
                .iter()
                .map(|(key, value)| (self.break_up(key), self.break_up_json(value)))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// What a template made of it all: its own control tokens, and text between them without marks.
    pub(super) fn split(&self, rendered: &str) -> Vec<Piece> {
        // A template that prints a list or a map without a filter gets them with escapes.
        let escaped = self.mark.escape_debug().to_string();
        let mut pieces = Vec::new();
        let mut start = 0;
        let text = |pieces: &mut Vec<Piece>, part: &str| {
            if !part.is_empty() {
                let part = part.replace(&self.mark, "").replace(&escaped, "");
                pieces.push(Piece::Text(part));
            }
        };
        for found in self.controls.longest.find_iter(rendered) {
            text(&mut pieces, &rendered[start..found.start()]);
            pieces.push(Piece::Control(found.pattern().as_usize()));
            start = found.end();
        }
        text(&mut pieces, &rendered[start..]);
        pieces
    }
}
