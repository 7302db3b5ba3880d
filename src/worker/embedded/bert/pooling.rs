//! From the vectors of a text's tokens to the text's own.

/// No vector is divided by less.
const SHORTEST: f64 = 1e-12;

/// One way to make one vector of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The first token's, which the model was trained to hold the whole text in.
    Cls,
    /// The greatest number of each column.
    Max,
    /// The sum, by the number of tokens.
    Mean,
    /// The sum, by the root of the number of tokens.
    MeanSqrtLen,
}

/// One or more of them, whose vectors are put one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pooling(Vec<Mode>);

impl Pooling {
    pub(super) fn new(modes: Vec<Mode>) -> Self {
        Self(modes)
    }

    /// Vectors whose numbers are so many times a token's.
    pub(super) fn width(&self) -> usize {
        self.0.len()
    }

    /// `tokens` are a text's, one after another, of `width` numbers each.
    pub(super) fn apply(&self, tokens: &[f32], width: usize) -> Vec<f32> {
        let modes = self.0.iter();
        modes.flat_map(|mode| mode.apply(tokens, width)).collect()
    }
}

impl Mode {
    fn apply(self, tokens: &[f32], width: usize) -> Vec<f32> {
        let column = |index: usize| tokens.iter().skip(index).step_by(width).copied();
        #[expect(clippy::cast_precision_loss, reason = "a text's tokens")]
        let count = (tokens.len() / width) as f32;
        let of_column = |index| match self {
            Self::Cls => column(index).next().unwrap_or_default(),
            Self::Max => column(index).fold(f32::NEG_INFINITY, f32::max),
            Self::Mean => column(index).sum::<f32>() / count,
            Self::MeanSqrtLen => column(index).sum::<f32>() / count.sqrt(),
        };
        (0..width).map(of_column).collect()
    }
}

/// Brings a vector to unit length.
pub(super) fn normalise(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let length = squares.sqrt().max(SHORTEST);
    for number in vector {
        #[expect(clippy::cast_possible_truncation, reason = "a number of an f32 vector")]
        let scaled = (f64::from(*number) / length) as f32;
        *number = scaled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(modes: Vec<Mode>) -> Vec<f32> {
        let tokens = [1.0, -2.0, 3.0, -4.0, 5.0, -9.0];
        Pooling::new(modes).apply(&tokens, 2)
    }

    #[test]
    fn each_way_makes_its_own_of_each_column() {
        assert_eq!(pooled(vec![Mode::Cls]), [1.0, -2.0]);
        assert_eq!(pooled(vec![Mode::Max]), [5.0, -2.0]);
        assert_eq!(pooled(vec![Mode::Mean]), [3.0, -5.0]);
        let root = 3f32.sqrt();
        assert_eq!(pooled(vec![Mode::MeanSqrtLen]), [9.0 / root, -15.0 / root]);
    }

    #[test]
    fn several_poolings_stand_one_after_another() {
        assert_eq!(pooled(vec![Mode::Cls, Mode::Mean]), [1.0, -2.0, 3.0, -5.0]);
    }

    #[test]
    fn a_vector_of_zeros_stays_one() {
        let mut vectors = [[3.0, 4.0], [0.0, 0.0]];
        vectors.iter_mut().for_each(|vector| normalise(vector));
        assert_eq!(vectors, [[0.6, 0.8], [0.0, 0.0]]);
    }
}
