//! Products in integers of 8 bits, which are a quarter to go through in memory.
//!
//! Each token's numbers, and each output's weights, are rounded to steps of their own (arXiv 2206.01861).

use rayon::prelude::*;
use rten_gemm::{GemmError, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

/// The largest size of a weight. Not 127: x86 without VNNI adds two products of a number and a weight in 16 bits, with
/// saturation, and 2 x 255 x 64 fits. The same everywhere, so that a text is as near to another on every machine.
const MOST: f32 = 64.0;
/// The largest of a token's numbers; the least is 0.
const LARGEST: f32 = 255.0;
/// Tokens that are worth handing to another core.
const LEAST_TOKENS: usize = 4;

thread_local! {
    /// It asks the CPU what that can do, which takes its time on a virtual machine: once a thread is enough.
    static PRODUCTS: GemmExecutor<u8, i8, i32> = GemmExecutor::new();
}

/// Weights that were rounded.
pub(super) struct Int8 {
    weight: PackedBMatrix<i8>,
    outputs: Vec<Output>,
}

/// What belongs to one row of weights.
struct Output {
    /// What a step of the weights is.
    step: f32,
    /// All of the rounded weights together, which a token's number for 0 adds so many times too much of.
    total: i32,
}

/// Tokens that were rounded, one after another.
struct Rounded {
    numbers: Vec<u8>,
    /// What a step of each token is, and which number stands for 0 in it.
    scales: Vec<(f32, u8)>,
}

impl Int8 {
    /// `weight` has a row of `inputs` for each number that comes out.
    pub(super) fn new(weight: &[f32], inputs: usize) -> Self {
        let mut rounded: Vec<i8> = Vec::with_capacity(weight.len());
        let of_row = |row: &[f32]| {
            let step = row.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / MOST;
            let start = rounded.len();
            #[expect(clippy::cast_possible_truncation, reason = "64 at most")]
            rounded.extend(row.iter().map(|x| (x * inverse(step)).round() as i8));
            let total = rounded[start..].iter().map(|x| i32::from(*x)).sum();
            Output { step, total }
        };
        let outputs: Vec<_> = weight.chunks_exact(inputs).map(of_row).collect();
        let rows = NdTensorView::from_data([outputs.len(), inputs], rounded.as_slice());
        Self {
            weight: PRODUCTS.with(|products| products.prepack_b(rows.transposed())),
            outputs,
        }
    }

    /// Tokens x outputs, row by row, of tokens x inputs.
    pub(super) fn forward(
        &self,
        tokens: &[f32],
        bias: &[f32],
        out: &mut [f32],
    ) -> Result<(), GemmError> {
        let inputs = self.weight.rows();
        let rounded = Rounded::new(tokens, inputs);
        let numbers = NdTensorView::from_data([rounded.scales.len(), inputs], &*rounded.numbers);
        let (numbers, weight) = (
            GemmInputA::Unpacked(numbers),
            GemmInputB::Packed(&self.weight),
        );
        let mut sums = vec![0; out.len()];
        // Without the tokens' numbers for 0: rten-gemm 0.25 takes those of a block's first few tokens for all of it.
        PRODUCTS
            .with(|products| products.gemm(&mut sums, numbers, weight, GemmOptions::default()))?;
        let width = self.outputs.len().max(1);
        out.par_chunks_mut(width)
            .zip(sums.par_chunks(width))
            .zip(&rounded.scales)
            .with_min_len(LEAST_TOKENS)
            .for_each(|((out, sums), (step, zero))| {
                let of_output = sums.iter().zip(&self.outputs).zip(bias);
                for (out, ((sum, output), bias)) in out.iter_mut().zip(of_output) {
                    let sum = sum - i32::from(*zero) * output.total;
                    #[expect(
                        clippy::cast_precision_loss,
                        reason = "what was rounded before is more"
                    )]
                    let sum = sum as f32;
                    *out = sum * (step * output.step) + bias;
                }
            });
        Ok(())
    }
}

impl Rounded {
    fn new(tokens: &[f32], inputs: usize) -> Self {
        let mut numbers = vec![0; tokens.len()];
        let of_token = |(numbers, token): (&mut [u8], &[f32])| round(token, numbers);
        let scales = numbers
            .par_chunks_mut(inputs)
            .zip(tokens.par_chunks(inputs))
            .with_min_len(LEAST_TOKENS)
            .map(of_token)
            .collect();
        Self { numbers, scales }
    }
}

