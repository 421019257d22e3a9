//! An image of the store as the source of a transfer: its documents, and its layers in
//! whichever form they are here.
//!
//! A layer whose blob was kept goes out as it came. One whose blob was dropped is made again
//! from its directory (`unpack::rebuild`): its archive, and so its diffID and the image's id,
//! are the same; compressed anew it has another digest, so the manifest changes, and whoever
//! asked is told. Refusing was weighed: it would make dropping blobs, the default, a trap.
//! Invariant: everything is leased before the first byte goes out.

use std::io::Read;
use std::sync::Arc;

use serde_json::Value;

use super::manifest::{self, DOCKER_MANIFEST, Descriptor, Manifest, ManifestError};
use super::pull::Pipeline;
use super::tasks::Lost;
use super::unpack::{Rebuild, RebuildError};
use crate::content::{Blob, ContentError, ContentStore, Digest};
use crate::snapshots::{LayerLease, Snapshots};

/// What is known of an image that is to go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest of its configuration.
    pub config: Digest,
    /// The diffIDs of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// Its references with a digest: repositories that have its blobs.
    pub digests: Vec<String>,
}

/// A layer that goes out in another form than it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recompressed {
    /// What the image's manifest names.
    pub was: Digest,
    /// What goes out.
    pub is: Digest,
}

/// An image of the store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// A document of it is not in the store, or damaged.
    #[error("cannot read {digest} of the image")]
    Document {
        /// The document.
        digest: Digest,
        /// The cause.
        #[source]
        source: ContentError,
    },
    /// Its manifest is not one, or does not fit.
    #[error("cannot read the image's manifest {digest}")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// The cause.
        #[source]
        source: ManifestError,
    },
    /// A layer of it is gone.
    #[error("layer {0} of the image is not unpacked")]
    LayerMissing(Digest),
    /// A layer's blob was dropped and its archive cannot be made again.
    #[error(
        "the blob of layer {digest} was dropped when it was unpacked, and cannot be made again; \
         with `keep_blobs = true` in [images] layers that are pulled are kept as they came"
    )]
    Dropped {
        /// The compressed layer.
        digest: Digest,
        /// Why not.
        #[source]
        source: Box<RebuildError>,
    },
    /// A layer came encrypted; what is here of it is not.
    #[error(
        "layer {0} is encrypted and its blob was dropped when it was unpacked; it is not given out \
         unencrypted; with `keep_blobs = true` in [images] layers that are pulled are kept as they came"
    )]
    Encrypted(Digest),
    /// A layer's blob cannot be read.
    #[error("cannot read the blob of layer {digest}")]
    Blob {
        /// The compressed layer.
        digest: Digest,
        /// The cause.
        #[source]
        source: ContentError,
    },
    /// The thread that did the work is gone.
    #[error("cannot wait for the work of a transfer")]
    Task(#[source] Lost),
}

/// An image of the store, leased.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) manifest: Vec<u8>,
    pub(super) manifest_digest: Digest,
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) config_bytes: Vec<u8>,
    /// Lowest first.
    pub(super) layers: Vec<Arc<OutgoingLayer>>,
}

/// A layer of it.
#[derive(Debug)]
pub(super) struct OutgoingLayer {
    /// As the manifest names it.
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    _lease: LayerLease,
    /// Where the blob is kept.
    blob: Option<Blob>,
}

/// The bytes of a layer, in the form that is here.
pub(super) enum LayerBytes {
    /// The blob that the manifest names.
    Blob(Box<dyn Read + Send>),
    /// The archive, uncompressed, and its length.
    Archive(Box<Rebuild>),
}

impl Pipeline {
    /// Leases and reads all of an image but its layers.
    pub(super) async fn outgoing(&self, image: &StoredImage) -> Result<Outgoing, StoredError> {
        let (content, snapshots) = (self.content.clone(), self.snapshots.clone());
        let (config, image) = (self.config.clone(), image.clone());
        let limits = (config.max_manifest_bytes, config.max_config_bytes);
        let read =
            self.tasks.run_blocking(move || read(&content, &snapshots, &image, limits)).await;
        read.map_err(StoredError::Task)?
    }
}

