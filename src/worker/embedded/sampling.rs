//! Chooses the next token from logits, which are read where they lie: they are copied only where something
//! changes them.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wide::f32x8;

use crate::types::Sampling;

/// Beyond every logit, and far from where sums of two become infinite.
const LARGEST: f32 = 1e30;
/// A temperature at which nothing is left but the likeliest.
const COLD: f32 = 1e-6;

/// Of how many likeliest tokens the nucleus is first sought, and by how much more each time it isn't there.
const FIRST_NUCLEUS: usize = 256;
const NUCLEUS_GROWTH: usize = 8;
/// Below this `exp` is nothing in single precision.
const NOTHING: f32 = -87.0;

/// One choice's sampling.
pub(super) struct Sampler {
    settings: Sampling,
    random: StdRng,
    /// How often the answer holds each token, and tokens of the prompt with 0; empty where nothing asks.
    held: HashMap<u32, u32>,
}

/// Memory that all sequences of a thread use one after another.
#[derive(Default)]
pub(super) struct Scratch {
    logits: Vec<f32>,
    weights: Vec<f32>,
}

impl Scratch {
    /// A copy of the logits that may be changed.
    pub(super) fn copy(&mut self, logits: &[f32]) -> &mut [f32] {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        &mut self.logits
    }

    /// The copy as it stands now.
    pub(super) fn take(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.logits)
    }

    /// Gives its memory back.
    pub(super) fn put(&mut self, logits: Vec<f32>) {
        self.logits = logits;
    }
}

impl Sampler {
    /// The same seed gives the same choices from the same logits. Each choice of a request has random numbers
    /// of its own.
    pub(super) fn new(sampling: &Sampling, choice: u32, prompt: impl Iterator<Item = u32>) -> Self {
        let random = sampling.seed.map_or_else(
            || StdRng::from_rng(&mut rand::rng()),
            |seed| StdRng::seed_from_u64(seed.wrapping_add(choice.into())),
        );
        let held = if has(sampling.repetition_penalty, 1.0) {
            prompt.map(|token| (token, 0)).collect()
        } else {
            HashMap::new()
        };
        Self {
            settings: sampling.clone(),
            random,
            held,
        }
    }

    /// Whether it changes logits before it chooses.
    pub(super) fn adjusts(&self) -> bool {
        !self.settings.logit_bias.is_empty() || self.penalises()
    }

    fn penalises(&self) -> bool {
        let settings = &self.settings;
        has(settings.repetition_penalty, 1.0)
            || has(settings.frequency_penalty, 0.0)
            || has(settings.presence_penalty, 0.0)
    }

    /// Biases and penalties.
    pub(super) fn adjust(&self, logits: &mut [f32]) {
        for (token, bias) in &self.settings.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        for (token, count) in &self.held {
            let Some(logit) = logits.get_mut(*token as usize) else {
                continue;
            };
            if *logit > 0.0 {
                *logit /= self.settings.repetition_penalty;
            } else {
                *logit *= self.settings.repetition_penalty;
            }
            // A penalty next to nothing makes more of it than a number can say.
            *logit = logit.clamp(-LARGEST, LARGEST);
            if *count > 0 {
                #[expect(clippy::cast_precision_loss, reason = "no answer is 16 million tokens")]
                let times = *count as f32;
                *logit -= times * self.settings.frequency_penalty;
                *logit -= self.settings.presence_penalty;
            }
        }
    }

    /// The answer holds one more token.
    pub(super) fn accept(&mut self, token: u32) {
        if self.penalises() {
            *self.held.entry(token).or_default() += 1;
        }
    }

    /// Whether the likeliest token is always taken.
    pub(super) fn is_greedy(&self) -> bool {
        self.settings.temperature < COLD
    }

