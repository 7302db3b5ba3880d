use serde::Deserialize;

/// `[ledger]`: how charges are booked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// What a charge survives before its answer ends.
    pub durability: Durability,
    /// Requests that may be open at once; more get 503.
    pub max_open: usize,
    /// How long the end of an answer waits for a store that fails, in milliseconds.
    pub hold_ms: u64,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Power,
            max_open: 8192,
            hold_ms: 10_000,
        }
    }
}

/// What a charge survives before its answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A power cut: synced to disk.
    Power,
}
