use serde::Deserialize;

/// `[files]`: what clients may leave here. Files are kept in the store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// The largest file, in bytes.
    pub max_bytes: u64,
    /// All files of a project together, in bytes.
    pub max_bytes_per_project: u64,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            max_bytes: 512 * 1024 * 1024,
            max_bytes_per_project: 10 * 1024 * 1024 * 1024,
        }
    }
}
