//! Prompt-lookup decoding: where a text goes on as it did before (a quotation, code, a list), what followed then is
//! computed together with the next token, and as much of it is kept as would have been chosen anyway. Each token is
//! chosen from its own logits, as without: the text is the same up to the rounding of a larger batch.

use llama_cpp_2::token::LlamaToken;

/// Tokens that have to be the same for what followed to be tried.
const NGRAM: usize = 3;
/// Tokens of the longest draft.
const LONGEST: usize = 15;
/// How much faster steps with drafts have to be.
const WORTH_IT: f64 = 1.05;
/// After so many steps the other way is tried again.
const TRY_AGAIN: u32 = 48;
/// How much a new measurement counts.
const WEIGHT: f64 = 0.15;
/// A sequence whose drafts fail lets twice as many steps go by each time, up to this.
const LONGEST_WAIT: u32 = 128;

/// Tokens of a sequence's first draft. A draft that was all right makes the next one twice as long.
const FIRST: usize = 4;
const SHORTEST: usize = 2;

/// One sequence's drafts.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Tokens of the next draft.
    length: usize,
    /// Steps until the next try.
    wait: u32,
    misses: u32,
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            length: FIRST,
            wait: 0,
            misses: 0,
        }
    }
}

impl Lookup {
    /// What may come after `tokens`: `most` of it at most.
    pub(super) fn find<'a>(&mut self, tokens: &'a [LlamaToken], most: usize) -> &'a [LlamaToken] {
        if self.wait > 0 {
            self.wait -= 1;
            return &[];
        }
        let Some(at) = tokens.len().checked_sub(NGRAM) else {
            return &[];
        };
        let (before, last) = (&tokens[..tokens.len() - 1], &tokens[at..]);
        let found = before.windows(NGRAM).rposition(|ngram| ngram == last);
        let Some(start) = found.map(|start| start + NGRAM) else {
            return &[];
        };
        &tokens[start..tokens.len().min(start + most.min(self.length))]
    }

    /// So many of a draft were right.
    pub(super) fn told(&mut self, drafted: usize, right: usize) {
        self.length = if right == drafted {
            (2 * self.length).min(LONGEST)
        } else {
            right.max(SHORTEST)
        };
        if 2 * right >= drafted {
            self.misses = 0;
        } else {
            self.misses += 1;
            self.wait = 2_u32.saturating_pow(self.misses).min(LONGEST_WAIT);
        }
    }
}

/// Whether drafts pay, learned from how many tokens steps give in a second with them and without: a batch of more
/// rows takes longer, and by how much depends on the machine and the model.
///
/// One sequence drafts, or none: of several, llama.cpp computes each length of draft as a batch of its own, and the
/// others of a batch fill its rows anyway.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    plain: Speed,
    drafted: Speed,
    /// Steps since the way that wasn't taken was tried.
    steps: u32,
}

/// Tokens and seconds of a step, on the mean.
#[derive(Debug, Default)]
struct Speed(Option<(f64, f64)>);

impl Drafts {
    /// Tokens that may be drafted where so many sequences are decoded.
    pub(super) fn most(&self, sequences: usize) -> usize {
        if sequences == 1 && self.are_tried() {
            LONGEST
        } else {
            0
        }
    }

    /// A step of so many sequences, with a draft or without, gave so many tokens.
    pub(super) fn stepped(&mut self, sequences: usize, drafted: bool, tokens: usize, seconds: f64) {
        if sequences != 1 {
            return;
        }
        let favoured = self.are_favoured();
        let speed = if drafted {
            &mut self.drafted
        } else {
            &mut self.plain
        };
        speed.add(tokens, seconds);
        self.steps = if drafted == favoured {
            self.steps + 1
        } else {
            0
        };
    }

