//! Images: which there are, what they are called, and how they come and go.
//!
//! Terms. An image is known by its *id*, the digest of its configuration. It has *tags*
//! (`name:tag`) and *digests* (`name@digest`), together its references; a reference names one
//! image, and giving it to another takes it away from the first.
//!
//! Invariants:
//! - Every listed image is whole: its layers are unpacked, its configuration is readable, both
//!   are on disk. It is listed from the moment that the pull returns.
//! - [`Images::list`] and [`Images::find`] read a snapshot in memory and wait for nothing.
//! - Changes are made by blocking threads one at a time: the database first, then the snapshot.
//! - A change that was begun is finished, whoever stops waiting for it.
//! - What no image, lease or active snapshot refers to is collected: after a removal, after a
//!   pull that failed, and at the start.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/config.md>

mod config;
mod import;
mod index;
mod pins;
mod prefetch;
mod pull;
mod record;
mod remove;
mod store;
mod transfer;

pub use crate::metadata::Pinning;
pub use crate::transfer::{
    ArchiveFormat, AuthFields, Credentials, CredentialsError, Destination, Explained, Fault,
    Layered, Platform, Progress, PullFailure, Recompressed, Reference, ReferenceError,
    SessionError, Source, Totals, Transfer, Verdict,
};
pub use config::{ConfigError, ImageUser};
pub use import::ImportError;
pub use index::FindError;
pub use prefetch::{Prefetch, Prefetching};
pub use pull::{CommitError, PullError};
pub use record::Image;
pub use remove::{CollectError, Collected, RemoveError};
pub use store::{BlobListed, ContentRemoveError, Reason, SnapshotListed, is_containers};
pub use transfer::{TransferError, Transferred};

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use crate::content::ContentStore;
use crate::metadata::{Metadata, MetadataError};
use crate::snapshots::{LayerLease, Snapshots, Usage};
use crate::transfer::Pipeline;
use index::Index;
use pins::Pins;
use prefetch::Gate;
use pull::Flights;

/// What may be configured about images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// References that the kubelet's garbage collection must leave alone, as they are written
    /// out in full; a `*` at the end stands for anything.
    pub pinned_images: Vec<String>,
    /// What is to be there before anybody asks.
    pub prefetch: Prefetch,
}

/// All images of one root directory. A clone is another handle of the same store.
#[derive(Debug, Clone)]
pub struct Images(Arc<Store>);

#[derive(Debug)]
struct Store {
    config: Config,
    pins: Pins,
    /// Held while the node is not ready for want of images.
    gate: Mutex<Option<Gate>>,
    metadata: Arc<Metadata>,
    content: ContentStore,
    snapshots: Snapshots,
    transfer: Arc<Pipeline>,
    /// What readers see.
    index: ArcSwap<Index>,
    /// Held by whoever changes the index or decides what is collected.
    changing: Mutex<()>,
    flights: Mutex<Flights>,
    /// What is left of damaged images: their intact layers, for the pulls that will come.
    remains: Mutex<Vec<LayerLease>>,
    tasks: TaskTracker,
}

