//! Finds the calls in an answer while it comes.
//!
//! It is a machine that takes one character at a time, so that it can't matter how the text is cut. What
//! may be part of a call is kept back until it is one, or is text after all.

use rand::Rng;
use rand::distr::Alphanumeric;

use super::format::{ARGS, CALL_ID, HERMES_CLOSE, HERMES_OPEN, PYTHON_TAG, TOOL_CALLS};
use super::object::{Object, Told};
use crate::types::{CallDelta, ToolFormat, Tools};

/// Characters of an id behind `call_`.
const ID_CHARS: usize = 24;
/// More blanks than this belong to no call; each character that is kept back is looked at again.
const MAX_BLANKS: usize = 64;
/// Bytes between name and arguments in Mistral's form.
const MAX_HEADER: usize = 128;

/// Splits an answer into text and calls.
#[derive(Clone)]
pub(in crate::worker) struct CallParser {
    format: ToolFormat,
    names: Vec<String>,
    parallel: bool,
    place: Place,
    /// Kept back: since the last text or the last of a call's arguments.
    held: String,
    /// Where in `held` the current place begins.
    since: usize,
    calls: u32,
    /// The calls stand in an array.
    listed: bool,
    done: bool,
}

/// What a part of an answer gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::worker) struct Parsed {
    /// Text that belongs to no call.
    pub(in crate::worker) text: String,
    /// More of the calls; each call at most once.
    pub(in crate::worker) calls: Vec<CallDelta>,
    /// The one call that was allowed is complete: the answer ends here, and what comes is dropped.
    pub(in crate::worker) done: bool,
}

/// Where in an answer the next character stands.
#[derive(Debug, Clone)]
enum Place {
    /// In text: a call's opener may come.
    Text,
    /// At the beginning of an answer that may be a bare object.
    Start,
    /// Behind an opener.
    Before,
    /// In an array, before an object.
    Listed,
    /// In a call's object.
    Object(Object),
    /// Behind a call's object.
    After,
    /// Behind a whole call: another's opener, or blanks that nobody needs.
    Gap,
}

enum Look {
    No,
    Maybe,
    To(Place),
    /// `name[ARGS]{`: in the arguments of this function.
    Into(String),
}

impl CallParser {
    /// For an answer to a request with these tools. `forced` is of an answer that
    /// [`ToolFormat::grammar`] forces, which begins inside Mistral's form.
    pub(in crate::worker) fn new(format: ToolFormat, forced: bool, tools: &Tools) -> Self {
        let place = match format {
            ToolFormat::Hermes => Place::Text,
            ToolFormat::Llama3 => Place::Start,
            ToolFormat::Mistral if forced => Place::Before,
            ToolFormat::Mistral => Place::Text,
        };
        Self {
            format,
            names: tools
                .functions
                .iter()
                .map(|function| function.name.clone())
                .collect(),
            parallel: tools.parallel,
            place,
            held: String::new(),
            since: 0,
            calls: 0,
            listed: false,
            done: false,
        }
    }

    /// Takes more of the answer's text.
    pub(in crate::worker) fn push(&mut self, text: &str) -> Parsed {
        let mut parsed = Parsed::default();
        for c in text.chars() {
            if self.done {
                break;
            }
            self.step(c, &mut parsed);
        }
        parsed.done = self.done;
        parsed
    }

    /// The answer has ended: what was kept back is text, unless it is the end of a call or the beginning of
    /// another's opener.
    pub(in crate::worker) fn finish(&mut self) -> Parsed {
        let mut parsed = Parsed::default();
        let text = match &self.place {
            Place::Text | Place::Start | Place::Before | Place::Listed => true,
            Place::Object(object) => !object.opened(),
            Place::After => false,
            Place::Gap => !self.held.trim_start().is_empty(),
        };
        if text && !self.done {
            parsed.text = std::mem::take(&mut self.held);
        }
        parsed.done = self.done;
        self.done = true;
        parsed
    }

    /// Whether the answer makes a call: then it ends with [`crate::types::Finish::ToolCalls`].
    pub(in crate::worker) fn has_called(&self) -> bool {
        self.calls > 0
    }

    fn step(&mut self, c: char, parsed: &mut Parsed) {
        self.held.push(c);
        if let Place::Object(object) = &mut self.place {
            let mut arguments = String::new();
            let knows = |name: &str| self.names.iter().any(|known| known == name);
            let told = object.push(c, knows, &mut arguments);
            return self.told(told, &arguments, c, parsed);
        }
        match self.look() {
            Look::Maybe => {}
            Look::To(place) => self.go(place),
            Look::Into(name) => {
                self.open(name, parsed);
                more(parsed, self.calls, "{");
                self.go(Place::Object(Object::bare()));
                self.commit();
            }
            Look::No => self.release(c, parsed),
        }
    }

    fn told(&mut self, told: Told, arguments: &str, c: char, parsed: &mut Parsed) {
        match told {
            Told::Nothing => {}
            Told::Opened(name) => {
                self.open(name, parsed);
                more(parsed, self.calls, arguments);
                self.commit();
            }
            Told::Arguments => {
                more(parsed, self.calls, arguments);
                self.commit();
            }
            Told::Wrong => self.release(c, parsed),
            Told::Ended(without_arguments) => {
                more(parsed, self.calls, arguments);
                if let Some(name) = without_arguments {
                    self.open(name, parsed);
                    more(parsed, self.calls, "{}");
                }
                self.commit();
                self.done = !self.parallel;
                let single = self.format == ToolFormat::Mistral && !self.listed;
                self.go(if single { Place::Gap } else { Place::After });
            }
        }
    }

