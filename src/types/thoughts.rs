//! What a model thinks before it answers, told apart from the answer while it comes: `<think>...</think>`, as DeepSeek
//! R1, Qwen 3 and models after them write it.

use std::borrow::Cow;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Splits an answer into thoughts and text.
#[derive(Debug, Clone)]
pub struct Thoughts {
    /// What ends them.
    close: Cow<'static, str>,
    place: Place,
    /// Kept back: it may be the beginning of a mark, or blanks around one.
    held: String,
}

/// Where the next character stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Thoughts may begin here, and nowhere later.
    Start,
    /// Before the first character of a thought that is no blank.
    Opened,
    Within,
    /// Behind the thoughts, before the first character of the text.
    Closed,
    Text,
}

/// What a part of an answer was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// More of the thoughts.
    pub thought: String,
    /// More of the text.
    pub text: String,
}

impl Thoughts {
    /// What a prompt that opens thoughts goes on with where there shall be none.
    pub const NONE: &str = "\n\n</think>\n\n";

    /// Whether a chat template is one of a model that thinks.
    pub fn are_known_to(template: &str) -> bool {
        template.contains(CLOSE)
    }

    /// Whether a control token of this name begins or ends thoughts.
    pub fn spells(name: &str) -> bool {
        name == OPEN || name == CLOSE
    }

    /// Whether a prompt leaves the model in the middle of its thoughts.
    pub fn are_open_after(prompt: &str) -> bool {
        prompt.trim_end().ends_with(OPEN)
    }

    /// For an answer whose prompt has opened its thoughts, or has not.
    pub fn new(opened: bool) -> Self {
        Self {
            close: CLOSE.into(),
            place: if opened { Place::Opened } else { Place::Start },
            held: String::new(),
        }
    }

    /// For an answer that begins with thoughts, which a mark of the vertical's own ends.
    #[must_use]
    pub fn until(mark: &str) -> Self {
        Self {
            close: mark.to_owned().into(),
            place: Place::Opened,
            held: String::new(),
        }
    }

    /// Whether what comes next is thought.
    pub fn is_thinking(&self) -> bool {
        matches!(self.place, Place::Opened | Place::Within)
    }

    /// Whether it isn't known yet if there are any.
    pub fn may_begin(&self) -> bool {
        self.place == Place::Start
    }

    /// Whether what comes next is the answer's text.
    pub fn is_over(&self) -> bool {
        self.place == Place::Text
    }

    /// Takes more of the answer.
    pub fn push(&mut self, more: &str) -> Split {
        self.held.push_str(more);
        let mut split = Split::default();
        while self.step(&mut split) {}
        split
    }

    /// The answer has ended: what was kept back is what it looked like.
    pub fn finish(&mut self) -> Split {
        let rest = std::mem::take(&mut self.held);
        match self.place {
            Place::Start | Place::Text => Split {
                text: rest,
                ..Split::default()
            },
            Place::Within => Split {
                thought: rest.trim_end().to_owned(),
                ..Split::default()
            },
            // Blanks around marks.
            Place::Opened | Place::Closed => Split::default(),
        }
    }

    /// Takes what is held as far as it can be understood. True where there may be more to understand.
    fn step(&mut self, split: &mut Split) -> bool {
        match self.place {
            Place::Start => {
                let begun = self.held.trim_start();
                if let Some(rest) = begun.strip_prefix(OPEN) {
                    self.held = rest.to_owned();
                    self.place = Place::Opened;
                    return true;
                }
                if OPEN.starts_with(begun) {
                    return false;
                }
                self.place = Place::Text;
                true
            }
            Place::Opened | Place::Closed => {
                self.held = self.held.trim_start().to_owned();
                if self.held.is_empty() {
                    return false;
                }
                self.place = if self.place == Place::Opened {
                    Place::Within
                } else {
                    Place::Text
                };
                true
            }
            Place::Within => {
                if let Some((thought, rest)) = self.held.split_once(&*self.close) {
                    split.thought.push_str(thought.trim_end());
                    self.held = rest.to_owned();
                    self.place = Place::Closed;
                    return true;
                }
                let rest = self.held.split_off(told(&self.held, &self.close));
                split.thought.push_str(&self.held);
                self.held = rest;
                false
            }
            Place::Text => {
                split.text.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }
}

/// How many bytes of a thought are surely none of its end: neither of the mark nor of the blanks before it.
fn told(thought: &str, close: &str) -> usize {
    let longest = (close.len() - 1).min(thought.len());
    let mark = (1..=longest).rev().find(|length| {
        close
            .get(..*length)
            .is_some_and(|begun| thought.ends_with(begun))
    });
    thought[..thought.len() - mark.unwrap_or(0)]
        .trim_end()
        .len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(opened: bool, parts: &[&str]) -> (String, String) {
        let mut thoughts = Thoughts::new(opened);
        let mut all = Split::default();
        for part in parts {
            let split = thoughts.push(part);
            all.thought += &split.thought;
            all.text += &split.text;
        }
        let rest = thoughts.finish();
        (all.thought + &rest.thought, all.text + &rest.text)
    }

    fn split(opened: bool, answer: &str) -> (String, String) {
        run(opened, &[answer])
    }

    fn pair(thought: &str, text: &str) -> (String, String) {
        (thought.to_owned(), text.to_owned())
    }

    #[test]
    fn thoughts_are_what_stands_between_the_marks() {
        assert_eq!(
            split(false, "<think>\nhm\n</think>\n\nYes."),
            pair("hm", "Yes.")
        );
        assert_eq!(split(true, "\nhm\n</think>\n\nYes."), pair("hm", "Yes."));
        assert_eq!(split(false, "<think></think>Yes."), pair("", "Yes."));
        assert_eq!(
            split(false, " <think>a < b</think> </think>"),
            pair("a < b", "</think>")
        );
    }

    #[test]
    fn an_answer_without_thoughts_is_text_to_the_letter() {
        for text in [
            "Yes.",
            "",
            " \n",
            "<thin",
            "<thinking>",
            "a <think>b</think>",
        ] {
            assert_eq!(split(false, text), pair("", text), "{text:?}");
        }
    }

    #[test]
    fn thoughts_that_are_cut_off_are_thoughts() {
        assert_eq!(split(false, "<think>hm, </thi"), pair("hm, </thi", ""));
        assert_eq!(split(true, "hm"), pair("hm", ""));
    }

    #[test]
    fn a_thought_is_told_as_soon_as_it_is_sure() {
        let mut thoughts = Thoughts::new(false);
        assert_eq!(thoughts.push("<think>one").thought, "one");
        assert!(thoughts.is_thinking());
        assert_eq!(thoughts.push(" two ").thought, " two");
        assert_eq!(thoughts.push("<").thought, "");
        assert_eq!(thoughts.push("3").thought, " <3");
        assert_eq!(thoughts.push("</think>").thought, "");
        assert!(!thoughts.is_thinking());
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_split_is_the_same(
            opened: bool,
            answer in "( |\n|<think>|</think>|<|é|a){0,12}",
            cuts in proptest::collection::vec(0_usize..100, 0..12),
        ) {
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (answer.len() + 1)).collect();
            ends.retain(|end| answer.is_char_boundary(*end));
            ends.push(answer.len());
            ends.sort_unstable();
            let mut start = 0;
            let mut parts = Vec::new();
            for end in ends {
                parts.push(&answer[start..end]);
                start = end;
            }
            prop_assert_eq!(run(opened, &parts), split(opened, &answer));
        }
    }
}
