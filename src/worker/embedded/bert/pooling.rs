//! From the vectors of a text's tokens to the text's own.

use candle_core::{DType, Result, Tensor};

/// What stands in the place of padding where a maximum is taken.
const LOWEST: f32 = -1e9;
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

    /// `tokens` is texts x tokens x numbers; `mask`, texts x tokens, has 0 where there is padding.
    pub(super) fn apply(&self, tokens: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        let pooled = self
            .0
            .iter()
            .map(|mode| mode.apply(tokens, &mask))
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&pooled, 1)
    }
}

impl Mode {
    fn apply(self, tokens: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let sum = || tokens.broadcast_mul(mask)?.sum(1);
        match self {
            Self::Cls => tokens.narrow(1, 0, 1)?.squeeze(1),
            Self::Max => {
                // 0 where a token stands and LOWEST where there is padding.
                let shift = mask.affine(-f64::from(LOWEST), f64::from(LOWEST))?;
                tokens.broadcast_mul(mask)?.broadcast_add(&shift)?.max(1)
            }
            Self::Mean => sum()?.broadcast_div(&mask.sum(1)?),
            Self::MeanSqrtLen => sum()?.broadcast_div(&mask.sum(1)?.sqrt()?),
        }
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
    use candle_core::Device;

    use super::*;

    /// Two texts: one of three tokens, one of a single token and two places of padding.
    fn pooled(modes: Vec<Mode>) -> Vec<Vec<f32>> {
        let tokens = [
            [[1f32, -2.0], [3.0, -4.0], [5.0, -9.0]],
            [[-7.0, 8.0], [100.0, 100.0], [-100.0, -100.0]],
        ];
        let tokens = Tensor::new(&tokens, &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[1u32, 1, 1], [1, 0, 0]], &Device::Cpu).unwrap();
        let pooled = Pooling::new(modes).apply(&tokens, &mask).unwrap();
        pooled.to_vec2().unwrap()
    }

    #[test]
    fn padding_is_in_no_pooling() {
        assert_eq!(pooled(vec![Mode::Cls]), [[1.0, -2.0], [-7.0, 8.0]]);
        assert_eq!(pooled(vec![Mode::Max]), [[5.0, -2.0], [-7.0, 8.0]]);
        assert_eq!(pooled(vec![Mode::Mean]), [[3.0, -5.0], [-7.0, 8.0]]);
        let root = 3f32.sqrt();
        let expected = [[9.0 / root, -15.0 / root], [-7.0, 8.0]];
        assert_eq!(pooled(vec![Mode::MeanSqrtLen]), expected);
    }

    #[test]
    fn several_poolings_stand_one_after_another() {
        let expected = [[1.0, -2.0, 3.0, -5.0], [-7.0, 8.0, -7.0, 8.0]];
        assert_eq!(pooled(vec![Mode::Cls, Mode::Mean]), expected);
    }

    #[test]
    fn a_vector_of_zeros_stays_one() {
        let mut vectors = [[3.0, 4.0], [0.0, 0.0]];
        vectors.iter_mut().for_each(|vector| normalise(vector));
        assert_eq!(vectors, [[0.6, 0.8], [0.0, 0.0]]);
    }
}
