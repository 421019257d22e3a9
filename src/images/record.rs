//! One image, as it is known in memory.

use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use super::config::{self, ConfigError, ImageUser};
use super::pins::Pins;
use crate::metadata::{Digest, ImageRow, Pinning};

/// An image. It never changes: a change of its names makes another value.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of the configuration.
    pub id: Digest,
    /// The digest of the platform's manifest.
    pub manifest: Digest,
    /// The diffIDs of the layers, lowest first; what a snapshot is prepared from.
    pub layers: Vec<Digest>,
    /// The blobs that are kept for it.
    pub blobs: Vec<Digest>,
    /// References with a tag, sorted.
    pub tags: Vec<String>,
    /// References with a digest, sorted.
    pub digests: Vec<String>,
    /// Bytes of the unpacked layers and of the image's own content; never zero.
    pub size_bytes: u64,
    /// Whether the kubelet's garbage collection must leave it alone.
    pub pinned: Pinning,
    /// The configuration.
    pub config: Arc<ImageConfiguration>,
    /// The configuration as it was received.
    pub config_bytes: Arc<[u8]>,
}

impl Image {
    pub(super) fn from_row(row: ImageRow, pins: &Pins) -> Result<Self, ConfigError> {
        let parsed = config::parse(&row.config)?;
        let (digests, tags): (Vec<String>, Vec<String>) =
            row.references.into_iter().partition(|reference| reference.contains('@'));
        let mut image = Self {
            id: row.id,
            manifest: row.manifest,
            layers: row.layers,
            blobs: row.blobs,
            tags,
            digests,
            size_bytes: row.size,
            pinned: row.pinned,
            config: Arc::new(parsed),
            config_bytes: row.config.into(),
        };
        image.settle(pins);
        Ok(image)
    }

    /// The row of this image.
    pub(super) fn to_row(&self) -> ImageRow {
        ImageRow {
            id: self.id.clone(),
            manifest: self.manifest.clone(),
            layers: self.layers.clone(),
            blobs: self.blobs.clone(),
            config: self.config_bytes.to_vec(),
            size: self.size_bytes,
            pinned: self.pinned,
            references: self.references().cloned().collect(),
        }
    }

    /// Takes over the names and blobs of an older value of the same image.
    pub(super) fn absorb(&mut self, older: &Self, pins: &Pins) {
        self.tags.extend_from_slice(&older.tags);
        self.digests.extend_from_slice(&older.digests);
        self.blobs.extend_from_slice(&older.blobs);
        self.size_bytes = self.size_bytes.max(older.size_bytes);
        self.settle(pins);
    }

    /// Takes names away that another image has got.
    pub(super) fn without(&self, taken: &Self, pins: &Pins) -> Self {
        let mut image = self.clone();
        image.tags.retain(|tag| !taken.tags.contains(tag));
        image.digests.retain(|digest| !taken.digests.contains(digest));
        image.settle(pins);
        image
    }

    /// As it is without one of its kept blobs.
    pub(super) fn without_blob(&self, digest: &Digest) -> Self {
        let mut image = self.clone();
        image.blobs.retain(|blob| blob != digest);
        image
    }

    /// Puts everything into the one order that it is always listed in.
    pub(super) fn settle(&mut self, pins: &Pins) {
        for list in [&mut self.tags, &mut self.digests] {
            list.sort_unstable();
            list.dedup();
        }
        self.blobs.sort_unstable();
        self.blobs.dedup();
        let pinned = self.references().any(|reference| pins.has(reference));
        self.pinned = if pinned { Pinning::Pinned } else { Pinning::Unpinned };
    }

    /// Whether there is nothing to write when `self` takes the place of `older`.
    pub(super) fn says_the_same(&self, older: &Self) -> bool {
        self.to_row() == older.to_row()
    }

    /// All references, tags first.
    pub fn references(&self) -> impl Iterator<Item = &String> {
        self.tags.iter().chain(&self.digests)
    }

    /// The user that the image's process runs as.
    #[must_use]
    pub fn user(&self) -> ImageUser {
        let user = self.config.config().as_ref().and_then(|config| config.user().as_deref());
        ImageUser::parse(user.unwrap_or_default())
    }
}
