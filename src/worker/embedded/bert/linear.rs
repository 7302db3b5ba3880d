//! A layer's product with its weights.

use std::f32::consts::FRAC_1_SQRT_2;

use rayon::prelude::*;
use serde::Deserialize;
use wide::f32x8;

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
    #[serde(alias = "gelu_fast", alias = "gelu_pytorch_tanh")]
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
        self.weight.reserve_exact(other.weight.len());
        self.weight.extend(other.weight);
        self.bias.extend(other.bias);
        self
    }

    /// Outputs x tokens, row by row, of inputs x tokens.
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
        match self {
            Self::Gelu => eight_at_a_time(numbers, |x| x * 0.5 * (erf(x * FRAC_1_SQRT_2) + 1.0)),
            Self::GeluNew => {
                /// Twice the root of two over pi: tanh(z) is 1 - 2 / (1 + e^2z).
                const SCALE: f32 = 1.595_769;
                eight_at_a_time(numbers, |x| {
                    x - x / (((x + x * x * x * 0.044_715) * SCALE).exp() + 1.0)
                });
            }
            Self::Relu => eight_at_a_time(numbers, |x| x.max(f32x8::ZERO)),
        }
    }
}

/// The last ones are done with zeros beside them.
pub(super) fn eight_at_a_time(numbers: &mut [f32], bend: impl Fn(f32x8) -> f32x8) {
    let (eights, rest) = numbers.as_chunks_mut::<8>();
    for eight in eights {
        *eight = bend(f32x8::new(*eight)).to_array();
    }
    let mut last = [0.0; 8];
    for (place, number) in last.iter_mut().zip(&*rest) {
        *place = *number;
    }
    let last = bend(f32x8::new(last)).to_array();
    for (number, bent) in rest.iter_mut().zip(last) {
        *number = bent;
    }
}

/// The error function, to 1.5e-7: 7.1.26 in Abramowitz and Stegun's handbook.
fn erf(x: f32x8) -> f32x8 {
    const P: f32 = 0.327_591_1;
    const A: [f32; 5] = [
        1.061_405_4,
        -1.453_152_1,
        1.421_413_8,
        -0.284_496_72,
        0.254_829_6,
    ];
    let size = x.abs();
    let t = f32x8::ONE / (size * P + 1.0);
    let sum = A.iter().fold(f32x8::ZERO, |sum, a| (sum + *a) * t);
    (f32x8::ONE - sum * (-size * size).exp()).copysign(x)
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
            (Activation::Gelu, [-0.158_655, 0.0, 0.841_345, 1.954_5]),
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
