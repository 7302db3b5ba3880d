//! Chooses the next token from logits, which are read where they lie.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::types::Sampling;

/// Of how many likeliest tokens the nucleus is first sought, and by how much more each time it isn't there.
const FIRST_NUCLEUS: usize = 256;
const NUCLEUS_GROWTH: usize = 8;

/// One sequence's choices.
pub(super) struct Sampler {
    temperature: f64,
    top_p: f64,
    random: StdRng,
}

impl Sampler {
    /// The same seed gives the same choices from the same logits.
    pub(super) fn new(sampling: &Sampling) -> Self {
        Self {
            temperature: sampling.temperature.into(),
            top_p: sampling.top_p.into(),
            random: sampling
                .seed
                .map_or_else(|| StdRng::from_rng(&mut rand::rng()), StdRng::seed_from_u64),
        }
    }

    /// The index of the chosen token; `None` where the logits are no numbers.
    pub(super) fn choose(&mut self, logits: &[f32]) -> Option<usize> {
        let best = argmax(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        let top = f64::from(logits[best]);
        let weights: Vec<f64> = logits
            .iter()
            .map(|logit| ((f64::from(*logit) - top) / self.temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        if !total.is_finite() {
            return None;
        }
        if self.top_p >= 1.0 {
            let draw = self.random.random::<f64>() * total;
            return Some(
                walk(
                    (0..weights.len()).map(|index| (index, weights[index])),
                    draw,
                )
                .unwrap_or(best),
            );
        }
        let nucleus = nucleus(&weights, self.top_p * total);
        let mass: f64 = nucleus.iter().map(|index| weights[*index]).sum();
        let draw = self.random.random::<f64>() * mass;
        let members = nucleus.iter().map(|index| (*index, weights[*index]));
        Some(walk(members, draw).unwrap_or(best))
    }
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
fn walk(members: impl Iterator<Item = (usize, f64)>, draw: f64) -> Option<usize> {
    let mut sum = 0.0;
    let mut last = None;
    for (index, weight) in members {
        sum += weight;
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
fn nucleus(weights: &[f64], mass: f64) -> Vec<usize> {
    // By weight, then by index: a total order, so that the set doesn't depend on the search.
    let falling = |a: &usize, b: &usize| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b));
    let mut indexes: Vec<usize> = (0..weights.len()).collect();
    let mut size = FIRST_NUCLEUS;
    loop {
        let size_now = size.min(indexes.len());
        if size_now < indexes.len() {
            indexes.select_nth_unstable_by(size_now, falling);
        }
        indexes[..size_now].sort_unstable_by(falling);
        let mut sum = 0.0;
        let reached = indexes[..size_now].iter().position(|index| {
            sum += weights[*index];
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
    let top = f64::from(largest(logits));
    let sum: f64 = logits
        .iter()
        .map(|logit| (f64::from(*logit) - top).exp())
        .sum();
    let normaliser = top + sum.ln();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(&Sampling {
            temperature,
            top_p,
            seed: Some(seed),
            ..Sampling::default()
        })
    }

    /// ln of 1, 2, 3, 4 and so on: weights that can be summed by hand.
    fn logits(count: u16) -> Vec<f32> {
        (1..=count).map(|weight| f32::from(weight).ln()).collect()
    }

    #[test]
    fn temperature_0_takes_the_first_of_the_likeliest() {
        assert_eq!(sampler(0.0, 0.1, 1).choose(&[1.0, 3.0, 3.0, 2.0]), Some(1));
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
        let weights: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(nucleus(&weights, 1999.0), [999, 998]);
        assert_eq!(nucleus(&weights, 1.0), [999]);
        // Past the first search, and past every one.
        assert_eq!(nucleus(&weights, 500_000.0).len(), 969);
        assert_eq!(nucleus(&weights, 1e9).len(), 1000);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = logits(4);
        for (top_p, expected) in [
            (1.0, [0.1, 0.2, 0.3, 0.4]),
            (0.6, [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]),
        ] {
            let mut sampler = sampler(1.0, top_p, 7);
            let mut counts = [0_u32; 4];
            for _ in 0..20_000 {
                counts[sampler.choose(&logits).unwrap()] += 1;
            }
            for (count, share) in counts.iter().zip(expected) {
                // Four standard deviations of a share of 20,000 draws are below 0.015.
                assert!(
                    (f64::from(*count) / 20_000.0 - share).abs() < 0.015,
                    "{counts:?}"
                );
            }
        }
    }

    #[test]
    fn a_seed_repeats() {
        let logits = logits(500);
        let draws = |seed| -> Vec<_> {
            let mut sampler = sampler(1.0, 0.9, seed);
            (0..50).map(|_| sampler.choose(&logits)).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn logits_that_are_no_numbers_choose_nothing() {
        assert_eq!(sampler(1.0, 1.0, 1).choose(&[f32::NAN, f32::NAN]), None);
        assert_eq!(sampler(0.0, 1.0, 1).choose(&[f32::INFINITY, 0.0]), None);
        assert_eq!(sampler(1.0, 1.0, 1).choose(&[]), None);
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
        assert_eq!(log_probabilities(&logits(4), 0, 0).1, []);
        assert_eq!(log_probabilities(&logits(2), 0, 9).1.len(), 2);
    }
}
