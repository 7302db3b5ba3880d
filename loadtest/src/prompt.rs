//! Prompts of mixed lengths, the same for the same seed on every machine.

/// Real traffic has many short questions and a few long pages.
const SHORTEST_WORDS: f64 = 10.0;
const LONGEST_WORDS: f64 = 300.0;

/// Common words, which most tokenizers spell in one token: words are then near to tokens.
const WORDS: &[&str] = &[
    "water", "river", "stone", "bridge", "market", "winter", "summer", "letter", "window",
    "garden", "engine", "paper", "music", "doctor", "school", "city", "road", "forest", "island",
    "morning", "evening", "table", "animal", "machine", "teacher", "story", "number", "village",
    "mountain", "storm", "the", "a", "of", "under", "near", "with", "after", "before", "large",
    "small", "old", "new", "slow", "green", "dark", "open", "finds", "builds", "carries",
    "follows", "leaves", "keeps", "and", "then", "while", "because",
];

/// SplitMix64: a few lines that give the same numbers everywhere, which is all a prompt needs.
pub(crate) struct Rng(u64);

impl Rng {
    /// Another `round` or `stream` gives other numbers.
    pub(crate) fn new(seed: u64, round: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ (round << 40) ^ (stream << 20));
        // The first outputs of neighbouring seeds are mixed once more, so that no two streams overlap.
        rng.0 = rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to but not 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Spread evenly by the logarithm: many small numbers and a few large ones.
    pub(crate) fn between(&mut self, least: f64, most: f64) -> usize {
        (least * (most / least).powf(self.fraction())).round() as usize
    }

    fn word(&mut self) -> &'static str {
        WORDS[(self.next() % WORDS.len() as u64) as usize]
    }
}

/// `count` prompts of 10 to 300 words for one measurement. Another `round` or `stream` gives
/// others, which differ from their first words on: a prefix cache finds nothing to reuse.
pub(crate) fn mixed(seed: u64, round: u64, stream: u64, count: usize) -> Vec<String> {
    let mut rng = Rng::new(seed, round, stream);
    let prompt = |_| {
        let words = rng.between(SHORTEST_WORDS, LONGEST_WORDS);
        story(&mut rng, words)
    };
    (0..count).map(prompt).collect()
}

/// A prompt of about `words` words, which no other one begins like.
pub(crate) fn story(rng: &mut Rng, words: usize) -> String {
    let mut text = format!("{:04x}", rng.next() & 0xffff);
    for _ in 1..words {
        text.push(' ');
        text.push_str(rng.word());
    }
    text.push_str(". Continue this story.");
    text
}

#[cfg(test)]
mod tests {
    use super::mixed;

    #[test]
    fn a_seed_repeats_its_prompts_and_a_round_has_its_own() {
        assert_eq!(mixed(1, 0, 8, 16), mixed(1, 0, 8, 16));
        let mut all: Vec<_> = (0..5).flat_map(|round| mixed(1, round, 8, 16)).collect();
        all.extend(mixed(1, 0, 32, 64));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn lengths_reach_from_short_to_long() {
        let words: Vec<_> = mixed(1, 0, 32, 200)
            .iter()
            .map(|p| p.split(' ').count())
            .collect();
        assert!(words.iter().all(|n| (10..=304).contains(n)), "{words:?}");
        assert!(
            words.iter().any(|n| *n < 20) && words.iter().any(|n| *n > 200),
            "{words:?}"
        );
    }
}
