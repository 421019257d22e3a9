//! Removing images, and what is left when nothing refers to it any more.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard};

use tokio::task::JoinError;

use super::{FindError, Images, Store};
use crate::content::{ContentError, Digest};
use crate::metadata::MetadataError;
use crate::snapshots::Usage;

/// An image cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The name fits several images.
    #[error("cannot tell which image to remove")]
    Ambiguous(#[source] FindError),
    /// The row cannot be deleted; the image is still there.
    #[error("cannot remove image {id}")]
    Record {
        /// The image.
        id: Digest,
        /// The cause.
        #[source]
        source: MetadataError,
    },
    /// The image is gone, but what it consisted of cannot be deleted.
    #[error("cannot delete the content of a removed image")]
    Collect(#[source] CollectError),
    /// The thread that did the work is gone.
    #[error("removal of image {name:?} did not end")]
    Interrupted {
        /// The name as given.
        name: String,
        /// The cause.
        #[source]
        source: JoinError,
    },
}

/// What a collection deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs, and how many bytes each had.
    pub blobs: Vec<(Digest, u64)>,
    /// Layers, by diffID or the key of a synthetic one, and what each took of the disk.
    pub layers: Vec<(String, Usage)>,
}

/// What nothing refers to cannot be deleted.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Layers.
    #[error("cannot delete unused layers")]
    Layers(#[source] MetadataError),
    /// Blobs.
    #[error("cannot delete unused blobs")]
    Blobs(#[source] ContentError),
}

impl Collected {
    fn log(&self) {
        if *self == Self::default() {
            return;
        }
        let bytes = self.blobs.iter().map(|(_, bytes)| bytes).sum::<u64>()
            + self.layers.iter().map(|(_, usage)| usage.bytes).sum::<u64>();
        let (blobs, layers) = (self.blobs.len(), self.layers.len());
        tracing::info!(blobs, layers, bytes, "collected what nothing refers to");
        for (digest, bytes) in &self.blobs {
            tracing::debug!(%digest, bytes, "collected a blob");
        }
        for (layer, usage) in &self.layers {
            tracing::debug!(layer, bytes = usage.bytes, "collected a layer");
        }
    }
}

impl Images {
    /// Removes an image and all its references, by any name that [`Images::find`] knows. One
    /// that is not there is fine. Containers that run on it keep its layers. The disk is freed
    /// later.
    ///
    /// # Errors
    /// [`RemoveError`].
    ///
    /// # Cancel safety
    /// A removal that was begun is finished.
    pub async fn remove(&self, name: &str) -> Result<(), RemoveError> {
        let (store, wanted) = (Arc::clone(&self.0), name.to_owned());
        let removal = self.0.tasks.spawn_blocking(move || store.remove(&wanted));
        removal
            .await
            .map_err(|source| RemoveError::Interrupted { name: name.to_owned(), source })?
    }

    /// Deletes blobs and layers that no image, lease or active snapshot refers to; says which.
    /// Blocks.
    ///
    /// # Errors
    /// [`CollectError`].
    pub fn collect(&self) -> Result<Collected, CollectError> {
        self.0.collect(&self.0.changing())
    }
}

impl Store {
    fn remove(&self, name: &str) -> Result<(), RemoveError> {
        let changing = self.changing();
        let index = self.index.load_full();
        let Some(image) = index.find(name).map_err(RemoveError::Ambiguous)? else { return Ok(()) };
        self.metadata
            .delete_image(&image.id)
            .map_err(|source| RemoveError::Record { id: image.id.clone(), source })?;
        let mut without = Arc::unwrap_or_clone(index);
        without.remove(&image.id);
        self.index.store(Arc::new(without));
        self.collect(&changing).map(drop).map_err(RemoveError::Collect)
    }

    /// The guard shows that no commit is under way: what one needs is either leased or listed.
    pub(super) fn collect(
        &self,
        _changing: &MutexGuard<'_, ()>,
    ) -> Result<Collected, CollectError> {
        let index = self.index.load();
        let layers = index.iter().map(|image| image.layers.as_slice());
        let layers = self.snapshots.collect(layers).map_err(CollectError::Layers)?;
        let blobs: HashSet<Digest> =
            index.iter().flat_map(|image| image.blobs.iter().cloned()).collect();
        let blobs = self.content.collect(&blobs).map_err(CollectError::Blobs)?;
        let collected = Collected { blobs, layers };
        collected.log();
        Ok(collected)
    }
}
