/// A step reads this much at least, whatever that takes, so that prompts come to their end.
const LEAST: usize = 8;
/// How much a new measurement counts.
const WEIGHT: f64 = 0.1;

/// How many tokens of long prompts a step may read beside answers, learned from how long steps take.
pub(super) struct Pace {
    most: usize,
    share: f64,
    decode: Option<f64>,
    reading: Line,
}

impl Pace {
    /// `most` is never exceeded. Reading one long prompt may add so many percent to what a step takes without, or
    /// what the least takes where that is more. Where more long prompts wait, each adds as much.
    pub(super) fn new(most: usize, percent: u32) -> Self {
        Self {
            most,
            share: f64::from(percent) / 100.0,
            decode: None,
            reading: Line::default(),
        }
    }

    /// Prompt tokens that one step may read beside answers, whatever it takes.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Tokens of long prompts for the next step, where so many long prompts are still to be read.
    pub(super) fn budget(&self, prompts: usize) -> usize {
        let least = self.most.min(LEAST);
        let (Some(decode), Some((batch, token))) = (self.decode, self.reading.solve()) else {
            return least;
        };
        #[expect(clippy::cast_precision_loss, reason = "there are a few prompts")]
        let seconds = decode * self.share * prompts as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of a float saturates, and bounds follow"
        )]
        let fits = ((seconds - batch) / token) as usize;
        fits.clamp(least, self.most)
    }

    /// The tokens of answers took so many seconds.
    pub(super) fn decoded(&mut self, seconds: f64) {
        let mean = self.decode.unwrap_or(seconds);
        self.decode = Some(mean + WEIGHT * (seconds - mean));
    }

    /// Reading so many prompt tokens took so many seconds.
    pub(super) fn read(&mut self, tokens: usize, seconds: f64) {
        #[expect(clippy::cast_precision_loss, reason = "a step has few tokens")]
        self.reading.add(tokens as f64, seconds);
    }
}

/// A line through points of which older ones count less: a batch takes some time however small it is, and more
/// for each token.
#[derive(Default)]
struct Line {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        let sums = [
            (&mut self.weight, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.xx, x * x),
            (&mut self.xy, x * y),
        ];
        for (sum, term) in sums {
            *sum = *sum * (1.0 - WEIGHT) + term;
        }
    }

    /// Where it starts, at 0 or above, and how it rises. Points that are all at one place tell no start.
    fn solve(&self) -> Option<(f64, f64)> {
        if self.weight == 0.0 {
            return None;
        }
        let (x, y) = (self.x / self.weight, self.y / self.weight);
        let spread = self.xx / self.weight - x * x;
        let slope = (self.xy / self.weight - x * y) / spread;
        let start = y - slope * x;
        if spread > 1.0 && slope > 0.0 && start > 0.0 {
            Some((start, slope))
        } else {
            Some((0.0, y / x))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_gets_its_share_of_a_step_within_its_bounds() {
        let budget = |prompts, decode, token, most| {
            let mut pace = Pace::new(most, 80);
            pace.decoded(decode);
            pace.read(10, 10.0 * token);
            pace.budget(prompts)
        };
        assert_eq!(budget(1, 0.1001, 0.001, 128), 80);
        assert_eq!(budget(2, 0.0501, 0.001, 128), 80);
        assert_eq!(budget(1, 0.001, 0.001, 128), LEAST);
        assert_eq!(budget(1, 1.0, 0.001, 128), 128);
        assert_eq!(budget(1, 0.001, 0.001, 1), 1);
        assert_eq!(Pace::new(128, 80).budget(1), LEAST);
    }

    #[test]
    fn what_a_batch_takes_however_small_is_told_from_what_its_tokens_take() {
        let mut pace = Pace::new(128, 80);
        pace.decoded(0.1001);
        for tokens in [16_u8, 64, 16, 100, 30] {
            pace.read(tokens.into(), 0.020 + 0.001 * f64::from(tokens));
        }
        assert_eq!(pace.budget(1), 60);
    }
}
