//! Looking into the store: blobs, layers, snapshots, and why each of them is there.

use std::fs::File;
use std::sync::Arc;

use super::{Collected, Images, Store};
use crate::content::{ContentError, Digest};
use crate::metadata::MetadataError;
use crate::snapshots::{ActiveError, SnapshotKey, Usage, UsageError};

/// Why an object of the store is not collected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is part of an image.
    Image {
        /// The image's id.
        id: Digest,
        /// Its references.
        references: Vec<String>,
        /// What the object is to it.
        role: &'static str,
    },
    /// A transfer or a mount holds it now.
    Leases(usize),
    /// A snapshot stands on it.
    Snapshot(SnapshotKey),
}

/// A blob in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobListed {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
    /// How many transfers hold it now.
    pub leases: usize,
    /// How many images it is part of.
    pub images: usize,
}

/// A snapshot in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotListed {
    /// The key of an active one, or the diffID of a layer.
    pub name: String,
    /// What it takes of the disk.
    pub usage: Usage,
    /// Whether it is a layer or a writable snapshot.
    pub kind: &'static str,
}

/// A blob cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum ContentRemoveError {
    /// There is no such blob.
    #[error("there is no blob {0}")]
    NotFound(Digest),
    /// Something needs it.
    #[error("{digest} is in use: {why}")]
    InUse {
        /// The blob.
        digest: Digest,
        /// By what.
        why: String,
    },
    /// The image that it belonged to cannot be written.
    #[error("cannot record that {digest} is gone")]
    Record {
        /// The blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: MetadataError,
    },
    /// It cannot be deleted.
    #[error("cannot delete unused blobs")]
    Collect(#[source] super::CollectError),
    /// The thread that did the work is gone.
    #[error("the removal did not end")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image { id, references, role } if references.is_empty() => {
                write!(f, "{role} of image {id}")
            }
            Self::Image { id, references, role } => {
                write!(f, "{role} of image {} ({id})", references.join(", "))
            }
            Self::Leases(1) => f.write_str("1 lease: a transfer or a mount uses it now"),
            Self::Leases(count) => write!(f, "{count} leases: transfers or mounts use it now"),
            Self::Snapshot(key) if is_containers(key) => {
                write!(f, "layer below snapshot {key}, which a container has")
            }
            Self::Snapshot(key) => write!(f, "layer below snapshot {key}"),
        }
    }
}

impl Images {
    /// Every blob, by digest, and how many things keep it.
    #[must_use]
    pub fn blobs(&self) -> Vec<BlobListed> {
        let index = self.0.index.load();
        let listed = self.0.content.list().into_iter().map(|(digest, bytes)| BlobListed {
            leases: self.0.content.leases(&digest),
            images: index.iter().filter(|image| image.blobs.contains(&digest)).count(),
            digest,
            bytes,
        });
        listed.collect()
    }

    /// Deletes what nothing refers to, and says what that was.
    ///
    /// # Errors
    /// [`ContentRemoveError`].
    ///
    /// # Cancel safety
    /// A collection that was begun is finished.
    pub async fn sweep(&self) -> Result<Collected, ContentRemoveError> {
        let images = self.clone();
        let sweeping = self.0.tasks.spawn_blocking(move || images.collect());
        let swept = sweeping.await.map_err(ContentRemoveError::Interrupted)?;
        swept.map_err(ContentRemoveError::Collect)
    }