fn read(
    content: &ContentStore,
    snapshots: &Snapshots,
    image: &StoredImage,
    (manifest_max, config_max): (u64, u64),
) -> Result<Outgoing, StoredError> {
    let document = |digest: &Digest, limit| {
        content
            .read(digest, limit)
            .map_err(|source| StoredError::Document { digest: digest.clone(), source })
    };
    let bytes = document(&image.manifest, manifest_max)?;
    let invalid = |source| StoredError::Manifest { digest: image.manifest.clone(), source };
    let parsed = manifest::parse(&bytes, None).map_err(invalid)?;
    let media_type = manifest::media_type_of(&bytes, None, &parsed);
    let parts = match parsed {
        Manifest::Image(parts) if parts.layers.len() == image.layers.len() => parts,
        Manifest::Image(_) | Manifest::Index(_) => {
            let text = "it does not fit the image".to_owned();
            return Err(invalid(ManifestError::Ambiguous(text)));
        }
    };
    let layers = parts.layers.into_iter().zip(&image.layers).map(|(descriptor, diff_id)| {
        let lease = snapshots.lease(diff_id);
        Ok(Arc::new(OutgoingLayer {
            _lease: lease.ok_or_else(|| StoredError::LayerMissing(diff_id.clone()))?,
            blob: content.blob(&descriptor.digest),
            diff_id: diff_id.clone(),
            descriptor,
        }))
    });
    Ok(Outgoing {
        manifest_digest: image.manifest.clone(),
        media_type,
        config_bytes: document(&parts.config.digest, config_max)?,
        config: parts.config,
        layers: layers.collect::<Result<_, StoredError>>()?,
        manifest: bytes,
    })
}

impl OutgoingLayer {
    /// Opens the layer in the best form that is here. Blocks.
    pub(super) fn open(
        &self,
        content: &ContentStore,
        snapshots: &Snapshots,
    ) -> Result<LayerBytes, StoredError> {
        let digest = || self.descriptor.digest.clone();
        if self.blob.is_some() {
            let file = content.open_blob(&self.descriptor.digest);
            let file = file.map_err(|source| StoredError::Blob { digest: digest(), source })?;
            return Ok(LayerBytes::Blob(Box::new(file)));
        }
        let rebuild = self.archive(snapshots)?;
        if self.descriptor.digest == self.diff_id {
            return Ok(LayerBytes::Blob(Box::new(rebuild)));
        }
        Ok(LayerBytes::Archive(Box::new(rebuild)))
    }

    /// Opens the layer's archive, made again; not that of an encrypted one. Blocks.
    pub(super) fn archive(&self, snapshots: &Snapshots) -> Result<Rebuild, StoredError> {
        if self.descriptor.envelope.is_some() {
            return Err(StoredError::Encrypted(self.descriptor.digest.clone()));
        }
        let lease = snapshots.lease(&self.diff_id);
        let lease = lease.ok_or_else(|| StoredError::LayerMissing(self.diff_id.clone()))?;
        Rebuild::open(&self.diff_id, lease).map_err(|source| StoredError::Dropped {
            digest: self.descriptor.digest.clone(),
            source: Box::new(source),
        })
    }

    /// Whether the blob that the manifest names is here, or comes out again.
    pub(super) fn is_as_it_came(&self) -> bool {
        self.blob.is_some() || self.descriptor.digest == self.diff_id
    }
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Tar,
    Gzip,
}

/// What a layer is called in a manifest of `manifest_type`.
pub(super) fn layer_type(manifest_type: &str, packing: Packing) -> &'static str {
    match (manifest_type, packing) {
        (DOCKER_MANIFEST, Packing::Tar) => "application/vnd.docker.image.rootfs.diff.tar",
        (DOCKER_MANIFEST, Packing::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (_, Packing::Tar) => "application/vnd.oci.image.layer.v1.tar",
        (_, Packing::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
    }
}

/// The manifest with these layers in place of its own; the very bytes when they are its own.
///
/// # Errors
/// When it is not the JSON that was parsed before.
pub(super) fn with_layers(
    outgoing: &Outgoing,
    layers: &[Descriptor],
) -> Result<(Vec<u8>, Vec<Recompressed>), serde_json::Error> {
    let pairs = || outgoing.layers.iter().map(|layer| &layer.descriptor).zip(layers);
    let changed: Vec<Recompressed> = pairs()
        .filter(|(was, is)| was.digest != is.digest)
        .map(|(was, is)| Recompressed { was: was.digest.clone(), is: is.digest.clone() })
        .collect();
    if changed.is_empty() {
        return Ok((outgoing.manifest.clone(), changed));
    }
    let mut document: Value = serde_json::from_slice(&outgoing.manifest)?;
    if let Some(Value::Array(entries)) = document.get_mut("layers") {
        for (entry, (was, is)) in entries.iter_mut().zip(pairs()) {
            if was.digest != is.digest {
                // Annotations are about the other bytes.
                *entry = serde_json::json!({
                    "mediaType": is.media_type, "digest": is.digest, "size": is.size,
                });
            }
        }
    }
    Ok((serde_json::to_vec(&document)?, changed))
}
