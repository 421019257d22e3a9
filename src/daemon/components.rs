//! The components, built in the order in which they depend on each other.

use std::sync::{Arc, Mutex, PoisonError};

use sandbox::controller::executable::Executable;

use crate::content::{ContentError, ContentStore};
use crate::images::{self, Images};
use crate::metadata::{self, Metadata};
use crate::network::{self, Network};
use crate::pods::{self, Pods};
use crate::snapshots::{self, Snapshots};
use crate::transfer::{Pipeline, RecheckError};

use super::Config;
use super::predecessor::outlast;
use super::settled::{self, Settled, SettledError};

/// Why a component does not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The database; of note when another daemon has the root directory.
    #[error(transparent)]
    Metadata(#[from] metadata::OpenError),
    /// The content store.
    #[error("cannot open the content store")]
    Content {
        /// The component's reason.
        #[source]
        source: ContentError,
    },
    /// The snapshotter.
    #[error("cannot open the snapshots")]
    Snapshots {
        /// The component's reason.
        #[source]
        source: snapshots::OpenError,
    },
    /// What is surely on the disk cannot be told.
    #[error(transparent)]
    Settled(#[from] SettledError),
    /// What was not settled before a power cut cannot be looked at.
    #[error("cannot check what was written before the power was cut")]
    Recheck {
        /// The reason.
        #[source]
        source: RecheckError,
    },
    /// The images.
    #[error("cannot open the images")]
    Images {
        /// The component's reason.
        #[source]
        source: images::OpenError,
    },
    /// The pods' network.
    #[error("cannot start the network")]
    Network {
        /// The component's reason.
        #[source]
        source: network::StartError,
    },
    /// The pods.
    #[error("cannot start the pods")]
    Pods {
        /// The component's reason.
        #[source]
        source: pods::StartError,
    },
}

/// All components; what serves is made from them.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) pods: Pods,
    pub(super) snapshots: Snapshots,
    pub(super) images: Images,
    pub(super) network: Arc<Network>,
    pub(super) settled: Arc<Mutex<Settled>>,
    pub(super) transfer: Arc<Pipeline>,
}

/// Builds them, and recovers the pods of an earlier daemon: when this returns, RPCs may be
/// answered.
///
/// # Errors
/// [`BuildError`] names the component.
pub(super) async fn build(config: &Config) -> Result<Components, BuildError> {
    let executable = tokio::task::spawn_blocking(Executable::seal_self);
    let metadata = Arc::new(outlast(
        || Metadata::open(&config.root),
        |error| matches!(error, metadata::OpenError::InUse { .. }),
    )?);
    let content = ContentStore::open(&config.root.join("content"))
        .map_err(|source| BuildError::Content { source })?;
    let (directory, rows) = (config.root.join("snapshots"), Arc::clone(&metadata));
    let snapshots = Snapshots::open_as(&directory, rows, config.snapshots.clone())
        .map_err(|source| BuildError::Snapshots { source })?;
    let transfer = Pipeline::new(config.transfer.clone(), content.clone(), snapshots.clone());
    let transfer = Arc::new(transfer);
    let settled = Arc::new(Mutex::new(settle(config, &transfer, &snapshots).await?));
    let images = Images::open(
        config.images.clone(),
        Arc::clone(&metadata),
        content,
        snapshots.clone(),
        Arc::clone(&transfer),
    )
    .map_err(|source| BuildError::Images { source })?;
    let network =
        Network::new(config.network.clone()).map_err(|source| BuildError::Network { source })?;
    let network = Arc::new(network);
    let stores = pods::Stores {
        metadata,
        images: images.clone(),
        snapshots: snapshots.clone(),
        network: Arc::clone(&network),
        executable,
    };
    let pods = Pods::start(config.pods.clone(), stores)
        .await
        .map_err(|source| BuildError::Pods { source })?;
    Ok(Components { pods, snapshots, images, network, settled, transfer })
}

/// After a power cut takes damaged layers and blobs out, before anybody could find them.
async fn settle(
    config: &Config,
    transfer: &Pipeline,
    snapshots: &Snapshots,
) -> Result<Settled, BuildError> {
    if let Some(mark) = settled::left_behind(&config.root)? {
        let recheck = transfer.recheck(mark.layer, mark.since()).await;
        let found = recheck.map_err(|source| BuildError::Recheck { source })?;
        tracing::info!(
            intact = found.intact,
            damaged = found.damaged.len(),
            "the machine went down under an earlier daemon; what it wrote last was verified"
        );
        for digest in &found.damaged {
            tracing::warn!(%digest, "a layer or blob did not survive and has to be pulled again");
        }
    }
    Ok(settled::begin(&config.root, snapshots)?)
}

impl Components {
    /// Stops what is under way, and gives the host back what no pod needs.
    pub(super) async fn close(&self) {
        let network = async {
            if let Err(error) = self.network.shutdown().await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "cannot remove the built-in network");
            }
        };
        tokio::join!(self.images.close(), network, self.pods.close());
        let settled = Arc::clone(&self.settled);
        let end = move || settled.lock().unwrap_or_else(PoisonError::into_inner).end();
        match tokio::task::spawn_blocking(end).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "cannot say that all is on the disk");
            }
            Err(error) => tracing::warn!(%error, "cannot say that all is on the disk"),
        }
    }
}
