use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;

/// Commits that come within this time share one sync. With the sync itself it is well within 20 ms on a disk that is none of
/// the slowest.
const GATHER: Duration = Duration::from_millis(5);

/// Brings to disk, a little later, what was committed without waiting for the disk.
pub(super) struct Syncer(mpsc::Sender<()>);

impl Syncer {
    /// Needs a runtime. It ends with the last commit after this value is dropped.
    pub(super) fn start<F>(sync: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        let (sender, mut marks) = mpsc::channel(1);
        tokio::spawn(async move {
            while marks.recv().await.is_some() {
                tokio::time::sleep(GATHER).await;
                if let Err(error) = sync().await {
                    tracing::error!(error, "the ledger's log could not be synced");
                }
            }
        });
        Self(sender)
    }

    /// Something was committed.
    pub(super) fn mark(&self) {
        // A mark that waits already stands for this one as well.
        let _waits = self.0.try_send(());
    }
}
