//! What load tests are made of, for tests elsewhere to use. It never imports the gateway.

pub mod ports;
pub mod upstream;
