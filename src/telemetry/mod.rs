//! What the gateway tells its operators: every metric in one file, and the logs.
//!
//! No prompt, answer or secret ever gets here, neither as a label nor as a field.

mod logs;
mod metrics;

pub use logs::{Logs, init_logs};
pub use metrics::{
    LedgerMetrics, MemberMetrics, MembersMetrics, Metrics, PoolMetrics, VerticalMetrics,
    WorkerMetrics, WorkerReading,
};
