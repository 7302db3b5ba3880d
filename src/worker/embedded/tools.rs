use crate::types::CallDelta;
#[derive(Clone)]
pub(super) struct CallParser;
pub(super) struct Parsed {
    pub(super) text: String,
    pub(super) calls: Vec<CallDelta>,
    pub(super) done: bool,
}
impl CallParser {
    pub(super) fn push(&mut self, text: &str) -> Parsed {
        Parsed {
            text: text.into(),
            calls: vec![],
            done: false,
        }
    }
    pub(super) fn finish(&mut self) -> Parsed {
        Parsed {
            text: String::new(),
            calls: vec![],
            done: false,
        }
    }
    pub(super) fn has_called(&self) -> bool {
        false
    }
}