    /// Opens a blob. Blocks.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ContentError> {
        self.0.content.open_blob(digest)
    }

    /// Why a blob or a layer is there. `None` when it is not; empty when nothing keeps it.
    #[must_use]
    pub fn why(&self, digest: &Digest) -> Option<Vec<Reason>> {
        self.0.why(digest)
    }

    /// Deletes a blob that nothing needs: one that nobody refers to, or a compressed layer that
    /// was kept although it is unpacked.
    ///
    /// # Errors
    /// [`ContentRemoveError`].
    ///
    /// # Cancel safety
    /// A removal that was begun is finished.
    pub async fn remove_blob(&self, digest: &Digest) -> Result<(), ContentRemoveError> {
        let (store, digest) = (Arc::clone(&self.0), digest.clone());
        let removal = self.0.tasks.spawn_blocking(move || store.remove_blob(&digest));
        removal.await.map_err(ContentRemoveError::Interrupted)?
    }

    /// All layers and all writable snapshots; the latter are measured now. Blocks.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn snapshots(&self) -> Result<Vec<SnapshotListed>, UsageError> {
        let layers = self.0.snapshots.layers().into_iter();
        let layers = layers.map(|(name, usage)| SnapshotListed { name, usage, kind: "layer" });
        let mut listed: Vec<_> = layers.collect();
        for key in self.0.snapshots.keys() {
            if let Some(usage) = self.0.snapshots.usage(&key)? {
                let name = key.as_str().to_owned();
                listed.push(SnapshotListed { name, usage, kind: "active" });
            }
        }
        Ok(listed)
    }

    /// Removes a writable snapshot. Whether a container has it is for the caller to know. Blocks.
    ///
    /// # Errors
    /// [`ActiveError`].
    pub fn remove_snapshot(&self, key: &SnapshotKey) -> Result<(), ActiveError> {
        self.0.snapshots.remove(key)
    }
}

/// Whether a snapshot is, by its key, that of a container or of a mount in one: such a key
/// begins with the container's id.
#[must_use]
pub fn is_containers(key: &SnapshotKey) -> bool {
    let owner = key.as_str().split('-').next().unwrap_or_default();
    owner.len() == 64 && owner.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Store {
    fn why(&self, digest: &Digest) -> Option<Vec<Reason>> {
        let blob = self.content.blob(digest).is_some();
        let layer = self.snapshots.claims(digest);
        if !blob && layer.is_none() {
            return None;
        }
        let index = self.index.load();
        let mut reasons: Vec<Reason> = index
            .iter()
            .filter_map(|image| {
                let role = if image.id == *digest {
                    "configuration"
                } else if image.manifest == *digest {
                    "manifest"
                } else if image.digests.iter().any(|name| name.ends_with(&digest.to_string())) {
                    "index"
                } else if image.layers.contains(digest) {
                    "layer"
                } else if image.blobs.contains(digest) {
                    "compressed layer"
                } else {
                    return None;
                };
                let references = image.references().cloned().collect();
                Some(Reason::Image { id: image.id.clone(), references, role })
            })
            .collect();
        let (layer_leases, keys) = layer.unwrap_or_default();
        let leases = layer_leases + self.content.leases(digest);
        if leases > 0 {
            reasons.push(Reason::Leases(leases));
        }
        reasons.extend(keys.into_iter().map(Reason::Snapshot));
        Some(reasons)
    }

    fn remove_blob(&self, digest: &Digest) -> Result<(), ContentRemoveError> {
        let changing = self.changing();
        if self.content.blob(digest).is_none() {
            return Err(ContentRemoveError::NotFound(digest.clone()));
        }
        let needed = self
            .why(digest)
            .unwrap_or_default()
            .into_iter()
            .find(|reason| !matches!(reason, Reason::Image { role: "compressed layer", .. }));
        if let Some(reason) = needed {
            let why = reason.to_string();
            return Err(ContentRemoveError::InUse { digest: digest.clone(), why });
        }
        let mut index = Arc::unwrap_or_clone(self.index.load_full());
        for image in index.list() {
            if image.blobs.contains(digest) {
                let image = Arc::new(image.without_blob(digest));
                self.metadata.commit_image(&image.to_row(), &[]).map_err(|source| {
                    ContentRemoveError::Record { digest: digest.clone(), source }
                })?;
                self.list(&mut index, &image);
            }
        }
        self.index.store(Arc::new(index));
        self.collect(&changing).map(drop).map_err(ContentRemoveError::Collect)
    }
}
