//! Texts as words.

use std::collections::{HashMap, HashSet};

use regex::Regex;

/// Lower case, without punctuation and English articles, with single blanks.
pub(super) fn normalised(text: &str) -> String {
    words(text).join(" ")
}

fn words(text: &str) -> Vec<String> {
    let plain: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    plain
        .split_whitespace()
        .filter(|word| !matches!(*word, "a" | "an" | "the"))
        .map(str::to_owned)
        .collect()
}

/// The sentences of a text.
pub(super) fn sentences(text: &str) -> Vec<&str> {
    let ends = |text: &str| text.ends_with(['.', '!', '?', '\u{3002}']);
    let mut sentences = Vec::new();
    for line in text.lines() {
        let mut begin = 0;
        for (place, c) in line.char_indices() {
            let sentence = line.get(begin..place).unwrap_or_default();
            if c.is_whitespace() && ends(sentence) {
                sentences.push(sentence);
                begin = place;
            }
        }
        sentences.push(line.get(begin..).unwrap_or_default());
    }
    sentences
        .into_iter()
        .map(str::trim)
        .filter(|sentence| sentence.chars().any(char::is_alphanumeric))
        .collect()
}

/// The share of a text's words that another one has.
#[expect(clippy::cast_precision_loss, reason = "counts of words")]
pub(super) fn share(text: &str, of: &str) -> f64 {
    let (text, of): (_, HashSet<_>) = (words(text), words(of).into_iter().collect());
    let common = text.iter().filter(|word| of.contains(*word)).count();
    if text.is_empty() {
        0.0
    } else {
        common as f64 / text.len() as f64
    }
}

/// The first of A, B and C that stands by itself.
pub(super) fn letter(text: &str) -> Option<char> {
    let mut words = text.split(|c: char| !c.is_alphanumeric());
    let word = words.find(|word| matches!(*word, "A" | "B" | "C"))?;
    word.chars().next()
}

/// Whether whoever says so won't do what was asked.
pub(super) fn refuses(said: &str) -> bool {
    const REFUSAL: &str = r"(?i)\b(?:I|we)(?:\s+(?:can(?:no|')t|can not|won't|will not|must decline|refuse)|(?:'m|\s+am|'re|\s+are)\s+(?:unable|not able|not allowed|afraid|sorry))\b";
    let said = said.replace('\u{2019}', "'");
    // It is a constant.
    Regex::new(REFUSAL).is_ok_and(|refusal| refusal.is_match(&said))
}

/// The last number, with `,` between thousands or without.
pub(super) fn last_number(text: &str) -> Option<f64> {
    let number = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | 'e' | 'E' | '+');
    let mut parts = text.split(|c: char| !number(c)).rev();
    parts.find_map(|part| {
        // Signs and an exponent without digits belong to what comes behind.
        let part = part.trim_end_matches(['.', ',', 'e', 'E', '+', '-']);
        let part = part.replace(',', "");
        part.parse::<f64>().ok().filter(|value| value.is_finite())
    })
}

/// The harmonic mean of precision and recall of words, however often each stands.
pub(super) fn f1(said: &str, expected: &str) -> f64 {
    let (said, expected) = (words(said), words(expected));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &expected {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in &said {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    harmonic(common, said.len(), expected.len())
}

/// As [`f1`], of the longest sequence of words that both have in the same order.
pub(super) fn rouge_l(said: &str, expected: &str) -> f64 {
    let plain = |text: &str| -> Vec<String> {
        let text = text.to_lowercase();
        let parts = text.split(|c: char| !c.is_alphanumeric());
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (said, expected) = (plain(said), plain(expected));
    let mut row = vec![0; expected.len() + 1];
    for word in &said {
        let mut diagonal = 0;
        for (index, other) in expected.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = if word == other {
                diagonal + 1
            } else {
                above.max(row[index])
            };
            diagonal = above;
        }
    }
    let common = row.last().copied().unwrap_or(0);
    harmonic(common, said.len(), expected.len())
}

#[expect(clippy::cast_precision_loss, reason = "counts of words")]
fn harmonic(common: usize, said: usize, expected: usize) -> f64 {
    if said + expected == 0 {
        return 1.0;
    }
    2.0 * common as f64 / (said + expected) as f64
}
