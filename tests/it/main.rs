//! The whole of Forebay, as its users meet it: the binary, a real model, a real store.

mod harness;

mod api;
mod config;
mod hang_up;
mod isolation;
mod ledger;
#[cfg(feature = "mistralrs")]
mod mistralrs;
mod parity;
mod scrape;
mod tidy;
