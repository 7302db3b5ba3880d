//! The whole of Forebay, as its users meet it: the binary, a real model, a real store.

#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed; clippy.toml knows test functions alone, not their helpers"
)]

mod harness;

mod api;
mod config;
mod formats;
mod embeddings;
mod hang_up;
mod isolate;
mod isolation;
mod layout;
mod ledger;
#[cfg(feature = "mistralrs")]
mod mistralrs;
mod parity;
mod scrape;
mod tidy;
