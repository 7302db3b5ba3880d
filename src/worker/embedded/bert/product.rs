//! Products of matrices, by `gemm`: the one place that hands it pointers.

/// A matrix that lies in a slice: each row, and each column, begins so many numbers after the one before.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    numbers: &'a [f32],
    rows: usize,
    columns: usize,
    next_row: usize,
    next_column: usize,
}

impl<'a> Matrix<'a> {
    /// Row by row, without a gap.
    pub(super) fn new(numbers: &'a [f32], rows: usize, columns: usize) -> Self {
        Self {
            numbers,
            rows,
            columns,
            next_row: columns,
            next_column: 1,
        }
    }

    /// The `columns` that begin at `first`, of the `rows` that begin at `top`.
    pub(super) fn part(
        self,
        (top, rows): (usize, usize),
        (first, columns): (usize, usize),
    ) -> Self {
        let skipped = top * self.next_row + first * self.next_column;
        Self {
            numbers: self.numbers.get(skipped..).unwrap_or_default(),
            rows,
            columns,
            ..self
        }
    }

    /// Rows as columns.
    pub(super) fn turned(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            next_row: self.next_column,
            next_column: self.next_row,
            ..self
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Whether every number of it lies in its slice.
    fn is_whole(&self) -> bool {
        if self.rows == 0 || self.columns == 0 {
            return true;
        }
        let row = (self.rows - 1).checked_mul(self.next_row);
        let column = (self.columns - 1).checked_mul(self.next_column);
        let last = row
            .zip(column)
            .and_then(|(row, column)| row.checked_add(column));
        last.is_some_and(|last| last < self.numbers.len())
    }
}

/// Adds `scale` times `left` times `right` to what stands in `out`, whose rows begin `next_row` numbers apart.
///
/// # Panics
/// The matrices don't fit each other, or don't lie in their slices.
pub(super) fn add_product(
    out: &mut [f32],
    next_row: usize,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
) {
    let target = Matrix {
        numbers: out,
        rows: left.rows,
        columns: right.columns,
        next_row,
        next_column: 1,
    };
    assert!(
        left.columns == right.rows
            && right.columns <= next_row
            && [left, right, target].iter().all(Matrix::is_whole),
        "a product outside its matrices"
    );
    let step = usize::cast_signed;
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    // SAFETY: every number of the three lies in its slice, by the assertion above; `out` is borrowed for this call alone,
    // and no number of it is two places of the matrix, since rows are no longer than they are apart.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            out.as_mut_ptr(),
            1,
            step(next_row),
            true,
            left.numbers.as_ptr(),
            step(left.next_column),
            step(left.next_row),
            right.numbers.as_ptr(),
            step(right.next_column),
            step(right.next_row),
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_parts_and_of_what_is_turned_are_right() {
        let left: Vec<f32> = (1..=6).map(|x| x as f32).collect();
        let right: Vec<f32> = (1..=8).map(|x| (x * x) as f32).collect();
        let left = Matrix::new(&left, 2, 3);
        // 1 4 9 16 / 25 36 49 64, of which 4 9 / 36 49.
        let right = Matrix::new(&right, 2, 4).part((0, 2), (1, 2));
        let mut out = [100.0, 0.0, 7.0, 0.0, 0.0, 7.0, 0.0, 0.0];
        add_product(&mut out, 3, 2.0, left.turned(), right);
        let by_hand = |a: f32, b: f32| [2.0 * (a * 4.0 + b * 36.0), 2.0 * (a * 9.0 + b * 49.0)];
        assert_eq!(
            out[..2],
            [by_hand(1.0, 4.0)[0] + 100.0, by_hand(1.0, 4.0)[1]]
        );
        assert_eq!(out[2], 7.0);
        assert_eq!(out[3..5], by_hand(2.0, 5.0));
        assert_eq!(out[6..], by_hand(3.0, 6.0));
    }

    #[test]
    fn a_product_outside_its_matrices_is_none() {
        let numbers = [1.0; 6];
        let whole = Matrix::new(&numbers, 2, 3);
        let ends = |left: Matrix<'_>, right: Matrix<'_>, next_row, mut out: Vec<f32>| {
            let add = || add_product(&mut out, next_row, 1.0, left, right);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(add)).is_ok()
        };
        assert!(ends(whole.turned(), whole, 3, vec![0.0; 9]));
        // One number short: what is written, the left one, the right one.
        assert!(!ends(whole.turned(), whole, 3, vec![0.0; 8]));
        let short = Matrix::new(&numbers[1..], 2, 3);
        assert!(!ends(short.turned(), whole, 3, vec![0.0; 9]));
        assert!(!ends(whole.turned(), short, 3, vec![0.0; 9]));
        // They don't fit each other, rows overlap, sizes are beyond every slice.
        assert!(!ends(whole, whole, 3, vec![0.0; 9]));
        assert!(!ends(whole.turned(), whole, 2, vec![0.0; 9]));
        let vast = Matrix::new(&numbers, 1 << 63, 2);
        assert!(!ends(vast.turned(), vast, 2, vec![0.0; 9]));
    }
}
