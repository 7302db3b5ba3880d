//! What one request asks for, and whether its client stays.

use bytes::Bytes;

use crate::prompt::{Rng, story};

const LEAST_WORDS: f64 = 2.0;
const MOST_WORDS: f64 = 40.0;
/// One prompt in a hundred is a page.
const PAGE_WORDS: usize = 400;
const PAGE_SHARE: f64 = 0.01;
const MOST_TOKENS: f64 = 32.0;
const STREAMED_SHARE: f64 = 0.6;
const CUT_SHARE: f64 = 0.3;
/// A client may leave up to this share of a usual answer's time after it asked: some come too late.
const LATEST_CUT: f64 = 1.2;

#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    prompt: String,
    pub(super) max_tokens: u32,
    pub(super) streamed: bool,
    temperature: f64,
    seed: u32,
    pub(super) cut: Option<Cut>,
}

/// When a client drops its connection.
#[derive(Debug, PartialEq)]
pub(super) enum Cut {
    /// After this share of the time that answers take.
    AfterShare(f64),
    /// Once it has read so many pieces of text.
    AfterPieces(usize),
}

impl Plan {
    /// The `number`th request: the same for the same seed.
    pub(super) fn new(seed: u64, number: u32) -> Self {
        let mut rng = Rng::new(seed, 0, u64::from(number));
        let page = rng.fraction() < PAGE_SHARE;
        let words = rng.between(LEAST_WORDS, MOST_WORDS);
        let max_tokens = rng.between(1.0, MOST_TOKENS);
        let streamed = rng.fraction() < STREAMED_SHARE;
        let greedy = rng.fraction() < 0.5;
        let temperature = rng.fraction() * 1.5;
        Self {
            prompt: story(&mut rng, if page { PAGE_WORDS } else { words }),
            max_tokens: max_tokens as u32,
            streamed,
            temperature: if greedy { 0.0 } else { temperature },
            seed: (rng.next() >> 33) as u32,
            cut: (rng.fraction() < CUT_SHARE).then(|| Cut::new(&mut rng, streamed, max_tokens)),
        }
    }

    pub(super) fn body(&self, model: &str) -> Bytes {
        let mut body = serde_json::json!({
            "model": model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stream": self.streamed,
        });
        if self.streamed {
            body["stream_options"] = serde_json::json!({"include_usage": true});
        }
        Bytes::from(body.to_string())
    }
}

impl Cut {
    fn new(rng: &mut Rng, streamed: bool, max_tokens: usize) -> Self {
        if streamed && rng.fraction() < 0.5 {
            Self::AfterPieces(1 + (rng.fraction() * max_tokens as f64) as usize)
        } else {
            Self::AfterShare(rng.fraction() * LATEST_CUT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, Plan};

    #[test]
    fn a_seed_repeats_its_requests() {
        let plans = |seed| (0..50).map(move |n| Plan::new(seed, n));
        assert!(plans(7).eq(plans(7)));
        assert!(plans(7).zip(plans(8)).all(|(a, b)| a.prompt != b.prompt));
    }

    #[test]
    fn every_kind_of_request_comes() {
        let plans: Vec<_> = (0..1000).map(|n| Plan::new(1, n)).collect();
        let some = |kind: fn(&Plan) -> bool| plans.iter().any(kind);
        assert!(plans.iter().all(|p| (1..=32).contains(&p.max_tokens)));
        assert!(some(|p| p.max_tokens == 1) && some(|p| p.max_tokens == 32));
        assert!(some(|p| p.streamed && p.cut.is_none()));
        assert!(some(|p| !p.streamed && p.cut.is_none()));
        assert!(some(|p| matches!(p.cut, Some(Cut::AfterPieces(_)))));
        assert!(some(
            |p| p.streamed && matches!(p.cut, Some(Cut::AfterShare(_)))
        ));
        assert!(some(|p| !p.streamed && p.cut.is_some()));
        assert!(some(|p| p.prompt.len() > 1000) && some(|p| p.temperature > 0.0));
    }
}
