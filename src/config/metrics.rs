use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

/// `[metrics]`: a listener of its own, so that metrics need not be where the clients are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port. The default is 127.0.0.1:9464.
    pub listen: SocketAddr,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 9464).into(),
        }
    }
}
