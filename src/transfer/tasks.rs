//! The owner of the blocking work of all pulls.
//!
//! Invariant: work that outlives a cancelled pull, to clean up behind it, is still known here,
//! so that the daemon can wait for it before it leaves.

use tokio::task::JoinError;
use tokio_util::task::TaskTracker;

/// Blocking work in flight. A clone is another handle of the same tracker.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks(TaskTracker);

impl Tasks {
    /// Runs `work` on a blocking thread and waits for it.
    ///
    /// # Errors
    /// [`JoinError`] when it panics or the executor shuts down.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting, not the work.
    pub(super) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.0.spawn_blocking(work).await
    }

    /// Starts `work` on a blocking thread.
    pub(super) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.0.spawn_blocking(work)
    }

    /// Waits until no work is left; the caller starts none meanwhile.
    pub(super) async fn finish(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
