//! The object of one call, read a character at a time.

use std::mem;

/// A call's object, from behind its `{` on.
#[derive(Debug, Clone)]
pub(super) struct Object {
    step: Step,
    key: String,
    name: String,
    named: bool,
    /// Arguments that came before the name.
    early: Option<String>,
    /// The call has been told of; from then on it can't be taken back.
    opened: bool,
    /// It is the arguments' own object: nothing comes around it.
    bare: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// Before a key, or before the end of an empty object.
    BeforeKey,
    Key(Text),
    Colon,
    BeforeValue,
    Name(Text),
    Arguments(Nest),
    /// Arguments that are an object inside a string, and what of it is decoded but not passed on yet.
    Quoted(Text, Option<String>),
    Skipped(Nest),
    SkippedWord,
    AfterValue,
}

/// What a character led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing that could be shown yet.
    Nothing,
    /// It is a call of this function; its arguments follow.
    Opened(String),
    /// It belonged to the arguments of a call that is open.
    Arguments,
    /// No call looks like that.
    Wrong,
    /// The object's end; of a call that has no arguments, which is told of only now, the function.
    Ended(Option<String>),
}

impl Object {
    pub(super) fn new() -> Self {
        Self {
            step: Step::BeforeKey,
            key: String::new(),
            name: String::new(),
            named: false,
            early: None,
            opened: false,
            bare: false,
        }
    }

    /// Inside the arguments of a call that is open: their `{` was the last character.
    pub(super) fn bare() -> Self {
        Self {
            step: Step::Arguments(Nest::new()),
            opened: true,
            bare: true,
            ..Self::new()
        }
    }

    pub(super) fn opened(&self) -> bool {
        self.opened
    }

    /// Takes the next character. What may be passed on of the arguments is added to `arguments`.
    pub(super) fn push(
        &mut self,
        c: char,
        knows: impl Fn(&str) -> bool,
        arguments: &mut String,
    ) -> Told {
        let blank = matches!(c, ' ' | '\t' | '\r' | '\n');
        match (&mut self.step, c) {
            (Step::BeforeKey | Step::Colon | Step::BeforeValue | Step::AfterValue, _) if blank => {}
            (Step::BeforeKey, '"') => self.step = Step::Key(Text::default()),
            (Step::BeforeKey | Step::AfterValue, '}') => return self.end(),
            (Step::AfterValue, ',') => self.step = Step::BeforeKey,
            (Step::Colon, ':') => self.step = Step::BeforeValue,
            (Step::Key(text), _) => {
                if text.push(c, &mut self.key) {
                    self.step = Step::Colon;
                }
            }
            (Step::BeforeValue, _) => return self.begin_value(c, arguments),
            (Step::Name(text), _) => {
                if text.push(c, &mut self.name) {
                    return self.name_known(&knows, arguments);
                }
            }
            (Step::Arguments(nest), _) => {
                let ended = nest.push(c);
                self.early.as_mut().unwrap_or(arguments).push(c);
                return self.in_arguments(ended);
            }
            (Step::Quoted(..), _) => return self.quoted(c, arguments),
            (Step::Skipped(nest), _) => {
                if nest.push(c) {
                    self.step = Step::AfterValue;
                }
            }
            (Step::SkippedWord, ',') => self.step = Step::BeforeKey,
            (Step::SkippedWord, '}') => return self.end(),
            (Step::SkippedWord, _) if blank => self.step = Step::AfterValue,
            (Step::SkippedWord, _) if c.is_ascii_alphanumeric() || "+-.".contains(c) => {}
            _ => return Told::Wrong,
        }
        Told::Nothing
    }

    fn begin_value(&mut self, c: char, arguments: &mut String) -> Told {
        let key = mem::take(&mut self.key);
        let arguments_key = matches!(key.as_str(), "arguments" | "parameters");
        let first_arguments = arguments_key && !self.opened && self.early.is_none();
        self.step = match (key.as_str(), c) {
            ("name", '"') if !self.named => Step::Name(Text::default()),
            ("name", _) if !self.named => return Told::Wrong,
            (_, '{') if first_arguments => {
                self.step = Step::Arguments(Nest::new());
                return self.open("{", arguments);
            }
            (_, '"') if first_arguments => Step::Quoted(Text::default(), Some(String::new())),
            _ if first_arguments => return Told::Wrong,
            // Anything else is no part of a call that isn't sure to be one.
            _ if self.opened || matches!(key.as_str(), "id" | "type") => match c {
                '{' | '[' => Step::Skipped(Nest::new()),
                '"' => Step::Skipped(Nest::string()),
                _ if c.is_ascii_alphanumeric() || c == '-' => Step::SkippedWord,
                _ => return Told::Wrong,
            },
            _ => return Told::Wrong,
        };
        Told::Nothing
    }

    /// The arguments have begun: passed on at once where the name is known, and kept where it isn't.
    fn open(&mut self, beginning: &str, arguments: &mut String) -> Told {
        if !self.named {
            self.early = Some(beginning.to_owned());
            return Told::Nothing;
        }
        self.opened = true;
        arguments.push_str(beginning);
        Told::Opened(mem::take(&mut self.name))
    }

