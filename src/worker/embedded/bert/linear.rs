//! A layer's product with its weights.

use rayon::prelude::*;
use serde::Deserialize;

use super::product::{Matrix, add_product};
use super::weights::Weights;

/// Rows of weights that are worth handing to another core.
const LEAST_ROWS: usize = 96;

/// What bends the numbers between the two layers of a feed-forward step.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Activation {
    /// Gaussian error linear units (arXiv 1606.08415).
    #[serde(alias = "gelu_python")]
    Gelu,
    /// The same by a hyperbolic tangent.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    Relu,
}

/// f(W X + b), where X has a column for each token.
pub(super) struct Linear {
    /// A row for each number that comes out.
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Numbers that go in.
    inputs: usize,
    activation: Option<Activation>,
}

impl Linear {
    pub(super) fn load(
        weights: &Weights<'_>,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, String> {
        Ok(Self {
            weight: weights.get("weight", &[outputs, inputs])?,
            bias: weights.get("bias", &[outputs])?,
            inputs,
            activation: None,
        })
    }

    pub(super) fn then(self, activation: Activation) -> Self {
        let activation = Some(activation);
        Self { activation, ..self }
    }

    /// Both in one: the outputs of `other`, for the same inputs, stand below those of this one.
    pub(super) fn over(mut self, other: Self) -> Self {
        self.weight.extend(other.weight);
        self.bias.extend(other.bias);
        self
    }

    /// A column for each of `tokens`, as they lie in memory: row by row.
    pub(super) fn forward(&self, tokens: Matrix<'_>) -> Vec<f32> {
        let (outputs, width) = (self.bias.len(), tokens.columns());
        let mut out = vec![0.0; outputs * width];
        // Each core goes over its own rows, and adds the bias and bends them while they are still in its cache.
        let rows = outputs
            .div_ceil(rayon::current_num_threads())
            .max(LEAST_ROWS);
        out.par_chunks_mut((rows * width).max(1))
            .zip(self.weight.par_chunks(rows * self.inputs))
            .zip(self.bias.par_chunks(rows))
            .for_each(|((out, weight), bias)| {
                for (row, bias) in out.chunks_exact_mut(width).zip(bias) {
                    row.fill(*bias);
                }
                let weight = Matrix::new(weight, bias.len(), self.inputs);
                add_product(out, width, 1.0, weight, tokens);
                if let Some(activation) = self.activation {
                    activation.bend(out);
                }
            });
        out
    }
}

impl Activation {
    fn bend(self, numbers: &mut [f32]) {
        /// The root of two over pi.
        const SCALE: f32 = 0.797_884_6;
        let bend = |x: f32| match self {
            Self::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluNew => 0.5 * x * (1.0 + (SCALE * (x + 0.044_715 * x * x * x)).tanh()),
            Self::Relu => x.max(0.0),
        };
        for number in numbers {
            *number = bend(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_its_weights_and_its_bias_however_many_cores_share_them() {
        let (inputs, outputs, tokens) = (5, 3 * LEAST_ROWS + 1, 4);
        let number = |i: usize| (i * 7 % 11) as f32 - 5.0;
        let linear = |from: usize, outputs: usize| Linear {
            weight: (0..outputs * inputs)
                .map(|i| number(from * inputs + i))
                .collect(),
            bias: (0..outputs).map(|i| number(from + i)).collect(),
            inputs,
            activation: Some(Activation::Relu),
        };
        // As tokens x numbers, which is how the states lie.
        let states: Vec<f32> = (0..tokens * inputs).map(|i| number(i * i)).collect();
        let states = Matrix::new(&states, tokens, inputs).turned();
        let whole = linear(0, 7).over(linear(7, outputs - 7));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        for out in [
            whole.forward(states),
            pool.install(|| whole.forward(states)),
        ] {
            assert_eq!(out.len(), outputs * tokens);
            for (place, found) in out.iter().enumerate() {
                let (row, token) = (place / tokens, place % tokens);
                let products = (0..inputs)
                    .map(|i| number(row * inputs + i) * number((token * inputs + i).pow(2)));
                let expected = (products.sum::<f32>() + number(row)).max(0.0);
                assert_eq!(*found, expected, "row {row}, token {token}");
            }
        }
    }

    /// By the tables of the normal distribution, and by the paper's own approximation.
    #[test]
    fn numbers_are_bent_as_their_name_says() {
        for (activation, expected) in [
            (Activation::Gelu, [-0.158_655, 0.0, 0.841_345, 1.954_500]),
            (Activation::GeluNew, [-0.158_808, 0.0, 0.841_192, 1.954_598]),
            (Activation::Relu, [0.0, 0.0, 1.0, 2.0]),
        ] {
            let mut numbers = [-1.0, 0.0, 1.0, 2.0];
            activation.bend(&mut numbers);
            for (found, expected) in numbers.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{activation:?}: {numbers:?}"
                );
            }
        }
    }
}
