//! A layer's product with its weights.

use std::f32::consts::FRAC_1_SQRT_2;

use rayon::prelude::*;
use rten_gemm::{
    BiasVector, GemmError, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix,
};
use rten_tensor::NdTensorView;
use serde::Deserialize;
use wide::f32x8;

use super::int8::Int8;
use super::weights::Weights;
use crate::types::Precision;

/// Tokens that are worth handing to another core.
const LEAST_TOKENS: usize = 4;

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

/// f(X W + b), where X has a row for each token.
pub(super) struct Linear {
    full: PackedBMatrix<f32>,
    int8: Int8,
    bias: Vec<f32>,
    activation: Option<Activation>,
}

impl Linear {
    /// Several in one: for the same inputs, the outputs of each of the `parts` stand behind those of the one before.
    pub(super) fn load(
        parts: &[Weights<'_>],
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, String> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in parts {
            weight.extend(part.get("weight", &[outputs, inputs])?);
            bias.extend(part.get("bias", &[outputs])?);
        }
        Ok(Self::new(&weight, bias, inputs))
    }

    /// `weight` has a row for each number that comes out.
    fn new(weight: &[f32], bias: Vec<f32>, inputs: usize) -> Self {
        let rows = NdTensorView::from_data([bias.len(), inputs], weight);
        Self {
            full: GemmExecutor::<f32>::new().prepack_b(rows.transposed()),
            int8: Int8::new(weight, inputs),
            bias,
            activation: None,
        }
    }

    pub(super) fn then(self, activation: Activation) -> Self {
        let activation = Some(activation);
        Self { activation, ..self }
    }

    /// Tokens x outputs, row by row, of tokens x inputs.
    pub(super) fn forward(
        &self,
        tokens: &[f32],
        precision: Precision,
    ) -> Result<Vec<f32>, GemmError> {
        let inputs = self.full.rows();
        let mut out = vec![0.0; tokens.len() / inputs * self.bias.len()];
        match precision {
            Precision::Full => {
                let tokens = NdTensorView::from_data([tokens.len() / inputs, inputs], tokens);
                let (tokens, weight) =
                    (GemmInputA::Unpacked(tokens), GemmInputB::Packed(&self.full));
                let options = GemmOptions {
                    bias: Some(BiasVector::Row(&self.bias)),
                    ..GemmOptions::default()
                };
                GemmExecutor::<f32>::new().gemm(&mut out, tokens, weight, options)?;
            }
            Precision::Approximate => self.int8.forward(tokens, &self.bias, &mut out)?,
        }
        if let Some(activation) = self.activation {
            out.par_chunks_mut(self.bias.len().max(1))
                .with_min_len(LEAST_TOKENS)
                .for_each(|token| activation.bend(token));
        }
        Ok(out)
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
        let (inputs, outputs, tokens) = (5, 301, 11);
        let number = |i: usize| (i * 7 % 11) as f32 - 5.0;
        let weight: Vec<f32> = (0..outputs * inputs).map(number).collect();
        let bias = (0..outputs).map(number).collect();
        let linear = Linear::new(&weight, bias, inputs).then(Activation::Relu);
        let states: Vec<f32> = (0..tokens * inputs).map(|i| number(i * i)).collect();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        for out in [
            linear.forward(&states, Precision::Full),
            pool.install(|| linear.forward(&states, Precision::Full)),
        ] {
            let out = out.unwrap();
            assert_eq!(out.len(), tokens * outputs);
            for (place, found) in out.iter().enumerate() {
                let (token, row) = (place / outputs, place % outputs);
                let products = (0..inputs)
                    .map(|i| number(row * inputs + i) * number((token * inputs + i).pow(2)));
                let expected = (products.sum::<f32>() + number(row)).max(0.0);
                assert_eq!(*found, expected, "row {row}, token {token}");
            }
        }
        for precision in [Precision::Full, Precision::Approximate] {
            assert_eq!(linear.forward(&[], precision).unwrap(), Vec::<f32>::new());
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
