//! Texts as words.

use std::collections::HashMap;

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