    fn go(&mut self, place: Place) {
        match place {
            Place::Listed => self.listed = true,
            Place::Gap => {
                self.listed = false;
                self.commit();
            }
            _ => {}
        }
        self.place = place;
        self.since = self.held.len();
    }

    /// What is kept back has been told as part of a call.
    fn commit(&mut self) {
        self.held.clear();
        self.since = 0;
    }

    fn open(&mut self, name: String, parsed: &mut Parsed) {
        let random = rand::rng().sample_iter(Alphanumeric).take(ID_CHARS);
        let id = "call_".chars().chain(random.map(char::from)).collect();
        parsed.calls.push(CallDelta {
            index: self.calls,
            opens: Some((id, name)),
            arguments: String::new(),
        });
        self.calls += 1;
    }

    /// `c` showed that what is kept back is no call. It is text, but for an end of it that may be an opener:
    /// in an object only `c` may, since all before it was read as part of the call.
    fn release(&mut self, c: char, parsed: &mut Parsed) {
        let mut from = match self.place {
            Place::Text | Place::Start | Place::After | Place::Gap => 0,
            Place::Before | Place::Listed | Place::Object(_) => self.held.len() - c.len_utf8(),
        };
        self.listed = false;
        let opener = opener(self.format);
        while !opener.starts_with(&self.held[from..]) {
            from += self.held[from..].chars().next().map_or(1, char::len_utf8);
        }
        parsed.text.push_str(&self.held[..from]);
        self.held.drain(..from);
        self.since = 0;
        self.place = Place::Text;
    }

    /// What the text since the current place began is.
    fn look(&self) -> Look {
        let seen = &self.held[self.since..];
        let rest = seen.trim_start_matches([' ', '\t', '\r', '\n']);
        if seen.len() - rest.len() > MAX_BLANKS {
            return Look::No;
        }
        match (&self.place, self.format) {
            (Place::Text, _) => spelled(seen, opener(self.format), Place::Before),
            (Place::Start | Place::Gap, _) if rest.is_empty() => Look::Maybe,
            (Place::Start, _) if rest == "{" => Look::To(Place::Object(Object::new())),
            (Place::Start | Place::Gap, _) => spelled(rest, opener(self.format), Place::Before),
            (Place::Before, ToolFormat::Mistral) if rest == "[" => Look::To(Place::Listed),
            (Place::Before, ToolFormat::Mistral) if !rest.is_empty() && rest != "{" => {
                self.header(rest)
            }
            (Place::Before | Place::Listed, _) => spelled(rest, "{", Place::Object(Object::new())),
            (Place::After, format) => after(format, rest),
            // It has a reader of its own.
            (Place::Object(_), _) => Look::Maybe,
        }
    }

    /// `name[ARGS]{` or `name[CALL_ID]id[ARGS]{`, without the tokens where the engine shows none.
    fn header(&self, text: &str) -> Look {
        let name = text.split(['[', '{']).next().unwrap_or(text).trim_end();
        let tail = &text[name.len()..];
        if tail.len() > MAX_HEADER {
            return Look::No;
        }
        if tail.is_empty() {
            let begins = self.names.iter().any(|known| known.starts_with(name));
            return if begins { Look::Maybe } else { Look::No };
        }
        if !self.names.iter().any(|known| known == name) {
            return Look::No;
        }
        let tail = tail.trim_start();
        let Some(between) = tail.strip_suffix('{') else {
            let begins = |marker: &str| marker.starts_with(tail) || tail.starts_with(marker);
            return if begins(ARGS) || begins(CALL_ID) {
                Look::Maybe
            } else {
                Look::No
            };
        };
        let between = between.trim_end();
        let fits = between.is_empty() || between == ARGS || between.starts_with(CALL_ID);
        if fits {
            Look::Into(name.to_owned())
        } else {
            Look::No
        }
    }
}

fn opener(format: ToolFormat) -> &'static str {
    match format {
        ToolFormat::Hermes => HERMES_OPEN,
        ToolFormat::Llama3 => PYTHON_TAG,
        ToolFormat::Mistral => TOOL_CALLS,
    }
}

fn spelled(text: &str, expected: &str, place: Place) -> Look {
    if text == expected {
        Look::To(place)
    } else if expected.starts_with(text) {
        Look::Maybe
    } else {
        Look::No
    }
}

/// Behind a call's object: its end, or another object.
fn after(format: ToolFormat, rest: &str) -> Look {
    match (format, rest) {
        (_, "") => Look::Maybe,
        _ if rest.len() > MAX_BLANKS => Look::No,
        (ToolFormat::Hermes | ToolFormat::Llama3, "{") => Look::To(Place::Object(Object::new())),
        (ToolFormat::Hermes, _) => spelled(rest, HERMES_CLOSE, Place::Gap),
        (ToolFormat::Llama3, _) => match rest.strip_prefix(';') {
            Some(next) => spelled(next.trim_start(), "{", Place::Object(Object::new())),
            None => spelled(rest, PYTHON_TAG, Place::Before),
        },
        (ToolFormat::Mistral, "]") => Look::To(Place::Gap),
        (ToolFormat::Mistral, _) => match rest.strip_prefix(',') {
            Some(next) => spelled(next.trim_start(), "{", Place::Object(Object::new())),
            None => Look::No,
        },
    }
}

/// More arguments of the call that was opened last, the `calls`th.
fn more(parsed: &mut Parsed, calls: u32, arguments: &str) {
    if arguments.is_empty() {
        return;
    }
    let index = calls.saturating_sub(1);
    match parsed.calls.last_mut() {
        Some(last) if last.index == index => last.arguments.push_str(arguments),
        _ => parsed.calls.push(CallDelta {
            index,
            opens: None,
            arguments: arguments.to_owned(),
        }),
    }
}
