//! Regular expressions for the values of `format`.
//!
//! Each stands for a part of what its specification allows that every validator agrees on, with bounded runs where
//! the specification has bounds: no leap seconds, no literals in mail addresses, no leading zeros.

/// The formats that can be followed, for an error's text.
pub(super) const NAMES: &str =
    "date-time, date, time, duration, email, hostname, ipv4, ipv6, uri, uuid";

/// The year 0 is left out, which some calendars don't have.
const YEAR: &str = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])";
const LEAP_YEAR: &str =
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";
const MONTH_AND_DAY: &str = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])\
     |(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))";
const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const LABEL: &str = "[A-Za-z0-9]{1,15}(?:-[A-Za-z0-9]{1,15}){0,2}";
const ATOM: &str = "[A-Za-z0-9_+~-]{1,20}";
const BYTE: &str = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const UNRESERVED: &str = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})";

/// The whole of a string in this format; `None` where it isn't known.
pub(super) fn regex(format: &str) -> Option<String> {
    let body = match format {
        "date" => date(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{}T{TIME}", date()),
        "duration" => duration(),
        "email" => format!(r"{ATOM}(?:\.{ATOM}){{0,2}}@{LABEL}(?:\.{LABEL}){{1,3}}"),
        "hostname" => format!(r"{LABEL}(?:\.{LABEL}){{0,3}}"),
        "ipv4" => format!(r"{BYTE}(?:\.{BYTE}){{3}}"),
        "ipv6" => ipv6(),
        "uuid" => "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".to_owned(),
        "uri" => format!(
            "[A-Za-z][A-Za-z0-9+.-]{{1,15}}:(?://{LABEL}(?:\\.{LABEL}){{0,3}}(?::[1-9][0-9]{{0,3}})?\
             (?:/{UNRESERVED}*)*|{UNRESERVED}+(?:/{UNRESERVED}*)*)\
             (?:\\?(?:{UNRESERVED}|/)*)?(?:#(?:{UNRESERVED}|/)*)?"
        ),
        _ => return None,
    };
    Some(format!("^(?:{body})$"))
}

fn date() -> String {
    format!("(?:{YEAR}-{MONTH_AND_DAY}|{LEAP_YEAR}-02-29)")
}

/// RFC 3339, appendix A.
fn duration() -> String {
    const N: &str = "[0-9]{1,6}";
    let time = format!("T(?:{N}H(?:{N}M(?:{N}S)?)?|{N}M(?:{N}S)?|{N}S)");
    let days = format!("(?:{N}Y(?:{N}M(?:{N}D)?)?|{N}M(?:{N}D)?|{N}D)");
    format!("P(?:{days}(?:{time})?|{time}|{N}W)")
}

/// All eight groups, or the longest run of zeros left out.
fn ipv6() -> String {
    const GROUP: &str = "[0-9a-fA-F]{1,4}";
    let mut forms = vec![format!("(?:{GROUP}:){{7}}{GROUP}"), "::".to_owned()];
    for before in 0..=6 {
        let after = 6 - before;
        let head = match before {
            0 => ":".to_owned(),
            _ => format!("(?:{GROUP}:){{1,{before}}}"),
        };
        forms.push(match after {
            0 => format!("{head}:"),
            _ => format!("{head}(?::{GROUP}){{1,{after}}}"),
        });
    }
    forms.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_that_is_named_is_known() {
        assert!(NAMES.split(", ").all(|name| regex(name).is_some()));
        assert!(regex("unknown").is_none());
    }
}
