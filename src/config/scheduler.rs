use serde::Deserialize;

/// `[scheduler]`: how requests wait for a slot.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// Requests that may wait in one pool; more get 503 with Retry-After.
    pub max_queue: usize,
    /// How long one may wait, in milliseconds; then it gets 503 `queue_timeout`.
    pub queue_timeout_ms: u64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_queue: 1024,
            queue_timeout_ms: 60_000,
        }
    }
}

impl SchedulerConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.queue_timeout_ms == 0 {
            return Err("[scheduler] queue_timeout_ms is 0: nothing could ever wait".into());
        }
        Ok(())
    }
}