/// Rounds a token's numbers to 256 steps from its least to its greatest, of which one is 0. The step, and which is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 255, and such a cast ends at the type's bounds"
)]
fn round(token: &[f32], numbers: &mut [u8]) -> (f32, u8) {
    let least = token.iter().fold(0.0_f32, |least, x| least.min(*x));
    let most = token.iter().fold(0.0_f32, |most, x| most.max(*x));
    let step = (most - least) / LARGEST;
    let steps = inverse(step);
    let zero = (-least * steps).round();
    for (number, x) in numbers.iter_mut().zip(token) {
        // A half more, and the cast cuts off the rest.
        *number = (x * steps + (zero + 0.5)) as u8;
    }
    (step, zero as u8)
}

/// Of a step; where all numbers are 0, every one is rounded to 0.
fn inverse(step: f32) -> f32 {
    if step > 0.0 { step.recip() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1 with a few that stand out, as a transformer's do.
    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count)
            .map(|i| next() * if i % 97 == 5 { 9.0 } else { 1.0 })
            .collect()
    }

    /// No number is off by more than half a step of the token times the sum of the weights' sizes, and half a step of the
    /// weights times the sum of the token's.
    #[test]
    fn products_are_as_near_as_the_steps_allow() {
        for (inputs, outputs, tokens) in [(384, 150, 7), (1536, 33, 1), (5, 3, 20), (1, 1, 1)] {
            let (weight, states) = (numbers(1, inputs * outputs), numbers(2, inputs * tokens));
            let bias = numbers(3, outputs);
            let int8 = Int8::new(&weight, inputs);
            let mut out = vec![7.0; outputs * tokens];
            int8.forward(&states, &bias, &mut out).unwrap();
            for (place, found) in out.iter().enumerate() {
                let (token, row) = (place / outputs, place % outputs);
                let weight = &weight[row * inputs..][..inputs];
                let state = &states[token * inputs..][..inputs];
                let products = weight.iter().zip(state);
                let expected =
                    products.map(|(w, x)| f64::from(w * x)).sum::<f64>() + f64::from(bias[row]);
                let sizes = |all: &[f32]| all.iter().map(|x| x.abs()).sum::<f32>();
                let (least, most) = state.iter().fold((0.0_f32, 0.0_f32), |(least, most), x| {
                    (least.min(*x), most.max(*x))
                });
                let step = (most - least) / 255.0;
                // Zero is rounded too, which moves all numbers of a token at once.
                let bound =
                    step * sizes(weight) + int8.outputs[row].step / 2.0 * sizes(state) + 1e-4;
                let off = (f64::from(*found) - expected).abs();
                assert!(
                    off <= f64::from(bound),
                    "{inputs} inputs, row {row}, token {token}: {off} over {bound}"
                );
            }
        }
    }

    /// All numbers and weights at their greatest: two products in 16 bits would not hold 127.
    #[test]
    fn nothing_is_cut_off_at_the_bounds() {
        let (inputs, outputs, tokens) = (64, 40, 9);
        for sign in [1.0, -1.0] {
            let int8 = Int8::new(&vec![sign * 0.5; inputs * outputs], inputs);
            let mut out = vec![0.0; outputs * tokens];
            int8.forward(&vec![3.0; inputs * tokens], &[0.0; 40], &mut out)
                .unwrap();
            let expected = sign * 0.5 * 3.0 * 64.0;
            assert!(
                out.iter().all(|found| (found - expected).abs() < 1e-3),
                "{:?}",
                &out[..4]
            );
        }
    }

    #[test]
    fn what_is_nothing_stays_nothing() {
        let int8 = Int8::new(&[0.0; 12], 4);
        let mut out = [1.0; 6];
        int8.forward(
            &[0.0, 0.0, 0.0, 0.0, 1.0, -2.0, 3.0, 4.0],
            &[0.5; 3],
            &mut out,
        )
        .unwrap();
        assert_eq!(out, [0.5; 6]);
        let int8 = Int8::new(&[1.0, -1.0], 2);
        let mut out = [1.0; 1];
        int8.forward(&[0.0, 0.0], &[0.25], &mut out).unwrap();
        assert_eq!(out, [0.25]);
        int8.forward(&[f32::NAN, 1.0], &[0.25], &mut out).unwrap();
    }
}
