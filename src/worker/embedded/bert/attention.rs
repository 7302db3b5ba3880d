//! What tokens take from the others of their text (arXiv 1706.03762).

use std::ops::Range;

use rayon::prelude::*;

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
    let mut sum = 0.0;
    for number in numbers.iter_mut() {
        *number = (*number - most).exp();
        sum += *number;
    }
    for number in numbers {
        *number /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_head_looks_at_the_tokens_of_its_own_text_alone() {
        // Two heads of one number each; the second text is one token.
        let queries = [1.0, -1.0, 50.0, 0.0, 2.0, 50.0];
        let keys = [2.0, 0.5, 50.0, 1.0, 1.0, 50.0];
        let values = [10.0, 20.0, 7.0, 30.0, 40.0, 9.0];
        let three = [queries, keys, values].concat();
        let out = look(Matrix::new(&three, 6, 3), 2, &[0..2, 2..3]);
        let mixed = |query: f32, keys: [f32; 2], values: [f32; 2]| {
            let [one, other] = keys.map(|key| (query * key).exp());
            (one * values[0] + other * values[1]) / (one + other)
        };
        let expected = [
            mixed(1.0, [2.0, 0.5], [10.0, 20.0]),
            mixed(-1.0, [2.0, 0.5], [10.0, 20.0]),
            7.0,
            mixed(0.0, [1.0, 1.0], [30.0, 40.0]),
            mixed(2.0, [1.0, 1.0], [30.0, 40.0]),
            9.0,
        ];
        for (found, expected) in out.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{out:?}");
        }
    }
}