    fn are_favoured(&self) -> bool {
        match (self.plain.rate(), self.drafted.rate()) {
            (Some(plain), Some(drafted)) => drafted > plain * WORTH_IT,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// What is better, and now and then the other.
    fn are_tried(&self) -> bool {
        self.are_favoured() != (self.steps >= TRY_AGAIN)
    }
}

impl Speed {
    fn add(&mut self, tokens: usize, seconds: f64) {
        #[expect(clippy::cast_precision_loss, reason = "a step has few tokens")]
        let tokens = tokens as f64;
        let (mean_tokens, mean_seconds) = self.0.get_or_insert((tokens, seconds));
        *mean_tokens += WEIGHT * (tokens - *mean_tokens);
        *mean_seconds += WEIGHT * (seconds - *mean_seconds);
    }

    fn rate(&self) -> Option<f64> {
        self.0.map(|(tokens, seconds)| tokens / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[i32]) -> Vec<LlamaToken> {
        ids.iter().copied().map(LlamaToken::new).collect()
    }

    #[test]
    fn what_followed_the_last_time_is_found() {
        let find = |ids: &[i32], most| Lookup::default().find(&tokens(ids), most).to_vec();
        let text = [9, 1, 2, 3, 4, 5, 6, 1, 2, 3];
        assert_eq!(find(&text, 2), tokens(&[4, 5]));
        assert_eq!(find(&text, 99), tokens(&[4, 5, 6, 1]));
        // The later of two.
        assert_eq!(find(&[1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 1), tokens(&[8]));
        // A text that repeats one token follows itself.
        assert_eq!(find(&[5, 5, 5, 5], 3), tokens(&[5]));
        for nothing in [&[][..], &[1, 2, 3], &[1, 2, 3, 4, 1, 2, 4]] {
            assert_eq!(find(nothing, 9), tokens(&[]));
        }
    }

    #[test]
    fn drafts_are_as_long_as_they_are_right() {
        let text = tokens(&[&[1, 2, 3][..], &[7; 40], &[1, 2, 3]].concat());
        let mut lookup = Lookup::default();
        let mut length = |told: Option<(usize, usize)>| {
            if let Some((drafted, right)) = told {
                lookup.told(drafted, right);
            }
            lookup.find(&text, 99).len()
        };
        assert_eq!(length(None), 4);
        assert_eq!(length(Some((4, 4))), 8);
        assert_eq!(length(Some((8, 8))), LONGEST);
        assert_eq!(length(Some((LONGEST, 10))), 10);
        assert_eq!(length(Some((10, 5))), 5);
    }

    #[test]
    fn a_sequence_whose_drafts_fail_tries_less_often() {
        let text = tokens(&[1, 2, 3, 4, 1, 2, 3]);
        let mut lookup = Lookup::default();
        lookup.told(2, 0);
        let tries = |lookup: &mut Lookup| {
            let waits = (0..).find(|_| !lookup.find(&text, 1).is_empty());
            waits.unwrap()
        };
        assert_eq!(tries(&mut lookup), 2);
        lookup.told(2, 0);
        assert_eq!(tries(&mut lookup), 4);
        lookup.told(2, 1);
        assert_eq!(tries(&mut lookup), 0);
    }

    #[test]
    fn drafts_are_made_where_they_pay() {
        let mut drafts = Drafts::default();
        assert_eq!(drafts.most(1), 0, "nothing is known yet");
        drafts.stepped(1, false, 1, 0.010);
        assert_eq!(drafts.most(1), LONGEST);
        drafts.stepped(1, true, 4, 0.020);
        assert_eq!(drafts.most(1), LONGEST);
        assert_eq!((drafts.most(2), drafts.most(0)), (0, 0));

        // What many steps gave counts, not what the best of them did: 4 tokens in 52 ms are fewer than 5.2.
        let mut drafts_of_luck = Drafts::default();
        for _ in 0..50 {
            drafts_of_luck.stepped(1, false, 1, 0.010);
            drafts_of_luck.stepped(1, true, 3, 0.012);
            drafts_of_luck.stepped(1, true, 1, 0.040);
        }
        assert!(!drafts_of_luck.are_favoured());

        // They fail from now on.
        for _ in 0..20 {
            drafts.stepped(1, true, 1, 0.020);
        }
        assert_eq!(drafts.most(1), 0);
        let tried = (0..).find(|_| {
            drafts.stepped(1, false, 1, 0.010);
            drafts.most(1) > 0
        });
        assert!(tried.is_some_and(|steps| steps < 60), "{tried:?}");
        // The try fails as well.
        drafts.stepped(1, true, 1, 0.020);
        assert_eq!(drafts.most(1), 0);
    }
}
