//! How sure a score is.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Of a normal distribution: 95% lie within so many standard deviations.
const Z: f64 = 1.959_963_984_540_054;
const DRAWS: u32 = 20_000;

/// Where a value lies with 95% confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The mean.
/// The mean; 0 of none.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().sum::<f64>() / count(values)
}

#[expect(clippy::cast_precision_loss, reason = "counts of items")]
fn count(values: &[f64]) -> f64 {
    values.len() as f64
}

/// Of the mean of scores between 0 and 1: Wilson's score interval (1927) where all are 0 or 1, which holds for small
/// numbers and near the ends, else by the central limit theorem (arXiv 2411.00640).
#[must_use]
pub fn interval(scores: &[f64]) -> Interval {
    let (mean, n) = (mean(scores), count(scores));
    if scores.iter().all(|score| *score == 0.0 || *score == 1.0) {
        return wilson(mean, n);
    }
    let error = standard_error(scores);
    // Equal shares tell nothing of their spread, and one tells nothing at all: as if each were a chance of being right.
    if error == 0.0 {
        return wilson(mean, n);
    }
    let half = Z * error;
    Interval {
        low: (mean - half).max(0.0),
        high: (mean + half).min(1.0),
    }
}

fn wilson(mean: f64, n: f64) -> Interval {
    let middle = (mean + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (mean * (1.0 - mean) / n + Z * Z / (4.0 * n * n)).sqrt();
    Interval {
        low: (middle - half).max(0.0),
        high: (middle + half).min(1.0),
    }
}

fn standard_error(values: &[f64]) -> f64 {
    let (mean, n) = (mean(values), count(values));
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (n - 1.0).max(1.0) / n).sqrt()
}

/// Of the mean difference of paired scores.
pub(super) fn of_difference(differences: &[f64]) -> Interval {
    let (mean, half) = (mean(differences), Z * standard_error(differences));
    Interval {
        low: mean - half,
        high: mean + half,
    }
}

/// How likely two models, scored on the same items, come out so far apart or farther where neither is better (two-sided).
/// Where all differences are of one size, as with right and wrong, it is McNemar's test in its exact form; else signs are
/// flipped at random, by the same seed each time.
#[must_use]
pub fn paired_p(one: &[f64], other: &[f64]) -> f64 {
    let differences: Vec<f64> = one
        .iter()
        .zip(other)
        .map(|(one, other)| one - other)
        .filter(|difference| *difference != 0.0)
        .collect();
    let Some(size) = differences.first().map(|difference| difference.abs()) else {
        return 1.0;
    };
    if differences
        .iter()
        .all(|difference| difference.abs() == size)
    {
        let ups = differences
            .iter()
            .filter(|difference| **difference > 0.0)
            .count();
        return sign_test(ups.min(differences.len() - ups), differences.len());
    }
    let seen = differences.iter().sum::<f64>().abs();
    let mut random = StdRng::seed_from_u64(1);
    let mut farther = 0;
    for _ in 0..DRAWS {
        let sum: f64 = differences
            .iter()
            .map(|difference| {
                if random.random() {
                    *difference
                } else {
                    -difference
                }
            })
            .sum();
        // Sums of the same numbers in another order may differ in the last digit.
        farther += u32::from(sum.abs() >= seen * (1.0 - 1e-12));
    }
    f64::from(farther + 1) / f64::from(DRAWS + 1)
}

/// Twice the probability of so few heads or fewer in n throws.
#[expect(clippy::cast_precision_loss, reason = "counts of items")]
fn sign_test(few: usize, n: usize) -> f64 {
    // In logarithms: 2^-n is nothing to a float where n is large.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = term.exp();
    for k in 1..=few {
        term += ((n - k + 1) as f64 / k as f64).ln();
        sum += term.exp();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 5e-5, "{value} is not {expected}");
    }

    #[test]
    fn an_interval_is_wilsons() {
        // Values of R's prop.test(7, 10, correct = FALSE) and of none in 20.
        let scores: Vec<_> = (0..10)
            .map(|index| f64::from(u8::from(index < 7)))
            .collect();
        let seven = interval(&scores);
        near(seven.low, 0.396_78);
        near(seven.high, 0.892_21);
        let none = interval(&[0.0; 20]);
        near(none.low, 0.0);
        near(none.high, 0.161_13);
    }

    #[test]
    fn shares_of_a_score_go_by_their_spread() {
        let scores = [0.5, 0.25, 0.75, 0.5];
        let half = Z * (0.125_f64 / 3.0 / 4.0).sqrt();
        near(interval(&scores).low, 0.5 - half);
        near(interval(&scores).high, 0.5 + half);
        let one = interval(&[0.5]);
        assert!(one.low < 0.1 && one.high > 0.9, "{one:?}");
    }

    #[test]
    fn a_paired_test_is_mcnemars() {
        // binom.test(1, 10): 11 of 1,024, twice.
        let one: Vec<_> = (0..20)
            .map(|index| f64::from(u8::from(index < 10)))
            .collect();
        let other: Vec<_> = (0..20)
            .map(|index| f64::from(u8::from(index == 9 || index == 10)))
            .collect();
        near(paired_p(&one, &other), 22.0 / 1024.0);
        near(paired_p(&other, &one), 22.0 / 1024.0);
        near(paired_p(&one, &one), 1.0);
        // All of 2,000 one way: less than any float's smallest share of one, and no NaN.
        let (ones, zeros) = (vec![1.0; 2000], vec![0.0; 2000]);
        assert!(paired_p(&ones, &zeros) < 1e-300);
    }

    #[test]
    fn where_scores_are_shares_signs_are_flipped() {
        let one: Vec<_> = (0..12)
            .map(|index| 0.5 + f64::from(index) / 100.0)
            .collect();
        let zeros = vec![0.5; 12];
        let p = paired_p(&one, &zeros);
        // Eleven differences, all one way: 2 of 2,048.
        assert!((0.0002..0.003).contains(&p), "{p}");
        let mixed: Vec<_> = (0..12).map(|index| 0.5 + [0.1, -0.11][index % 2]).collect();
        assert!(paired_p(&mixed, &zeros) > 0.5);
    }
}
