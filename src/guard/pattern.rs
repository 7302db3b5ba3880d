use regex::Regex;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::{Anchored, Input, MatchKind};

/// What is longer than so many bytes may leave in part, or one long word could hold a stream for ever.
const LONGEST: usize = 4096;

/// What a rule looks for, in a text of which more may come.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// The same, to be walked byte by byte.
    automaton: DFA,
    /// Stands in the place of what is hidden.
    pub(super) label: String,
    /// What else must hold of what looks like it.
    check: Option<fn(&str) -> bool>,
}

/// Where a pattern stands in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Pattern {
    pub(super) fn new(
        text: &str,
        label: String,
        check: Option<fn(&str) -> bool>,
    ) -> Result<Self, String> {
        let one_line = |error: &dyn std::fmt::Display| {
            let text = error.to_string();
            text.lines()
                .next_back()
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let regex = Regex::new(text).map_err(|error| one_line(&error))?;
        if regex.is_match("") {
            return Err("it is found where there is nothing".into());
        }
        // All ways to go on are walked, whichever the expression would prefer.
        // A boundary of words in all scripts can't be walked: it is refused, and `(?-u:\b)` is not.
        let config = DFA::config().match_kind(MatchKind::All);
        let automaton = DFA::builder().configure(config).build(text);
        Ok(Self {
            automaton: automaton.map_err(|error| one_line(&error))?,
            regex,
            label,
            check,
        })
    }

    /// The first place from there on.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<Place> {
        let mut from = from;
        loop {
            let found = self.regex.find_at(text, from)?;
            if let Some(length) = self.fits(found.as_str()) {
                return Some(Place {
                    start: found.start(),
                    end: found.start() + length,
                });
            }
            let first = found.as_str().chars().next();
            from = found.start() + first.map_or(1, char::len_utf8);
        }
    }

    /// How much of what looks like it is it: all, or what stands before one of its gaps.
    fn fits(&self, found: &str) -> Option<usize> {
        let Some(check) = self.check else {
            return Some(found.len());
        };
        let gaps = found.rmatch_indices([' ', '-']).map(|(place, _)| place);
        let mut ends = std::iter::once(found.len()).chain(gaps);
        ends.find(|end| found.get(..*end).is_some_and(check))
    }

    pub(super) fn cache(&self) -> Cache {
        self.automaton.create_cache()
    }

    /// The first place from there on at which the pattern may stand once more has come; the text's end, where it can't.
    pub(super) fn undecided(&self, cache: &mut Cache, text: &str, from: usize) -> usize {
        let from = from.max(text.floor_char_boundary(text.len().saturating_sub(LONGEST)));
        let rest = text.get(from..).unwrap_or_default();
        let mut starts = rest.char_indices().map(|(index, _)| from + index);
        let undecided = starts.find(|start| self.may_go_on(cache, text.as_bytes(), *start));
        undecided.unwrap_or(text.len())
    }

    /// Whether it depends on what comes next if the pattern stands here, or where it ends.
    fn may_go_on(&self, cache: &mut Cache, text: &[u8], start: usize) -> bool {
        let input = Input::new(text).range(start..).anchored(Anchored::Yes);
        let Ok(mut state) = self.automaton.start_state_forward(cache, &input) else {
            return true;
        };
        for byte in text.get(start..).unwrap_or_default() {
            match self.automaton.next_state(cache, state, *byte) {
                Ok(next) if next.is_dead() => return false,
                Ok(next) if next.is_quit() => return true,
                Ok(next) => state = next,
                Err(_) => return true,
            }
        }
        true
    }
}
