//! What a `pattern` may hold.
//!
//! JSON Schema's regular expressions are JavaScript's, the automaton's are those of Rust's `regex` crate. Whatever
//! means one thing here and another there, or can't be had from an automaton, is refused.

/// A `pattern` has at most this many bytes.
const PATTERN_BYTES: usize = 2_000;

/// Any character but an end of line, of which JavaScript knows four.
const DOT: &str = r"[^\n\r\x{2028}\x{2029}]";

/// The same for the automaton, or what is wrong with it.
pub(super) fn translated(pattern: &str) -> Result<String, &'static str> {
    if pattern.len() > PATTERN_BYTES {
        return Err("is longer than 2000 bytes");
    }
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    let mut class = false;
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                let escaped = chars.next().ok_or("ends with a backslash")?;
                if let Some(fault) = escape(escaped, class) {
                    return Err(fault);
                }
                out.extend(['\\', escaped]);
                continue;
            }
            '.' if !class => {
                out.push_str(DOT);
                continue;
            }
            '[' if class => return Err("has a '[' inside brackets, which has to be written '\\['"),
            '[' => {
                class = true;
                if chars.next_if_eq(&'^').is_some() {
                    out.push('[');
                    out.push('^');
                    if chars.peek() == Some(&']') {
                        return Err("has empty brackets");
                    }
                    continue;
                }
                if chars.peek() == Some(&']') {
                    return Err("has empty brackets");
                }
            }
            ']' => class = false,
            '&' | '-' | '~' if class && chars.peek() == Some(&char) => {
                return Err("has '&&', '--' or '~~' inside brackets, which has to be escaped");
            }
            '(' if !class && chars.peek() == Some(&'?') => {
                if chars.clone().nth(1) != Some(':') {
                    return Err("has a '(?' other than '(?:', which isn't supported");
                }
            }
            _ => {}
        }
        out.push(char);
    }
    Ok(out)
}

/// Escapes that both languages have, with the same meaning.
fn escape(escaped: char, class: bool) -> Option<&'static str> {
    match escaped {
        'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'n' | 'r' | 't' | 'f' | 'v' | 'x' | 'u' | 'p' | 'P' => {
            None
        }
        'b' | 'B' if !class => Some("has a word boundary, which isn't supported"),
        '1'..='9' | 'k' => Some("has a back reference, which isn't supported"),
        _ if escaped.is_ascii_punctuation() => None,
        _ => Some("has an escape that isn't supported"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_languages_read_alike_passes() {
        for pattern in [
            r"^\d{3}-\w+$",
            r"[\w.\-]+@[a-z&]+",
            r"(?:a|b)*\/",
            r"^[^\[\]]$",
        ] {
            assert_eq!(translated(pattern).unwrap(), pattern);
        }
    }

    #[test]
    fn a_dot_is_no_end_of_line() {
        assert_eq!(translated(r"a.[.]\.").unwrap(), format!(r"a{DOT}[.]\."));
    }

    #[test]
    fn what_they_read_differently_is_refused() {
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
        ] {
            assert!(translated(pattern).is_err(), "{pattern}");
        }
    }
}
