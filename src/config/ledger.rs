use serde::Deserialize;

use crate::types::Durability;

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
    /// How long a replica may be silent before others book what it has in flight, in seconds. Of no use with
    /// SQLite, which one process serves from.
    pub lease_s: u64,
    /// What this replica is called in the ledger, the same in each of its lives: the host's name by default.
    /// Its counters go on where they stood in the last one.
    pub replica: Option<String>,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Power,
            max_open: 8192,
            hold_ms: 10_000,
            lease_s: 10,
            replica: None,
        }
    }
}

impl LedgerConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(3..=600).contains(&self.lease_s) {
            return Err("[ledger] lease_s must be 3 to 600 seconds".into());
        }
        match &self.replica {
            Some(name) => super::check_name("[ledger] replica", name),
            None => Ok(()),
        }
    }
}
