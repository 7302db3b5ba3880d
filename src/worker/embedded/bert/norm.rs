//! Layer normalisation (arXiv 1607.06450).

use rayon::prelude::*;
use wide::f32x8;

use super::weights::Weights;

/// Tokens that are worth handing to another core.
const LEAST_TOKENS: usize = 8;

/// Brings each token's numbers to a mean of 0 and a variance of 1, and from there to what the model has learnt.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    /// Files from before PyTorch's names have `gamma` and `beta`.
    pub(super) fn load(weights: &Weights<'_>, width: usize, epsilon: f32) -> Result<Self, String> {
        let weights = weights.part("LayerNorm");
        let [weight, bias] = match weights.has("gamma") {
            true => ["gamma", "beta"],
            false => ["weight", "bias"],
        };
        Ok(Self {
            weight: weights.get(weight, &[width])?,
            bias: weights.get(bias, &[width])?,
            epsilon,
        })
    }

    /// Of `states`, token by token.
    pub(super) fn apply(&self, states: &mut [f32]) {
        for state in states.chunks_exact_mut(self.weight.len()) {
            self.apply_to(state);
        }
    }

    /// The same, after what a layer says to each token is added to it.
    pub(super) fn add(&self, states: &mut [f32], said: &[f32]) {
        let width = self.weight.len();
        let add = |(state, said): (&mut [f32], &[f32])| {
            for (number, said) in state.iter_mut().zip(said) {
                *number += said;
            }
            self.apply_to(state);
        };
        let states = states.par_chunks_exact_mut(width);
        states
            .zip(said.par_chunks_exact(width))
            .with_min_len(LEAST_TOKENS)
            .for_each(add);
    }

    fn apply_to(&self, state: &mut [f32]) {
        #[expect(clippy::cast_precision_loss, reason = "a model's width")]
        let width = state.len() as f32;
        let mean = sum(state, |x| x) / width;
        let apart = sum(state, |x| (x - mean) * (x - mean)) / width;
        let scale = (apart + self.epsilon).sqrt().recip();
        for ((number, weight), bias) in state.iter_mut().zip(&self.weight).zip(&self.bias) {
            *number = (*number - mean) * scale * weight + bias;
        }
    }
}

/// In eight sums, which is also more exact than in one.
fn sum(numbers: &[f32], of: impl Fn(f32x8) -> f32x8) -> f32 {
    let (eights, rest) = numbers.as_chunks::<8>();
    let eights = eights.iter().map(|eight| of(f32x8::new(*eight)));
    let rest = rest.iter().map(|x| of(f32x8::splat(*x)).to_array()[0]);
    eights.fold(f32x8::ZERO, |sum, x| sum + x).reduce_add() + rest.sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_normalised_token_by_token() {
        // Ten numbers: eight at a time, and two more.
        let norm = Norm {
            weight: vec![2.0; 10],
            bias: vec![1.0; 10],
            epsilon: 0.0,
        };
        // Of the second token, all numbers but one are 0 with what is said to it.
        let mut states = vec![0.0; 20];
        states[10..].fill(3.0);
        let mut said: Vec<f32> = (0..10).map(|place| place as f32).collect();
        said.extend([-3.0; 9]);
        said.push(7.0);
        norm.add(&mut states, &said);
        // 0 to 9 have a mean of 4.5 and a variance of 8.25.
        for (number, place) in states[..10].iter().zip(0_u8..) {
            let expected = 1.0 + 2.0 * (f32::from(place) - 4.5) / 8.25_f32.sqrt();
            assert!((number - expected).abs() < 1e-5, "{number}, {expected}");
        }
        // Nine of 0 and one of 10: a mean of 1, a variance of 9.
        assert!((states[10] - (1.0 - 2.0 / 3.0)).abs() < 1e-5);
        assert!((states[19] - (1.0 + 2.0 * 9.0 / 3.0)).abs() < 1e-5);
    }
}
