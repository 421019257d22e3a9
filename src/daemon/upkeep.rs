//! What goes on in the background while the daemon serves.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::snapshots::Snapshots;

use super::components::Components;
use super::supervisor;

/// How old the sizes of writable layers may be. The kubelet evicts pods by them and looks
/// every 10 seconds.
const USAGE_AGE: Duration = Duration::from_secs(10);

/// Starts the background tasks; they end when the set is shut down.
pub(super) fn start(components: &Components, tasks: &mut JoinSet<()>) {
    tasks.spawn(supervisor::watchdog());
    let network = Arc::clone(&components.network);
    tasks.spawn(async move { network.watch().await });
    tasks.spawn(measure_usage(components.snapshots.clone()));
}

/// Measures writable layers again and again. A slow disk makes it rarer, never concurrent.
async fn measure_usage(snapshots: Snapshots) {
    let mut tick = tokio::time::interval(USAGE_AGE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let snapshots = snapshots.clone();
        let measuring = tokio::task::spawn_blocking(move || snapshots.refresh_usage(USAGE_AGE));
        match measuring.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot measure a writable layer"
                );
            }
            Err(error) => tracing::error!(%error, "measuring writable layers failed"),
        }
    }
}