/// The images cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The rows cannot be read.
    #[error("cannot load images")]
    Load(#[source] MetadataError),
    /// An image that is not whole cannot be forgotten.
    #[error("cannot forget a damaged image")]
    Forget(#[source] MetadataError),
    /// What nothing refers to cannot be deleted.
    #[error("cannot delete what no image refers to")]
    Collect(#[source] CollectError),
}

/// What images and containers take of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// A directory on the file system of the layers.
    pub directory: PathBuf,
    /// Layers, blobs and the database.
    pub images: Usage,
    /// What containers have written.
    pub containers: Usage,
}

impl Images {
    /// Loads what there is, forgets what is not whole, and collects what nothing refers to. The
    /// intact layers of an image that is not whole stay until [`Images::let_remains_go`], so that
    /// a pull fetches the others alone. Blocks. `transfer` is to work on the same `content` and `snapshots`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        config: Config,
        metadata: Arc<Metadata>,
        content: ContentStore,
        snapshots: Snapshots,
        transfer: Arc<Pipeline>,
    ) -> Result<Self, OpenError> {
        let pins = Pins::new(&config);
        let mut archived = HashSet::new();
        let mut index = Index::default();
        let mut remains = Vec::new();
        for row in metadata.load_images().map_err(OpenError::Load)? {
            let id = row.id.clone();
            if config.prefetch.archives.is_some() && row.pinned == Pinning::Pinned {
                // Until the archives are read, what they pinned before stays.
                archived.extend(row.references.iter().filter(|name| !pins.has(name)).cloned());
                pins.set_archived(archived.clone());
            }
            let whole = snapshots.has_layers(&row.layers)
                && row.blobs.iter().all(|digest| content.blob(digest).is_some());
            let intact: Vec<_> =
                row.layers.iter().filter_map(|layer| snapshots.lease(layer)).collect();
            match Image::from_row(row, &pins) {
                Ok(image) if whole => index.insert(Arc::new(image)),
                Ok(_) | Err(_) => {
                    remains.extend(intact);
                    tracing::warn!(image.id = %id, "an image is damaged and has to be pulled again");
                    metadata.delete_image(&id).map_err(OpenError::Forget)?;
                }
            }
        }
        let images = Self(Arc::new(Store {
            gate: Mutex::new(Gate::new(&config.prefetch)),
            config,
            pins,
            metadata,
            content,
            snapshots,
            transfer,
            index: ArcSwap::from_pointee(index),
            changing: Mutex::new(()),
            flights: Mutex::default(),
            remains: Mutex::new(remains),
            tasks: TaskTracker::new(),
        }));
        images.0.collect(&images.0.changing()).map_err(OpenError::Collect)?;
        Ok(images)
    }

    /// All images, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.index.load().list()
    }

    /// The image of this name: an id (with or without `sha256:`, whole or its unambiguous
    /// beginning), a tag, or `name@digest`; short names are completed as for a pull. `None` when
    /// there is no such image, or the text cannot be a name.
    ///
    /// # Errors
    /// [`FindError`] when the beginning of an id fits several images.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>, FindError> {
        self.0.index.load().find(name)
    }

    /// What images and containers take of the disk. Containers count as when they were last
    /// measured; see [`Snapshots::refresh_usage`]. Walks no directory.
    #[must_use]
    pub fn fs_usage(&self) -> FsUsage {
        let content = self.0.content.usage();
        let blobs = Usage { bytes: content.bytes, inodes: content.inodes };
        let (bytes, inodes) = self.0.metadata.disk_usage();
        let records = Usage { bytes, inodes };
        FsUsage {
            directory: self.0.snapshots.directory().to_owned(),
            images: self.0.snapshots.layer_usage() + blobs + records,
            containers: self.0.snapshots.active_usage(),
        }
    }

    /// Gives up what was left of damaged images when the daemon started, and has not been pulled
    /// again. Blocks.
    ///
    /// # Errors
    /// [`CollectError`].
    pub fn let_remains_go(&self) -> Result<Collected, CollectError> {
        drop(std::mem::take(&mut *self.0.remains.lock().unwrap_or_else(PoisonError::into_inner)));
        self.collect()
    }

    /// The directory of the blobs.
    #[must_use]
    pub fn content_directory(&self) -> &Path {
        self.0.content.directory()
    }

    /// Stops all pulls and waits until what they left is cleaned up. Nothing may be begun
    /// meanwhile.
    pub async fn close(&self) {
        self.0.flights().cancel_all();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.transfer.finish().await;
        // What a thread finished after its pull had been given up.
        self.0.collect_leftovers().await;
    }
}

impl Store {
    /// Taking over after a panic is sound: the index is exchanged as a whole, and last.
    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
