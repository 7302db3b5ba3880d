//! What tokens take from the others of their text (arXiv 1706.03762).

use std::ops::Range;

use rayon::prelude::*;

use super::linear::eight_at_a_time;
use super::product::{Matrix, add_product};

/// `three` has a column for each token: queries, keys and values, each of them head by head. Of each head and each of the
/// `texts`, which are columns that stand side by side, the values by how much their keys match the queries.
pub(super) fn look(three: Matrix<'_>, heads: usize, texts: &[Range<usize>]) -> Vec<f32> {
    let (hidden, tokens) = (three.rows() / 3, three.columns());
    let numbers = hidden / heads;
    #[expect(clippy::cast_precision_loss, reason = "a head's width")]
    let scale = (numbers as f32).sqrt().recip();
    let mut out = vec![0.0; hidden * tokens];
    let of_head = |(head, out): (usize, &mut [f32])| {
        let rows = |kind: usize| (kind * hidden + head * numbers, numbers);
        let mut matches = Vec::new();
        for text in texts {
            let width = text.len();
            let of_text = |kind| three.part(rows(kind), (text.start, width));
            matches.clear();
            matches.resize(width * width, 0.0);
            // A row for each query.
            add_product(&mut matches, width, scale, of_text(0).turned(), of_text(1));
            matches.chunks_exact_mut(width.max(1)).for_each(softmax);
            let matches = Matrix::new(&matches, width, width).turned();
            add_product(&mut out[text.start..], tokens, 1.0, of_text(2), matches);
        }
    };
    out.par_chunks_mut((numbers * tokens).max(1))
        .enumerate()
        .for_each(of_head);
    out
}

/// Shares of one, by their exponents.
fn softmax(numbers: &mut [f32]) {
    let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    eight_at_a_time(numbers, |x| (x - most).exp());
    let sum: f32 = numbers.iter().sum();
    for number in numbers {
        *number /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_head_looks_at_the_tokens_of_its_own_text_alone() {
        // Two heads of two numbers each, four rows of queries, of keys and of values; the second text is one token.
        let (heads, width, texts) = (2, 2, [0..2, 2..3]);
        let three: Vec<f32> = (0..3 * heads * width * 3)
            .map(|i| (i * 5 % 7) as f32 / 2.0 - 1.0)
            .collect();
        let number =
            |kind, head, row, token| three[((kind * heads + head) * width + row) * 3 + token];
        let out = look(Matrix::new(&three, 3 * heads * width, 3), heads, &texts);
        for (place, found) in out.iter().enumerate() {
            let (head, row, token) = (place / 3 / width, place / 3 % width, place % 3);
            let text = texts.iter().find(|text| text.contains(&token)).unwrap();
            let weight = |other: usize| {
                let products =
                    (0..width).map(|row| number(0, head, row, token) * number(1, head, row, other));
                (products.sum::<f32>() / (width as f32).sqrt()).exp()
            };
            let mixed: f32 = text
                .clone()
                .map(|other| weight(other) * number(2, head, row, other))
                .sum();
            let expected = mixed / text.clone().map(weight).sum::<f32>();
            assert!(
                (found - expected).abs() < 1e-5,
                "head {head}, row {row}, token {token}: {found}, {expected}"
            );
        }
    }
}
