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
