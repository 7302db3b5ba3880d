//! The whole of Forebay, as its users meet it: the binary, a real model, a real store.

#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed; clippy.toml knows test functions alone, not their helpers"
)]

mod books;
mod harness;
#[path = "../support/postgres.rs"]
mod postgres;

mod api;
mod auto;
mod batches;
mod config;
mod faults;
mod files;
mod formats;
mod discovery;
mod embeddings;
mod guards;
mod hang_up;
mod isolate;
mod isolation;
mod kills;
mod layout;
mod ledger;
#[cfg(feature = "mistralrs")]
mod mistralrs;
mod openapi;
mod parity;
mod pick;
mod remote;
mod replicas;
mod rollout;
mod scrape;
mod tenancy;
mod tidy;
mod usage;
mod verticals;
