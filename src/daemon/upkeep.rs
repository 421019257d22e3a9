//! What goes on in the background while the daemon serves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::images::Images;
use crate::snapshots::Snapshots;

use super::components::Components;
use super::settled::{self, Settled};
use super::supervisor;

/// How often writable layers are measured while somebody wants to know their sizes. The
/// kubelet evicts pods by them and looks every 10 seconds; with the time that measuring
/// takes, what it sees is no older.
const USAGE_AGE: Duration = Duration::from_secs(8);

/// For how long somebody who has asked wants to know.
const USAGE_INTEREST: Duration = Duration::from_secs(120);

/// How long the intact layers of damaged images wait for the pulls that need them.
const REMAINS_AGE: Duration = Duration::from_secs(60 * 60);

/// Starts the background tasks; they end when the set is shut down.
pub(super) fn start(components: &Components, tasks: &mut JoinSet<()>) {
    tasks.spawn(supervisor::watchdog());
    let network = Arc::clone(&components.network);
    tasks.spawn(async move { network.watch().await });
    tasks.spawn(measure_usage(components.snapshots.clone()));
    tasks.spawn(settle(Arc::clone(&components.settled), components.snapshots.clone()));
    tasks.spawn(Arc::clone(&components.transfer).watch_pressure());
    let images = components.images.clone();
    tasks.spawn(async move { images.prefetch().await });
    let snapshots = components.snapshots.clone();
    tasks.spawn(async move { snapshots.give_back().await });
    tasks.spawn(let_remains_go(components.images.clone()));
}

/// Writes down again and again what surely is on the disk.
async fn settle(settled: Arc<Mutex<Settled>>, snapshots: Snapshots) {
    loop {
        tokio::time::sleep(settled::INTERVAL).await;
        let (settled, snapshots) = (Arc::clone(&settled), snapshots.clone());
        let advance =
            move || settled.lock().unwrap_or_else(PoisonError::into_inner).advance(&snapshots);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(advance).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "cannot write down what is on the disk");
        }
    }
}

/// Gives up what was kept of damaged images, when nobody has pulled them for long.
async fn let_remains_go(images: Images) {
    tokio::time::sleep(REMAINS_AGE).await;
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || images.let_remains_go()).await {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "cannot collect what was left of damaged images");
    }
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
