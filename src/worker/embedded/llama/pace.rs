/// What reading prompts may add to a step, as a share of what the step takes without: then the gap between two
/// tokens of an answer stays below twice the usual one.
const SHARE: f64 = 0.6;
/// A step reads this much at least, or prompts would never end beside a fast answer.
const LEAST: usize = 16;
/// How much a new measurement counts.
const WEIGHT: f64 = 0.15;

/// How many prompt tokens a step may read beside answers, learned from how long steps take.
pub(super) struct Pace {
    most: usize,
    decode: Option<f64>,
    prompt_token: Option<f64>,
}

impl Pace {
    /// `most` is never exceeded.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            decode: None,
            prompt_token: None,
        }
    }

    /// Prompt tokens for the next step.
    pub(super) fn budget(&self) -> usize {
        let (Some(decode), Some(token)) = (self.decode, self.prompt_token) else {
            return self.most.min(LEAST);
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number, bounded right after"
        )]
        let fits = (decode * SHARE / token) as usize;
        fits.max(LEAST).min(self.most)
    }

    /// The tokens of answers took so many seconds.
    pub(super) fn decoded(&mut self, seconds: f64) {
        blend(&mut self.decode, seconds);
    }

    /// Reading so many prompt tokens took so many seconds.
    pub(super) fn read(&mut self, tokens: usize, seconds: f64) {
        #[expect(clippy::cast_precision_loss, reason = "a step has few tokens")]
        let each = seconds / tokens.max(1) as f64;
        blend(&mut self.prompt_token, each);
    }
}

fn blend(mean: &mut Option<f64>, value: f64) {
    *mean = Some(mean.map_or(value, |mean| mean + WEIGHT * (value - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_gets_its_share_of_a_step_within_its_bounds() {
        let budget = |decode, token, most| {
            let mut pace = Pace::new(most);
            pace.decoded(decode);
            pace.read(10, 10.0 * token);
            pace.budget()
        };
        assert_eq!(budget(0.100, 0.001, 128), 60);
        assert_eq!(budget(0.001, 0.001, 128), LEAST);
        assert_eq!(budget(1.0, 0.001, 128), 128);
        assert_eq!(budget(0.001, 0.001, 4), 4);
        assert_eq!(Pace::new(128).budget(), LEAST);
    }
}
