//! Layer normalisation (arXiv 1607.06450).

use super::weights::Weights;

/// Brings each token's numbers to a mean of 0 and a variance of 1, and from there to what the model has learnt.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f64,
}

impl Norm {
    /// Files from before PyTorch's names have `gamma` and `beta`.
    pub(super) fn load(weights: &Weights<'_>, width: usize, epsilon: f64) -> Result<Self, String> {
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

    /// The same, after what a layer says to each token, in a column of `said`, is added to it.
    pub(super) fn add(&self, states: &mut [f32], said: &[f32]) {
        let width = self.weight.len();
        let tokens = states.len() / width;
        for (token, state) in states.chunks_exact_mut(width).enumerate() {
            let column = said.iter().skip(token).step_by(tokens);
            for (number, said) in state.iter_mut().zip(column) {
                *number += said;
            }
            self.apply_to(state);
        }
    }

    fn apply_to(&self, state: &mut [f32]) {
        #[expect(clippy::cast_precision_loss, reason = "a model's width")]
        let width = state.len() as f64;
        let mean = state.iter().map(|x| f64::from(*x)).sum::<f64>() / width;
        let apart = state.iter().map(|x| (f64::from(*x) - mean).powi(2));
        let scale = (apart.sum::<f64>() / width + self.epsilon).sqrt().recip();
        for ((number, weight), bias) in state.iter_mut().zip(&self.weight).zip(&self.bias) {
            #[expect(clippy::cast_possible_truncation, reason = "a number of an f32 vector")]
            let normal = ((f64::from(*number) - mean) * scale) as f32;
            *number = normal * weight + bias;
        }
    }
}
