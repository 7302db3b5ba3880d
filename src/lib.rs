//! Forebay: an OpenAI-compatible gateway for private model serving.
//!
//! The modules stand in the order in which a request meets them; imports point down this list only.

#![expect(
    clippy::duplicate_mod,
    reason = "store/sql is written once and compiled for each database"
)]

pub mod api;
pub mod gateway;
pub mod batch;
pub mod files;
pub mod tenancy;
pub mod router;
pub mod scheduler;
pub mod worker;
pub mod metering;
pub mod telemetry;
pub mod config;
pub mod guard;
pub mod types;
// Beside the way of a request:
pub mod store;
pub mod eval;
// The wiring, which alone may name everything:
pub mod app;
pub mod cli;
