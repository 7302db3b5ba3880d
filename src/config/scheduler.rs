use serde::Deserialize;

/// `[scheduler]`: how requests wait for a slot.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// Requests that may wait for one model; more get 503 with Retry-After.
    pub max_queue: usize,
    /// Of one project; more get 429 with Retry-After. As many as of all by default: where the queue is full, whoever has
    /// the most in it makes way for a project that has less.
    pub max_queue_per_project: Option<usize>,
    /// How long one may wait, in milliseconds; then it gets 503 `queue_timeout`.
    pub queue_timeout_ms: u64,
    /// How many more times a request is tried on a model's workers, where one fails before the first token.
    pub retries: u32,
    /// Where a stream's first token has not come after so many milliseconds, another worker is asked as well, if one has
    /// room; the slower of the two is cancelled, and costs nothing. Never by default.
    pub hedge_after_ms: Option<u64>,
    /// A request that waited that long counts as of the next higher class, in milliseconds.
    pub promote_after_ms: u64,
    /// A worker that joins, or answers again after it failed, has all of its places after this time, in milliseconds.
    pub slow_start_ms: u64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_queue: 1024,
            max_queue_per_project: None,
            queue_timeout_ms: 60_000,
            retries: 2,
            hedge_after_ms: None,
            promote_after_ms: 30_000,
            slow_start_ms: 10_000,
        }
    }
}

impl SchedulerConfig {
    /// Of one project, so many may wait for one model.
    #[must_use]
    pub fn queue_per_project(&self) -> usize {
        self.max_queue_per_project.unwrap_or(self.max_queue)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.queue_timeout_ms == 0 {
            return Err("[scheduler] queue_timeout_ms is 0: nothing could ever wait".into());
        }
        Ok(())
    }
}
