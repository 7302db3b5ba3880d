//! HTTP, and nothing but: decode, call the gateway, encode.

mod asked;
mod auth;
mod azure;
mod body;
mod cors;
mod error;
mod health;
mod inside;
mod limits;
mod list;
mod openai;
mod openapi;
mod organization;
mod path;
mod query;
mod repeat;
mod request_id;
mod routes;
mod server;
mod tls;
mod transport;

pub use inside::InnerDoor;
pub use routes::{Edge, gateway_routes, metrics_routes, paths};
pub use server::{Door, Limits, serve};
pub use tls::Certificate;

use std::sync::Arc;

use jiff::Timestamp;

use crate::batch::Batches;
use crate::config::FilesConfig;
use crate::gateway::Gateway;

/// What handlers work with.
pub struct Api {
    /// Where requests go.
    pub gateway: Arc<Gateway>,
    /// Where batches are told of.
    pub batches: Arc<Batches>,
    /// What clients may leave here.
    pub files: FilesConfig,
    /// When this process started: the `created` of its models.
    pub started: Timestamp,
}

/// As every handler gets it.
type Shared = axum::extract::State<Arc<Api>>;
