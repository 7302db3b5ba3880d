//! Answers that have to follow a grammar: before each token, those that may not come next are ruled out.
//!
//! The automaton is llguidance's. It is driven from here, step by step, so that its failure is the request's:
//! nothing is ever sampled past it. What it gets to see of a client's JSON Schema is what [`schema`] made of it.

mod bounds;
mod choice;
mod formats;
mod lint;
mod schema;
mod types;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokRxInfo, TokTrie,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::types::Failure;

/// A grammar in llguidance's Lark dialect is at most this long.
const LARK_BYTES: usize = 1 << 20;
/// The compiler recurses by schema nesting and along chains of `$ref`, which [`schema`] bounds; the stack takes the
/// worst of it. It is address space, and only what is used becomes memory.
const STACK_BYTES: usize = 256 << 20;
/// Of the lexer's states, some 2 kB each.
const LEXER_STATES: usize = 50_000;
/// Symbols of a grammar.
const GRAMMAR_SYMBOLS: usize = 200_000;
/// The trie of tokens nests no deeper.
const TOKEN_BYTES: usize = 1_000;
/// Tokens that start with this byte, which no UTF-8 text holds, are names of control tokens to the trie.
const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// One model's vocabulary, made ready for grammars. Built once per loaded model.
pub(super) struct Grammars {
    factory: ParserFactory,
    vocabulary: Arc<Vocabulary>,
}

/// What an answer has to follow.
pub(super) enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid under this schema (draft 2020-12).
    JsonSchema(Value),
    /// A grammar of our own making in llguidance's Lark dialect. A client's schema goes into it by way of
    /// [`embedded`] alone.
    Lark(String),
}

/// One answer's constraint.
///
/// Starts of the same share the lexer's automaton, which grows while they run, up to a bound: a constraint is for
/// one request, not to be kept for the next.
pub(super) struct Constraint {
    start: Matcher,
    matcher: Matcher,
    vocabulary: Arc<Vocabulary>,
    /// The last byte of an answer that ends as JSON does.
    last: Option<u8>,
    json: bool,
}

struct Vocabulary {
    /// The last byte of each token; `None` for control tokens.
    last: Vec<Option<u8>>,
    ends: Vec<u32>,
}

impl Grammars {
    /// `tokens[id]` are the token's bytes, empty for control tokens, which no grammar may produce. `ends` are the
    /// model's end-of-generation tokens, the usual one first.
    pub(super) fn new(mut tokens: Vec<Vec<u8>>, ends: &[u32]) -> Result<Self, String> {
        let size = u32::try_from(tokens.len())
            .ok()
            .filter(|size| *size < 1 << 24)
            .ok_or("its vocabulary is too large for grammars")?;
        let first = *ends.first().ok_or("it has no end-of-generation token")?;
        for end in ends {
            tokens
                .get_mut(*end as usize)
                .ok_or("an end-of-generation token is outside its vocabulary")?
                .clear();
        }
        for token in &mut tokens {
            if token.first() == Some(&MARKER) || token.len() > TOKEN_BYTES {
                token.clear();
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &tokens).with_eos_tokens(ends);
        // It knows no canonical way to cut a text into tokens, so that nothing is forced: the model chooses the cut.
        let env: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| error.to_string())?;
        // Its log on stderr would hold text of answers, and so would verbose errors.
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = LEXER_STATES;
        limits.max_grammar_size = GRAMMAR_SYMBOLS;
        let vocabulary = Arc::new(Vocabulary {
            last: tokens.iter().map(|token| token.last().copied()).collect(),
            ends: ends.to_vec(),
        });
        Ok(Self {
            factory,
            vocabulary,
        })
    }
}

impl Grammars {
    /// Takes its time: not for an engine's thread.
    ///
    /// `Err` is `Failure::Invalid` with this `param`; its message names the place in the schema and what is wrong
    /// there.
    pub(super) fn compile(
        &self,
        grammar: &Grammar,
        param: &'static str,
    ) -> Result<Constraint, Failure> {
        let made = on_a_large_stack(|| match grammar {
            Grammar::Lark(text) if text.len() > LARK_BYTES => {
                Err("the grammar is too long".to_owned())
            }
            Grammar::Lark(text) => self
                .matcher(TopLevelGrammar::from_lark(text.clone()))
                .map_err(|reason| format!("the grammar can't be followed: {reason}")),
            Grammar::JsonObject => self.json(&serde_json::json!({"type": "object"})),
            Grammar::JsonSchema(schema) => self.json(schema),
        });
        let start = made
            .and_then(|made| made)
            .map_err(|message| invalid(param, message))?;
        Ok(Constraint {
            matcher: start.clone(),
            start,
            vocabulary: Arc::clone(&self.vocabulary),
            last: None,
            json: !matches!(grammar, Grammar::Lark(_)),
        })
    }

    fn json(&self, schema: &Value) -> Result<Matcher, String> {
        let checked = schema::check(schema).map_err(|fault| fault.to_string())?;
        let text = checked.root(&options());
        self.matcher(TopLevelGrammar::from_json_schema(text))
            .map_err(|reason| checked.blame(&reason, compiles).to_string())
    }

    /// Compiles, and takes a first step: a grammar whose every answer would fail is refused while it can be.
    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let parser = self
            .factory
            .create_parser(grammar)
            .map_err(|error| brief(&error))?;
        let mut matcher = Matcher::new(Ok(parser));
        if let Some(warning) = matcher.grammar_warnings().first() {
            return Err(first_line(warning));
        }
        matcher
            .clone()
            .compute_mask()
            .map_err(|error| brief(&error))?;
        Ok(matcher)
    }
}

