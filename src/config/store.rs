use serde::Deserialize;

/// `[store]`: projects, keys and the ledger.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite://PATH`, made when it isn't there, or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; migrated at
    /// the start.
    pub url: String,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "sqlite://forebay.db".into(),
        }
    }
}

impl StoreConfig {
    /// The message never quotes the URL, which may hold a password.
    pub(super) fn check(&self) -> Result<(), String> {
        let (scheme, path) = self.url.split_once("://").unwrap_or(("none", ""));
        match scheme {
            "sqlite" if path.is_empty() || path.contains(":memory:") || path.contains('?') => Err(
                "[store] url: a ledger needs a file, and takes no parameters: sqlite://PATH".into(),
            ),
            "sqlite" => Ok(()),
            "postgres" | "postgresql" if path.is_empty() => {
                Err("[store] url: postgres://USER:PASSWORD@HOST:PORT/DATABASE".into())
            }
            "postgres" | "postgresql" => Ok(()),
            _ => Err(format!(
                "[store] url has the scheme {scheme}, and sqlite://PATH or postgres://... is needed"
            )),
        }
    }
}
