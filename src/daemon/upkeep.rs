//! What goes on in the background while the daemon serves.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::snapshots::Snapshots;

use super::components::Components;
use super::supervisor;

/// How often writable layers are measured while somebody wants to know their sizes. The
/// kubelet evicts pods by them and looks every 10 seconds; with the time that measuring
/// takes, what it sees is no older.
const USAGE_AGE: Duration = Duration::from_secs(8);

/// For how long somebody who has asked wants to know.
const USAGE_INTEREST: Duration = Duration::from_secs(120);

/// Starts the background tasks; they end when the set is shut down.
pub(super) fn start(components: &Components, tasks: &mut JoinSet<()>) {
    tasks.spawn(supervisor::watchdog());
    let network = Arc::clone(&components.network);
    tasks.spawn(async move { network.watch().await });
    tasks.spawn(measure_usage(components.snapshots.clone()));
}

/// Measures writable layers again and again while somebody asks for their sizes.
async fn measure_usage(snapshots: Snapshots) {
    loop {
        snapshots.usage_wanted(USAGE_INTEREST).await;
        if let Err(error) = snapshots.refresh_usage(USAGE_AGE).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot measure a writable layer"
            );
        }
        tokio::time::sleep(USAGE_AGE).await;
    }
}
