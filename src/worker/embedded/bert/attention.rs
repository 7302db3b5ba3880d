//! What tokens take from the others of their text (arXiv 1706.03762).

use std::ops::Range;

use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::{Matrix, NdTensorView};

use super::linear::eight_at_a_time;

/// `three` has a row for each token: queries, keys and values, each of them head by head. Of each head and each of the
/// `texts`, which are rows that stand one below another, the values by how much their keys match the queries.
///
/// # Errors
/// They don't lie in it.
pub(super) fn look(
    three: &[f32],
    heads: usize,
    texts: &[Range<usize>],
) -> Result<Vec<f32>, String> {
    let tokens = texts.last().map_or(0, |last| last.end);
    let hidden = three.len() / 3 / tokens.max(1);
    let numbers = hidden / heads;
    #[expect(clippy::cast_precision_loss, reason = "a head's width")]
    let scale = (numbers as f32).sqrt().recip();
    // Queries, keys or values of one head and one text.
    let part = |kind: usize, head: usize, text: &Range<usize>| {
        let start = text.start * 3 * hidden + kind * hidden + head * numbers;
        NdTensorView::from_slice_with_strides(
            [text.len(), numbers],
            three.get(start..).unwrap_or_default(),
            [3 * hidden, 1],
        )
        .map_err(|error| error.to_string())
    };
    let of_head = |head: usize| -> Result<Vec<f32>, String> {
        let mut seen = vec![0.0; tokens * numbers];
        let mut matches = Vec::new();
        for text in texts {
            let width = text.len();
            matches.clear();
            matches.resize(width * width, 0.0);
            // A row for each query.
            let keys = part(1, head, text)?;
            product(&mut matches, scale, part(0, head, text)?, keys.transposed())?;
            matches.chunks_exact_mut(width.max(1)).for_each(softmax);
            let matches = NdTensorView::from_data([width, width], matches.as_slice());
            let seen = &mut seen[text.start * numbers..text.end * numbers];
            product(seen, 1.0, matches, part(2, head, text)?)?;
        }
        Ok(seen)
    };
    let seen: Result<Vec<_>, _> = (0..heads).into_par_iter().map(of_head).collect();
    let seen = seen?;
    let mut out = Vec::with_capacity(tokens * hidden);
    for token in 0..tokens {
        for head in &seen {
            out.extend_from_slice(&head[token * numbers..][..numbers]);
        }
    }
    Ok(out)
}

/// `scale` times `left` times `right`.
fn product(
    out: &mut [f32],
    scale: f32,
    left: Matrix<'_, f32>,
    right: Matrix<'_, f32>,
) -> Result<(), String> {
    let options = GemmOptions {
        alpha: scale,
        ..GemmOptions::default()
    };
    let (left, right) = (GemmInputA::Unpacked(left), GemmInputB::Unpacked(right));
    GemmExecutor::<f32>::new()
        .gemm(out, left, right, options)
        .map_err(|error| error.to_string())
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
        // Two heads of two numbers each, four queries, keys and values a token; the second text is one token.
        let (heads, width, texts) = (2, 2, [0..2, 2..3]);
        let hidden = heads * width;
        let three: Vec<f32> = (0..3 * hidden * 3)
            .map(|i| (i * 5 % 7) as f32 / 2.0 - 1.0)
            .collect();
        let number = |kind, head, column, token| {
            three[token * 3 * hidden + kind * hidden + head * width + column]
        };
        let out = look(&three, heads, &texts).unwrap();
        assert_eq!(out.len(), 3 * hidden);
        for (place, found) in out.iter().enumerate() {
            let (token, head, column) = (place / hidden, place % hidden / width, place % width);
            let text = texts.iter().find(|text| text.contains(&token)).unwrap();
            let weight = |other: usize| {
                let products = (0..width)
                    .map(|column| number(0, head, column, token) * number(1, head, column, other));
                (products.sum::<f32>() / (width as f32).sqrt()).exp()
            };
            let mixed: f32 = text
                .clone()
                .map(|other| weight(other) * number(2, head, column, other))
                .sum();
            let expected = mixed / text.clone().map(weight).sum::<f32>();
            assert!(
                (found - expected).abs() < 1e-5,
                "head {head}, column {column}, token {token}: {found}, {expected}"
            );
        }
        assert_eq!(look(&[], heads, &[]), Ok(Vec::new()));
    }
}
