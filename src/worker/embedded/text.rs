//! Tokens' bytes to text that may be shown: whole characters, and nothing of a stop string.

use encoding_rs::{Decoder, UTF_8};

/// Puts one answer's text together.
pub(super) struct Assembler {
    decoder: Decoder,
    stops: Vec<String>,
    /// Decoded, and held back because a stop string may begin here.
    held: String,
}

/// What a token's bytes led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// May be shown now.
    pub(super) text: String,
    /// A stop string was completed: the answer ended before it.
    pub(super) stopped: bool,
}

impl Assembler {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self {
            decoder: UTF_8.new_decoder_without_bom_handling(),
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            held: String::new(),
        }
    }

    /// Takes a token's bytes, which may end inside a character.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Shown {
        self.decode(bytes, false);
        let first_stop = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(cut) = first_stop {
            self.held.truncate(cut);
            return Shown {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let rest = self.held.split_off(self.held.len() - self.possible_stop());
        Shown {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// The answer ended without a stop string: what was held back is text after all.
    pub(super) fn finish(&mut self) -> String {
        self.decode(&[], true);
        std::mem::take(&mut self.held)
    }

    /// Bytes that are no UTF-8 become U+FFFD, as the Encoding Standard says.
    fn decode(&mut self, bytes: &[u8], last: bool) {
        let room = self
            .decoder
            .max_utf8_buffer_length(bytes.len())
            .unwrap_or(bytes.len() * 3 + 16);
        self.held.reserve(room);
        let (_result, _read, _replaced) =
            self.decoder.decode_to_string(bytes, &mut self.held, last);
    }

    /// Length in bytes of the longest end of the text that begins a stop string. Both are whole
    /// characters, and no part of one looks like another's beginning, so the cut is between characters.
    fn possible_stop(&self) -> usize {
        self.stops
            .iter()
            .filter_map(|stop| {
                let longest = (stop.len() - 1).min(self.held.len());
                (1..=longest)
                    .rev()
                    .find(|length| self.held.as_bytes().ends_with(&stop.as_bytes()[..*length]))
            })
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(bytes: &[u8], cuts: &[usize], stops: &[&str]) -> (String, bool, Vec<String>) {
        let mut assembler = Assembler::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut pieces = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([bytes.len()]) {
            let shown = assembler.push(&bytes[start..end]);
            start = end;
            pieces.push(shown.text);
            if shown.stopped {
                return (pieces.concat(), true, pieces);
            }
        }
        pieces.push(assembler.finish());
        (pieces.concat(), false, pieces)
    }

    #[test]
    fn a_character_comes_when_its_last_byte_does() {
        let crab = "🦀".as_bytes();
        let (_, _, pieces) = run(crab, &[1, 2, 3], &[]);
        assert_eq!(pieces, ["", "", "", "🦀", ""]);
        assert_eq!(run(&crab[..2], &[], &[]).0, "\u{fffd}");
    }

    #[test]
    fn a_false_start_of_a_stop_string_is_shown_after_all() {
        let (text, stopped, pieces) = run(b"a ENx b", &[3, 4], &["END"]);
        assert_eq!((text.as_str(), stopped), ("a ENx b", false));
        assert_eq!(pieces[0], "a ");
        assert_eq!(run(b"a EN", &[], &["END"]).0, "a EN");
    }

    #[test]
    fn the_earliest_stop_string_counts() {
        assert_eq!(run(b"one two three", &[], &["three", "two"]).0, "one ");
        assert_eq!(run("日本語".as_bytes(), &[4], &["本"]).0, "日");
        assert_eq!(run(b"text", &[], &[""]).0, "text");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_text_is_the_same(
            text in "[ab🦀é日]{0,24}",
            stop in "[ab🦀é日]{1,4}",
            cuts in proptest::collection::vec(0_usize..200, 0..12),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let (shown, stopped, _) = run(bytes, &cuts, &[&stop]);
            let expected = text.find(&stop).map_or(text.as_str(), |cut| &text[..cut]);
            prop_assert_eq!(shown, expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }
}
