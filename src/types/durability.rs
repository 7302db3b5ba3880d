use serde::Deserialize;

/// What a charge survives before its answer ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A power cut: it is synced to disk.
    #[default]
    Power,
    /// The death of this process: it is in a file or in the database's log, which is synced within 20 ms.
    Process,
}
