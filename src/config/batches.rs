use serde::Deserialize;

/// `[batches]`: requests that are answered when there is room.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchesConfig {
    /// How long a batch may take, in seconds; clients know it as `24h`, whatever it is.
    pub window_s: u32,
    /// Lines of one batch.
    pub max_lines: u64,
    /// Lines of all batches that are under way at once.
    pub lines_at_once: usize,
}

impl Default for BatchesConfig {
    fn default() -> Self {
        Self {
            window_s: 24 * 3600,
            max_lines: 50_000,
            lines_at_once: 32,
        }
    }
}

impl BatchesConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=1024).contains(&self.lines_at_once) {
            return Err("[batches] lines_at_once must be 1 to 1024".into());
        }
        Ok(())
    }
}
