use std::sync::Arc;

use regex_automata::hybrid::dfa::Cache;

use super::Found;
use super::pattern::{Pattern, Place};
use super::rule::{Compiled, Then, What};

/// So much of what has passed is kept, so that a word's beginning is known from its middle.
const BEHIND: usize = 64;
/// What has passed is forgotten in pieces of this size.
const FORGETS: usize = 4096;

/// Takes a text as it comes, and gives what of it may pass.
#[derive(Debug)]
pub struct Filter {
    stages: Vec<Stage>,
}

/// One rule over one text.
#[derive(Debug)]
struct Stage {
    rule: Arc<Compiled>,
    /// One for each pattern.
    caches: Vec<Cache>,
    /// The text, but for what is long gone.
    text: String,
    /// What lies before it has passed.
    passed: usize,
    chars: usize,
    /// Nothing passes any more.
    over: bool,
    /// The rule found something.
    hit: bool,
}

impl Filter {
    pub(super) fn new(rules: impl Iterator<Item = Arc<Compiled>>) -> Self {
        let stage = |rule: Arc<Compiled>| Stage {
            caches: match &rule.what {
                What::Patterns(patterns) => patterns.iter().map(Pattern::cache).collect(),
                What::Longer(_) => Vec::new(),
            },
            rule,
            text: String::new(),
            passed: 0,
            chars: 0,
            over: false,
            hit: false,
        };
        Self {
            stages: rules.map(stage).collect(),
        }
    }

    /// More of the text; gives what may pass by now.
    pub fn push(&mut self, more: &str) -> String {
        self.run(more, false)
    }

    /// The text ends here; gives the rest of what may pass.
    pub fn finish(&mut self) -> String {
        self.run("", true)
    }

    /// A whole text at once, of which no more comes: nothing has to be looked at but what is there.
    pub fn whole(&mut self, text: &str) -> String {
        self.run(text, true)
    }

    /// What was found until now.
    #[must_use]
    pub fn found(&self) -> Found {
        let mut found = Found::default();
        for stage in self.stages.iter().filter(|stage| stage.hit) {
            let name = Arc::clone(&stage.rule.name);
            match stage.rule.then {
                // Of several the last one found its own first: it reads what the others let pass.
                Then::Block => found.blocked = Some(name),
                Then::Mask => {
                    found.cut |= stage.over;
                    found.masked.insert(name);
                }
                Then::Flag => {
                    found.flagged.insert(name);
                }
            }
        }
        found
    }

    /// Whether a rule has refused some of it.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        let mut stages = self.stages.iter();
        stages.any(|stage| stage.hit && stage.rule.then == Then::Block)
    }

    fn run(&mut self, more: &str, ends: bool) -> String {
        let mut text = more.to_owned();
        for stage in &mut self.stages {
            text = stage.run(&text, ends);
        }
        text
    }
}

impl Stage {
    fn run(&mut self, more: &str, ends: bool) -> String {
        if self.over {
            return String::new();
        }
        let rule = Arc::clone(&self.rule);
        match &rule.what {
            What::Longer(most) => self.measure(more, *most),
            What::Patterns(patterns) => {
                self.text.push_str(more);
                let passes = self.search(patterns, ends);
                self.forget();
                // A rule that only tells keeps nobody waiting.
                if self.rule.then == Then::Flag {
                    more.to_owned()
                } else {
                    passes
                }
            }
        }
    }

    fn measure(&mut self, more: &str, most: usize) -> String {
        let left = most.saturating_sub(self.chars);
        self.chars = self.chars.saturating_add(more.chars().count());
        if self.chars <= most {
            return more.to_owned();
        }
        self.hit = true;
        if self.rule.then == Then::Flag {
            return more.to_owned();
        }
        self.over = true;
        more.chars().take(left).collect()
    }

    fn search(&mut self, patterns: &[Pattern], ends: bool) -> String {
        let mut passes = String::new();
        let find = |pattern: &Pattern, stage: &Self| pattern.find(&stage.text, stage.passed);
        let mut next: Vec<_> = patterns.iter().map(|pattern| find(pattern, self)).collect();
        let mut decided = if ends {
            self.text.len()
        } else {
            self.decided(patterns)
        };
        loop {
            // What was found further on stands there still.
            for (place, pattern) in next.iter_mut().zip(patterns) {
                if place.is_some_and(|place| place.start < self.passed) {
                    *place = find(pattern, self);
                }
            }
            if decided < self.passed {
                decided = self.decided(patterns);
            }
            let found = next.iter().zip(patterns);
            let found = found.filter_map(|(place, pattern)| Some(((*place)?, pattern)));
            let first = found.min_by_key(|(place, _)| (place.start, std::cmp::Reverse(place.end)));
            let first = first.filter(|(place, _)| ends || place.start < decided);
            let Some((Place { start, end }, pattern)) = first else {
                passes += self.text.get(self.passed..decided).unwrap_or_default();
                self.passed = decided;
                return passes;
            };
            passes += self.text.get(self.passed..start).unwrap_or_default();
            self.passed = end;
            self.hit = true;
            match self.rule.then {
                Then::Block => {
                    self.over = true;
                    return passes;
                }
                Then::Mask => passes += &pattern.label,
                Then::Flag => {}
            }
        }
    }

    /// Up to where nothing depends on what comes next.
    fn decided(&mut self, patterns: &[Pattern]) -> usize {
        let (text, passed) = (&self.text, self.passed);
        let undecided = patterns
            .iter()
            .zip(&mut self.caches)
            .map(|(pattern, cache)| pattern.undecided(cache, text, passed));
        undecided.min().unwrap_or(text.len())
    }

    fn forget(&mut self) {
        if self.passed > FORGETS + BEHIND {
            let end = self.text.floor_char_boundary(self.passed - BEHIND);
            self.text.drain(..end);
            self.passed -= end;
        }
    }
}
