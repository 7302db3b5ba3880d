use serde::Deserialize;

/// `[store]`: projects, keys and the ledger.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite://path`; made and migrated when it isn't there.
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
        if scheme != "sqlite" {
            return Err(format!(
                "[store] url has the scheme {scheme}, and sqlite://PATH is needed"
            ));
        }
        if path.is_empty() || path.contains(":memory:") || path.contains('?') {
            return Err(
                "[store] url: a ledger needs a file, and takes no parameters: sqlite://PATH".into(),
            );
        }
        Ok(())
    }
}
