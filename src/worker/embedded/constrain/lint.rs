//! What a `pattern` may hold, and how the automaton is told of it.
//!
//! JSON Schema's regular expressions are JavaScript's, the automaton's are those of Rust's `regex` crate. What means
//! one thing here and another there is put so that every reader agrees; what can't be had from an automaton is
//! refused.

use std::iter::Peekable;
use std::str::Chars;

/// A `pattern` has at most this many bytes.
const PATTERN_BYTES: usize = 2_000;
/// Any character but an end of line, of which JavaScript knows four.
const DOT: &str = r"[^\n\r\x{2028}\x{2029}]";
/// Blanks to JavaScript, Rust and Python alike.
const BLANKS: &str =
    r"\t-\r\x20\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}";
/// Blanks to one of them, besides.
const ODD_BLANKS: &str = r"\x1C-\x1F\x{85}\x{FEFF}";
/// Stands after a set of characters. derivre 0.3.13 takes a set that has every control character for one that has
/// the quote and the backslash too, once it is to be written in JSON; a set without NUL is none of those. JSON can't
/// hold NUL as we have it written.
const WITHOUT_NUL: &str = r"&&[^\x00]]";

type Read = Result<(), &'static str>;

/// The same for the automaton, or what is wrong with it.
pub(super) fn translated(pattern: &str) -> Result<String, &'static str> {
    if pattern.len() > PATTERN_BYTES {
        return Err("is longer than 2000 bytes");
    }
    let mut reader = Reader {
        chars: pattern.chars().peekable(),
        out: String::with_capacity(2 * pattern.len()),
        class: None,
    };
    while let Some(char) = reader.chars.next() {
        reader.char(char)?;
    }
    match reader.class {
        None => Ok(reader.out),
        Some(_) => Err("has brackets that aren't closed"),
    }
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    out: String,
    /// Inside brackets, and whether they are negated.
    class: Option<bool>,
}

impl Reader<'_> {
    fn char(&mut self, char: char) -> Read {
        let next = self.chars.peek().copied();
        match (char, self.class) {
            ('\0', _) => return Err("has a NUL character"),
            ('\\', _) => return self.escape(),
            ('[', Some(_)) => {
                return Err("has a '[' inside brackets, which has to be written '\\['");
            }
            ('[', None) => return self.open(),
            (']', Some(_)) => {
                self.class = None;
                self.out.push(']');
                self.out.push_str(WITHOUT_NUL);
            }
            ('&' | '-' | '~', Some(_)) if next == Some(char) => {
                return Err("has '&&', '--' or '~~' inside brackets, which has to be escaped");
            }
            ('(', None) if next == Some('?') && self.chars.clone().nth(1) != Some(':') => {
                return Err("has a '(?' other than '(?:', which isn't supported");
            }
            ('.', None) => self.out.push_str(DOT),
            _ => self.out.push(char),
        }
        Ok(())
    }

    fn open(&mut self) -> Read {
        let negated = self.chars.next_if_eq(&'^').is_some();
        self.class = Some(negated);
        self.out.push_str(if negated { "[[^" } else { "[[" });
        match self.chars.peek() {
            Some(']') => Err("has empty brackets"),
            _ => Ok(()),
        }
    }

    /// Escapes that both languages have, with the same meaning.
    fn escape(&mut self) -> Read {
        let escaped = self.chars.next().ok_or("ends with a backslash")?;
        match escaped {
            's' | 'S' => self.blank(escaped == 'S'),
            'd' | 'D' | 'w' | 'W' | 'n' | 'r' | 't' | 'f' | 'v' => self.out.extend(['\\', escaped]),
            'x' => return self.code(2),
            'u' => return self.code(4),
            'p' | 'P' => return self.property(escaped),
            'b' | 'B' if self.class.is_none() => {
                return Err("has a word boundary, which isn't supported");
            }
            '1'..='9' | 'k' => return Err("has a back reference, which isn't supported"),
            _ if escaped.is_ascii_punctuation() => self.out.extend(['\\', escaped]),
            _ => return Err("has an escape that isn't supported"),
        }
        Ok(())
    }

    /// Of what some call a blank and others don't, neither `\s` nor `\S` holds anything.
    fn blank(&mut self, not: bool) {
        // Within negated brackets what is listed is what goes out.
        let narrow = self.class.unwrap_or(false) == not;
        let odd = if narrow { "" } else { ODD_BLANKS };
        let all = match (self.class.is_some(), not) {
            (true, false) => format!("{BLANKS}{odd}"),
            (false, false) => format!("[{BLANKS}]"),
            (true, true) if narrow => format!("[^{BLANKS}]"),
            (_, true) => format!("[^{BLANKS}{ODD_BLANKS}]"),
        };
        self.out.push_str(&all);
    }

    /// A character by its number, with this many digits.
    fn code(&mut self, digits: usize) -> Read {
        let text: String = self.chars.by_ref().take(digits).collect();
        let number = u32::from_str_radix(&text, 16)
            .ok()
            .filter(|_| text.len() == digits && !text.starts_with('+'))
            .ok_or("has an escape with other than 2 digits after '\\x' or 4 after '\\u'")?;
        if number == 0 && self.class.is_none() {
            return Err("has a NUL character");
        }
        self.out.push_str(&format!("\\x{{{number:X}}}"));
        Ok(())
    }

    /// A Unicode property, which may be a class of control characters.
    fn property(&mut self, letter: char) -> Read {
        let reason = "has a property other than '\\p{Name}'";
        if self.chars.next() != Some('{') {
            return Err(reason);
        }
        let name: String = self
            .chars
            .by_ref()
            .take_while(|char| *char != '}')
            .collect();
        if name.is_empty()
            || !name
                .chars()
                .all(|char| char.is_ascii_alphanumeric() || "_=".contains(char))
        {
            return Err(reason);
        }
        let property = format!("\\{letter}{{{name}}}");
        let all = match self.class {
            Some(_) => property,
            None => format!("[[{property}]{WITHOUT_NUL}"),
        };
        self.out.push_str(&all);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_languages_read_alike_passes() {
        for pattern in [r"^\d{3}-\w+$", r"(?:a|b)*\/", r"a\.b\\", "x{2,3}?"] {
            assert_eq!(translated(pattern).unwrap(), pattern);
        }
    }

    #[test]
    fn what_they_read_differently_is_put_plainly() {
        assert_eq!(
            translated(r"a.[.]\.").unwrap(),
            format!(r"a{DOT}[[.]{WITHOUT_NUL}\.")
        );
        assert_eq!(
            translated(r"[^\s]\S").unwrap(),
            format!(r"[[^{BLANKS}{ODD_BLANKS}]{WITHOUT_NUL}[^{BLANKS}{ODD_BLANKS}]")
        );
        assert_eq!(
            translated(r"[^\S]\s\u0041").unwrap(),
            format!(r"[[^[^{BLANKS}]]{WITHOUT_NUL}[{BLANKS}]\x{{41}}")
        );
    }

    #[test]
    fn what_an_automaton_does_not_have_is_refused() {
        for pattern in [
            "[a&&b]",
            "[a--b]",
            "[[a]]",
            "(?=a)",
            "(?i)a",
            "(?<!a)b",
            r"(a)\1",
            r"\bword",
            r"\Aa",
            "[]a]",
            "(?<name>a)",
            r"\x00",
            "a\\",
            "[a",
            r"\u{41}",
        ] {
            assert!(translated(pattern).is_err(), "{pattern}");
        }
    }
}