    fn name_known(&mut self, knows: impl Fn(&str) -> bool, arguments: &mut String) -> Told {
        if !knows(&self.name) {
            return Told::Wrong;
        }
        self.named = true;
        self.step = Step::AfterValue;
        match self.early.take() {
            Some(early) => self.open(&early, arguments),
            None => Told::Nothing,
        }
    }

    fn in_arguments(&mut self, ended: bool) -> Told {
        if ended {
            self.step = Step::AfterValue;
        }
        match (self.opened, self.bare && ended) {
            (_, true) => Told::Ended(None),
            (true, _) => Told::Arguments,
            (false, _) => Told::Nothing,
        }
    }

    fn quoted(&mut self, c: char, arguments: &mut String) -> Told {
        let Step::Quoted(text, beginning) = &mut self.step else {
            return Told::Wrong;
        };
        // Up to its first sign of being an object nothing of it is passed on.
        let Some(begun) = beginning else {
            let ended = text.push(c, self.early.as_mut().unwrap_or(arguments));
            return self.in_arguments(ended);
        };
        let ended = text.push(c, begun);
        let json = begun.trim_start();
        if json.is_empty() && !ended {
            return Told::Nothing;
        }
        if !json.is_empty() && !json.starts_with('{') {
            return Told::Wrong;
        }
        let json = if json.is_empty() { "{}" } else { json }.to_owned();
        *beginning = None;
        if ended {
            self.step = Step::AfterValue;
        }
        self.open(&json, arguments)
    }

    fn end(&mut self) -> Told {
        match (self.opened, self.named) {
            (true, _) => Told::Ended(None),
            (false, true) => {
                self.opened = true;
                Told::Ended(Some(mem::take(&mut self.name)))
            }
            (false, false) => Told::Wrong,
        }
    }
}

/// Finds the end of an object, an array or a string, whose first character is behind it.
#[derive(Debug, Clone)]
struct Nest {
    depth: u32,
    quoted: bool,
    escaped: bool,
}

impl Nest {
    fn new() -> Self {
        Self {
            depth: 1,
            quoted: false,
            escaped: false,
        }
    }

    fn string() -> Self {
        Self {
            depth: 0,
            quoted: true,
            escaped: false,
        }
    }

    /// Whether this was the last character.
    fn push(&mut self, c: char) -> bool {
        if self.escaped {
            self.escaped = false;
            return false;
        }
        match c {
            '\\' if self.quoted => self.escaped = true,
            '"' => {
                self.quoted = !self.quoted;
                return self.depth == 0;
            }
            '{' | '[' if !self.quoted => self.depth = self.depth.saturating_add(1),
            '}' | ']' if !self.quoted => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// Decodes a JSON string, whose first quote is behind it.
#[derive(Debug, Clone, Default)]
struct Text {
    escape: Escape,
    /// The first half of a surrogate pair.
    high: Option<u32>,
}

#[derive(Debug, Clone, Default)]
enum Escape {
    #[default]
    None,
    Begun,
    /// Digits so far, and their value.
    Unicode(u32, u32),
}

impl Text {
    /// Whether this was the last character. What isn't valid is taken as it is, or as U+FFFD.
    fn push(&mut self, c: char, out: &mut String) -> bool {
        match self.escape {
            Escape::None if c == '\\' => self.escape = Escape::Begun,
            Escape::None => {
                self.lone(out);
                if c == '"' {
                    return true;
                }
                out.push(c);
            }
            Escape::Begun if c == 'u' => self.escape = Escape::Unicode(0, 0),
            Escape::Begun => {
                self.escape = Escape::None;
                self.lone(out);
                out.push(match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    _ => c,
                });
            }
            Escape::Unicode(digits, value) => match c.to_digit(16) {
                Some(digit) if digits == 3 => {
                    self.escape = Escape::None;
                    self.unit(value * 16 + digit, out);
                }
                Some(digit) => self.escape = Escape::Unicode(digits + 1, value * 16 + digit),
                None => {
                    self.escape = Escape::None;
                    self.lone(out);
                    out.push(char::REPLACEMENT_CHARACTER);
                    return self.push(c, out);
                }
            },
        }
        false
    }

    /// One unit of UTF-16.
    fn unit(&mut self, unit: u32, out: &mut String) {
        if let (Some(high), 0xdc00..=0xdfff) = (self.high, unit) {
            self.high = None;
            let code = 0x1_0000 + ((high - 0xd800) << 10) + (unit - 0xdc00);
            out.extend(char::from_u32(code));
            return;
        }
        self.lone(out);
        if (0xd800..=0xdbff).contains(&unit) {
            self.high = Some(unit);
        } else {
            out.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
    }

    /// A first half whose second didn't come.
    fn lone(&mut self, out: &mut String) {
        if self.high.take().is_some() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}