/// A client's schema as it may stand after `%json` in a grammar of our own making.
pub(super) fn embedded(schema: &Value, param: &'static str) -> Result<String, Failure> {
    on_a_large_stack(|| {
        let checked = schema::check(schema).map_err(|fault| fault.to_string())?;
        Ok(checked.root(&options()).to_string())
    })
    .and_then(|text| text)
    .map_err(|message| invalid(param, message))
}

/// How JSON is written.
///
/// Between two tokens of JSON there is one space, or one line break with an indentation, or nothing: a model may
/// write compactly or in lines, as it was trained to, but can't go on with blanks for ever, which is how small
/// models fail. Strings have the short escapes alone: with `\u`, a name that the schema knows could be spelt in a
/// way that the automaton takes for another one.
fn options() -> Value {
    serde_json::json!({
        "whitespace_pattern": r"\x20|\n(?:\x20{0,32}|\t{0,8})",
        "json_allowed_escapes": "nrbtf\\\"",
    })
}

/// Whether a part of a schema can be compiled, taken alone.
fn compiles(schema: Value) -> Result<(), String> {
    let limits = llguidance::api::ParserLimits {
        max_grammar_size: GRAMMAR_SYMBOLS,
        ..Default::default()
    };
    let builder = llguidance::GrammarBuilder::new(None, limits);
    llguidance::JsonCompileOptions::default()
        .json_to_llg_with_overrides(builder, schema)
        .map(|_| ())
        .map_err(|error| brief(&error))
}

fn invalid(param: &'static str, message: String) -> Failure {
    Failure::Invalid {
        param: Some(Cow::Borrowed(param)),
        message,
    }
}

/// The error and its causes in a line; what follows the first line is for llguidance's own developers.
fn brief(error: &anyhow::Error) -> String {
    first_line(&format!("{error:#}"))
}

fn first_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let line = text.lines().next().unwrap_or_default();
    if line.starts_with("panic") {
        return "it is more than the compiler can take".to_owned();
    }
    line.chars().take(LONGEST).collect()
}

/// Runs it where deep recursion is no danger.
fn on_a_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("grammar".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| format!("there is no thread to compile it: {error}"))?
            .join()
            .map_err(|_| "it is more than the compiler can take".to_owned())
    })
}

impl Constraint {
    /// Sets the logits of every token that may not come next to -inf. `Err` is for the request: it must fail.
    pub(super) fn mask(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let allowed = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|error| failed(&error))?;
        let known = logits.len().min(self.vocabulary.last.len());
        let (known, padding) = logits.split_at_mut(known);
        apply(&allowed, known);
        padding.fill(f32::NEG_INFINITY);
        Ok(())
    }

    /// Takes a sampled token. `Err` is for the request, as with [`Self::mask`]; so is a token that may not come.
    pub(super) fn accept(&mut self, token: u32) -> Result<(), String> {
        let last = *self
            .vocabulary
            .last
            .get(token as usize)
            .ok_or("a token outside the vocabulary was chosen")?;
        let end = self.vocabulary.ends.contains(&token);
        if last.is_none() && !end {
            return Err("a control token was chosen where the grammar has text".to_owned());
        }
        if end && !self.accepting()? {
            return Err("the answer ended where the grammar can't".to_owned());
        }
        if end && self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher
            .consume_token(token)
            .map_err(|error| failed(&error))?;
        // Blanks count too: after them a document isn't seen as ended, and its end token is asked for.
        self.last = last.or(self.last);
        Ok(())
    }

    /// Nothing more can come: the answer is complete, and nothing but blanks or an end token could follow.
    pub(super) fn is_finished(&mut self) -> bool {
        if self.matcher.is_stopped() {
            return !self.matcher.is_error();
        }
        // A document that is no number is complete with its last byte; blanks could still follow.
        let closed = matches!(self.last, Some(b'}' | b']' | b'"'));
        self.json && closed && self.accepting().unwrap_or(false)
    }

    /// The same constraint at its start.
    pub(super) fn fresh(&self) -> Self {
        Self {
            start: self.start.clone(),
            matcher: self.start.clone(),
            vocabulary: Arc::clone(&self.vocabulary),
            last: None,
            json: self.json,
        }
    }

    fn accepting(&mut self) -> Result<bool, String> {
        self.matcher.is_accepting().map_err(|error| failed(&error))
    }
}

impl Clone for Constraint {
    /// A start of the same, wherever this one has come to.
    fn clone(&self) -> Self {
        self.fresh()
    }
}

/// Rules out what isn't allowed, 32 tokens at a time where they are all alike.
fn apply(allowed: &SimpleVob, logits: &mut [f32]) {
    let (words, mut words_of) = (
        logits.chunks_mut(u32::BITS as usize),
        allowed.as_slice().iter(),
    );
    for chunk in words {
        match words_of.next().copied().unwrap_or(0) {
            u32::MAX => {}
            0 => chunk.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in chunk.iter_mut().enumerate() {
                    if word & (1 << bit) == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// What an error of the matcher may be called where it is logged: its own text can hold parts of the answer.
fn failed(error: &anyhow::Error) -> String {
    let text = error.to_string();
    let large = [
        "TooComplex",
        "too complex",
        "too many",
        "too big",
        "limit",
        "fuel",
    ];
    if large.iter().any(|word| text.contains(word)) {
        "the grammar's automaton grew past its bounds".to_owned()
    } else {
        "the grammar's automaton failed".to_owned()
    }
}