    /// The index of the chosen token; `None` where the logits are no numbers.
    pub(super) fn choose(&mut self, logits: &[f32], scratch: &mut Scratch) -> Option<usize> {
        let best = argmax(logits)?;
        if self.is_greedy() {
            return Some(best);
        }
        let weights = &mut scratch.weights;
        let total = weigh(logits, logits[best], self.settings.temperature, weights);
        if !total.is_finite() {
            return None;
        }
        let Sampling {
            min_p,
            top_k,
            top_p,
            ..
        } = self.settings;
        if min_p <= 0.0 && top_k == 0 && top_p >= 1.0 {
            let draw = self.random.random::<f64>() * total;
            return Some(walk(weights.iter().copied().enumerate(), draw).unwrap_or(best));
        }
        let left = cut(weights, min_p, top_k as usize, top_p);
        let mass: f64 = left.iter().map(|index| f64::from(weights[*index])).sum();
        let draw = self.random.random::<f64>() * mass;
        let members = left.iter().map(|index| (*index, weights[*index]));
        Some(walk(members, draw).unwrap_or(best))
    }
}

fn has(value: f32, neutral: f32) -> bool {
    (value - neutral).abs() > 0.0
}

/// exp((logit - top) / temperature) for each, and their sum.
fn weigh(logits: &[f32], top: f32, temperature: f32, weights: &mut Vec<f32>) -> f64 {
    weights.clear();
    weights.reserve(logits.len() + 8);
    let mut total = 0.0;
    for chunk in logits.chunks(8) {
        let mut lanes = [f32::NEG_INFINITY; 8];
        lanes[..chunk.len()].copy_from_slice(chunk);
        let powers = (f32x8::from(lanes) - f32x8::splat(top)) / f32x8::splat(temperature);
        let lanes = exp(powers);
        total += f64::from(lanes.reduce_add());
        weights.extend_from_slice(&lanes.to_array()[..chunk.len()]);
    }
    total
}

/// e to each power, and 0 for what is next to nothing, minus infinity among it.
fn exp(powers: f32x8) -> f32x8 {
    let floor = f32x8::splat(NOTHING);
    powers
        .simd_gt(floor)
        .select(powers.max(floor).exp(), f32x8::ZERO)
}

/// What min-p, top-k and top-p leave, each of what the one before left; largest first, never empty.
fn cut(weights: &[f32], min_p: f32, top_k: usize, top_p: f32) -> Vec<usize> {
    // The likeliest has weight 1.
    let mut left: Vec<usize> = (0..weights.len())
        .filter(|index| weights[*index] > 0.0 && weights[*index] >= min_p)
        .collect();
    if top_k > 0 && top_k < left.len() {
        left.select_nth_unstable_by(top_k, falling(weights));
        left.truncate(top_k);
    }
    if top_p < 1.0 {
        let mass: f64 = left.iter().map(|index| f64::from(weights[*index])).sum();
        return nucleus(weights, left, f64::from(top_p) * mass);
    }
    left.sort_unstable_by(falling(weights));
    left
}

/// By weight, then by index: a total order, so that what is left doesn't depend on the search.
fn falling(weights: &[f32]) -> impl Fn(&usize, &usize) -> std::cmp::Ordering {
    |a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b))
}

/// The first of equals, so that greedy text doesn't depend on how the search is vectorised.
fn argmax(logits: &[f32]) -> Option<usize> {
    let best = largest(logits);
    if !best.is_finite() {
        return None;
    }
    logits.iter().position(|logit| *logit >= best)
}

/// In lanes, which the compiler turns into vector instructions: one running maximum would be a chain of
/// 49,152 comparisons that each wait for the one before.
fn largest(logits: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// The index at which the running sum passes the draw.
fn walk(members: impl Iterator<Item = (usize, f32)>, draw: f64) -> Option<usize> {
    let mut sum = 0.0;
    let mut last = None;
    for (index, weight) in members {
        sum += f64::from(weight);
        if weight > 0.0 {
            last = Some(index);
        }
        if sum > draw {
            return Some(index);
        }
    }
    last
}

/// The smallest set of largest weights that together reach `mass`, largest first; never empty.
fn nucleus(weights: &[f32], mut indexes: Vec<usize>, mass: f64) -> Vec<usize> {
    let mut size = FIRST_NUCLEUS;
    loop {
        let size_now = size.min(indexes.len());
        if size_now < indexes.len() {
            indexes.select_nth_unstable_by(size_now, falling(weights));
        }
        indexes[..size_now].sort_unstable_by(falling(weights));
        let mut sum = 0.0;
        let reached = indexes[..size_now].iter().position(|index| {
            sum += f64::from(weights[*index]);
            sum >= mass
        });
        if let Some(last) = reached {
            indexes.truncate(last + 1);
            return indexes;
        }
        if size_now == indexes.len() {
            return indexes;
        }
        size *= NUCLEUS_GROWTH;
    }
}

/// ln p of one token, and of the `count` likeliest in falling order, from raw logits.
pub(super) fn log_probabilities(
    logits: &[f32],
    chosen: usize,
    count: usize,
) -> (f32, Vec<(usize, f32)>) {
    let top = largest(logits);
    let normaliser = f64::from(top) + sum_of_exp(logits, top).ln();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the wire shows single precision"
    )]
    let of = |index: usize| (f64::from(logits[index]) - normaliser) as f32;
    let falling = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut likeliest: Vec<usize> = Vec::with_capacity(count + 1);
    for index in 0..logits.len() {
        let last = likeliest.last();
        if likeliest.len() == count && last.is_none_or(|last| falling(last, &index).is_le()) {
            continue;
        }
        let place = likeliest.partition_point(|other| falling(other, &index).is_lt());
        likeliest.insert(place, index);
        likeliest.truncate(count);
    }
    (
        of(chosen),
        likeliest
            .into_iter()
            .map(|index| (index, of(index)))
            .collect(),
    )
}

