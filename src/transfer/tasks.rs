//! The owner of the work of all pulls: what runs on blocking threads, and the tasks of layers.
//!
//! Invariant: work that outlives a cancelled pull, to clean up behind it, is still known here,
//! results that nobody takes any more included, so that the daemon can wait for it before it
//! leaves.

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;

/// Work in flight. A clone is another handle of the same tracker.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks(TaskTracker);

/// Work ended without a result: it panicked, or the executor shuts down.
#[derive(Debug, thiserror::Error)]
#[error("a task ended without a result")]
pub struct Lost(#[source] oneshot::error::RecvError);

impl Tasks {
    /// Starts `work` on a blocking thread; the future waits for its result.
    ///
    /// # Errors
    /// [`Lost`].
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting, not the work.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Lost>> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        // A result without a receiver is dropped before the tracker forgets the work.
        self.0.spawn_blocking(move || drop(sender.send(work())));
        async move { receiver.await.map_err(Lost) }
    }

    /// `work`, known here until it has ended or was dropped.
    pub(super) fn track<F: Future>(&self, work: F) -> TrackedFuture<F> {
        self.0.track_future(work)
    }

    /// Waits until no work is left; the caller starts none meanwhile.
    pub(super) async fn finish(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
