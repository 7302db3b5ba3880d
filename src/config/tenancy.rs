use std::net::SocketAddr;

use serde::Deserialize;

/// `[tenancy]`: who may ask.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenancyConfig {
    /// A key that needs no store, for a first try on one machine. It pays from the project `local`, and
    /// is accepted on a loopback listener alone.
    pub bootstrap_key: Option<String>,
}

impl std::fmt::Debug for TenancyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bootstrap_key = self.bootstrap_key.as_ref().map(|_| "(hidden)");
        f.debug_struct("TenancyConfig")
            .field("bootstrap_key", &bootstrap_key)
            .finish()
    }
}

impl TenancyConfig {
    pub(super) fn check(&self, listen: SocketAddr) -> Result<(), String> {
        let Some(key) = &self.bootstrap_key else {
            return Ok(());
        };
        if !listen.ip().is_loopback() {
            return Err(format!(
                "[tenancy] bootstrap_key is accepted on a loopback listener alone, and [server] listen is {listen}: remove it and make keys with `forebay key create`"
            ));
        }
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("[tenancy] bootstrap_key must be printable ASCII without spaces".into());
        }
        Ok(())
    }
}