fn sum_of_exp(logits: &[f32], top: f32) -> f64 {
    let chunks = logits.chunks_exact(8);
    let rest = chunks.remainder();
    let sum: f64 = chunks
        .map(|chunk| {
            let mut lanes = [0.0; 8];
            lanes.copy_from_slice(chunk);
            f64::from(exp(f32x8::from(lanes) - f32x8::splat(top)).reduce_add())
        })
        .sum();
    sum + rest
        .iter()
        .map(|logit| f64::from(logit - top).exp())
        .sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling) -> Sampler {
        let sampling = Sampling {
            seed: sampling.seed.or(Some(7)),
            ..sampling
        };
        Sampler::new(&sampling, 0, [3].into_iter())
    }

    fn choose(sampler: &mut Sampler, logits: &[f32]) -> Option<usize> {
        sampler.choose(logits, &mut Scratch::default())
    }

    fn greedy() -> Sampling {
        Sampling {
            temperature: 0.0,
            ..Sampling::default()
        }
    }

    /// ln of 1, 2, 3, 4 and so on: weights that can be summed by hand.
    fn logits(count: u16) -> Vec<f32> {
        (1..=count).map(|weight| f32::from(weight).ln()).collect()
    }

    #[test]
    fn temperature_0_takes_the_first_of_the_likeliest() {
        assert_eq!(
            choose(&mut sampler(greedy()), &[1.0, 3.0, 3.0, 2.0]),
            Some(1)
        );
    }

    #[test]
    fn settings_at_their_ends_still_choose() {
        let tiny = f32::from_bits(1);
        let settings = [
            Sampling {
                repetition_penalty: tiny,
                ..greedy()
            },
            Sampling {
                repetition_penalty: tiny,
                frequency_penalty: -2.0,
                ..Sampling::default()
            },
            Sampling {
                temperature: tiny,
                ..Sampling::default()
            },
            Sampling {
                top_p: tiny,
                min_p: 1.0,
                ..Sampling::default()
            },
        ];
        for settings in settings {
            let mut sampler = Sampler::new(&settings, 0, [0, 1, 2].into_iter());
            sampler.accept(1);
            let mut logits = vec![-3.0, 5.0, 4.0, f32::NEG_INFINITY];
            sampler.adjust(&mut logits);
            let chosen = choose(&mut sampler, &logits);
            assert!(
                chosen.is_some_and(|index| [1, 2].contains(&index)),
                "{settings:?}: {chosen:?}"
            );
        }
    }

    #[test]
    fn the_largest_is_found_at_every_place() {
        for length in [1, 31, 32, 33, 100] {
            for place in 0..length {
                let mut logits = vec![-1.5; length];
                logits[place] = 2.5;
                assert_eq!(argmax(&logits), Some(place));
            }
        }
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_reaches_its_mass() {
        let weights: Vec<f32> = (1..=1000_u16).map(f32::from).collect();
        let nucleus = |mass| nucleus(&weights, (0..1000).collect(), mass);
        assert_eq!(nucleus(1999.0), [999, 998]);
        assert_eq!(nucleus(1.0), [999]);
        // Past the first search, and past every one.
        assert_eq!(nucleus(500_000.0).len(), 969);
        assert_eq!(nucleus(1e9).len(), 1000);
    }

    #[test]
    fn draws_follow_what_the_cuts_leave() {
        let logits = logits(4);
        let cases = [
            (0.0, 0, 1.0, [0.1, 0.2, 0.3, 0.4]),
            (0.0, 0, 0.6, [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]),
            (0.0, 3, 1.0, [0.0, 2.0 / 9.0, 3.0 / 9.0, 4.0 / 9.0]),
            (0.6, 0, 1.0, [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]),
            // Half the mass of the three that top_k leaves needs two of them; of all four one too few.
            (0.0, 3, 0.5, [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]),
            (0.0, 1, 0.1, [0.0, 0.0, 0.0, 1.0]),
        ];
        for (min_p, top_k, top_p, expected) in cases {
            let mut sampler = sampler(Sampling {
                min_p,
                top_k,
                top_p,
                ..Sampling::default()
            });
            let mut counts = [0_u32; 4];
            for _ in 0..20_000 {
                counts[choose(&mut sampler, &logits).unwrap()] += 1;
            }
            for (count, share) in counts.iter().zip(expected) {
                // Four standard deviations of a share of 20,000 draws are below 0.015.
                let off = f64::from(*count) / 20_000.0 - share;
                assert!(off.abs() < 0.015, "{min_p} {top_k} {top_p}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_seed_repeats_and_each_choice_has_its_own_numbers() {
        let logits = logits(500);
        let draws = |seed, choice| -> Vec<_> {
            let sampling = Sampling {
                seed: Some(seed),
                top_p: 0.9,
                ..Sampling::default()
            };
            let mut sampler = Sampler::new(&sampling, choice, std::iter::empty());
            (0..50).map(|_| choose(&mut sampler, &logits)).collect()
        };
        assert_eq!(draws(1, 0), draws(1, 0));
        assert_ne!(draws(1, 0), draws(2, 0));
        assert_ne!(draws(1, 0), draws(1, 1));
    }

    #[test]
    fn penalties_count_the_answer_and_repetition_the_prompt_too() {
        let mut logits = [1.0, 1.0, -1.0, 2.0, 5.0];
        let mut sampler = sampler(Sampling {
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            repetition_penalty: 2.0,
            logit_bias: vec![(4, -100.0), (99, 1.0)],
            ..Sampling::default()
        });
        for token in [1, 1, 2] {
            sampler.accept(token);
        }
        sampler.adjust(&mut logits);
        // The prompt held token 3.
        assert_eq!(
            logits,
            [1.0, 0.5 - 1.0 - 0.25, -2.0 - 0.5 - 0.25, 1.0, -95.0]
        );
        assert!(sampler.adjusts() && !self::sampler(greedy()).adjusts());
    }

    #[test]
    fn what_is_forbidden_is_never_drawn() {
        let mut sampler = sampler(Sampling::default());
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
        for _ in 0..100 {
            assert!(choose(&mut sampler, &logits).unwrap() % 2 == 1);
        }
    }

    #[test]
    fn logits_that_are_no_numbers_choose_nothing() {
        for (sampling, logits) in [
            (Sampling::default(), vec![f32::NAN, f32::NAN]),
            (greedy(), vec![f32::INFINITY, 0.0]),
            (Sampling::default(), vec![]),
            (greedy(), vec![f32::NEG_INFINITY; 4]),
        ] {
            assert_eq!(choose(&mut sampler(sampling), &logits), None);
        }
    }

    #[test]
    fn log_probabilities_are_of_the_raw_distribution() {
        let (chosen, top) = log_probabilities(&logits(4), 0, 2);
        assert!((chosen - 0.1_f32.ln()).abs() < 1e-6);
        assert_eq!(
            top.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
            [3, 2]
        );
        assert!((top[0].1 - 0.4_f32.ln()).abs() < 1e-6);
        let (chosen, _) = log_probabilities(&logits(1000), 999, 0);
        assert!((chosen - (1000.0_f32 / 500_500.0).ln()).abs() < 1e-5);
        assert_eq!(log_probabilities(&logits(4), 0, 0).1, []);
        assert_eq!(log_probabilities(&logits(2), 0, 9).1.len(), 2);
    }
}
