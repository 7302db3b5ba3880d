use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

/// `[server]`: the gateway's own listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address and port. The default is 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// How long running answers may go on after SIGTERM, in seconds.
    pub drain_s: u64,
    /// How long a connection may take to send a request's head, in seconds.
    pub header_read_timeout_s: u64,
    /// Whose pages may ask from a browser, as `https://app.example.com`; anybody's by default. No cookie says who asks, so
    /// a page needs a key.
    pub cors_origins: Vec<String>,
    /// The certificate, where clients come by TLS.
    pub tls: Option<ServerTlsConfig>,
}

/// Two PEM files, which are read again when they change.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTlsConfig {
    /// The server's certificate, and those that it stands on.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            max_body_bytes: 16 * 1024 * 1024,
            max_connections: 4096,
            drain_s: 30,
            header_read_timeout_s: 30,
            cors_origins: vec!["*".into()],
            tls: None,
        }
    }
}
