//! Calls of functions: how a model is told to make them, made to make them, and understood.

mod format;
mod grammar;
mod object;
mod parser;
#[cfg(test)]
mod tests;

pub(super) use grammar::blame;
pub(super) use parser::CallParser;
