//! Images from an archive: an OCI image layout, or what `docker save` writes, as tar.
//!
//! An archive may hold its files in any order, so they go into the content store as they come,
//! verified where they are named by a digest; then the index is read and the layers are
//! unpacked. Invariants: nothing of an archive's length is ever in memory, names and small
//! documents are bounded; everything is leased, so that what is not committed is collected; an
//! archive is read in the same strict way as a registry's answers.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

mod docker;
mod gather;
mod oci;

use std::io::{self, Read};
use std::sync::Arc;

use super::config_blob::{self, ConfigError};
use super::decryption::{DecryptError, Keys, Opened, plain};
use super::manifest::{Descriptor, ManifestError};
use super::platform::Platform;
use super::pull::Pipeline;
use super::reference::Reference;
use super::tasks::Lost;
use super::unpack::{ArchiveError, UnpackError, unpack};
use crate::content::{Blob, ContentError, ContentStore, Digest};
use crate::snapshots::{LayerLease, LayerSlot};
use crate::transfer::config::LayerBlobs;
use gather::Files;

/// Images cannot be taken from an archive.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive is not one, or breaks off.
    #[error("read the archive of images")]
    Archive(#[source] ArchiveError),
    /// The archive cannot be decompressed to its end, or a layer in it cannot be unpacked.
    #[error("unpack the archive of images")]
    Unpack(#[from] UnpackError),
    /// An encrypted layer in it cannot be decrypted.
    #[error("cannot decrypt layer {digest} of the archive")]
    Decrypt {
        /// The layer as it is in the archive.
        digest: Digest,
        /// The cause.
        #[source]
        source: DecryptError,
    },
    /// There are too many files for an archive of images.
    #[error("the archive has more than {0} files")]
    TooManyFiles(usize),
    /// A file cannot be stored, or is not what its name promises.
    #[error("store {name:?} of the archive")]
    Store {
        /// The file's name in the archive.
        name: String,
        /// The cause.
        #[source]
        source: ContentError,
    },
    /// It is an archive, but not of images.
    #[error("the archive has neither index.json nor manifest.json")]
    NoIndex,
    /// Something that the index leads to is not in the archive.
    #[error("the archive does not have {0}")]
    Missing(String),
    /// A document is not the JSON it should be.
    #[error("parse {name} of the archive")]
    Document {
        /// The file's name in the archive.
        name: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest is not one, or can be read in two ways.
    #[error("read manifest {digest} of the archive")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// The fault.
        #[source]
        source: ManifestError,
    },
    /// An image configuration does not fit its manifest.
    #[error("read config {digest} of the archive")]
    Config {
        /// The image configuration.
        digest: Digest,
        /// The fault.
        #[source]
        source: ConfigError,
    },
    /// No image in the archive is built for this machine.
    #[error("the archive has no image for {0}")]
    NoPlatform(Platform),
    /// A name that the archive gives is no reference.
    #[error("the archive names an image {name:?}")]
    Name {
        /// The name.
        name: String,
        /// The fault.
        #[source]
        source: super::reference::ReferenceError,
    },
    /// The thread that did the work is gone.
    #[error("the import was lost")]
    Task(#[source] Lost),
}

/// An image of an archive whose files are in the content store.
#[derive(Debug)]
pub struct ArchivedImage {
    references: Vec<Reference>,
    /// What the archive's index names; none where the archive has no manifests.
    target: Option<Digest>,
    manifest: Digest,
    config: Digest,
    config_bytes: Vec<u8>,
    layers: Vec<(Descriptor, Digest)>,
    documents: Vec<Blob>,
    layer_blobs: Vec<Blob>,
}

/// An image of an archive, unpacked and leased, and not yet recorded anywhere.
#[derive(Debug)]
pub struct Imported {
    /// The names that the archive gives to it.
    pub references: Vec<Reference>,
    /// What the archive's index names; `None` where the archive has no manifests of its own,
    /// so that no registry can know the digest.
    pub target: Option<Digest>,
    /// The manifest.
    pub manifest: Digest,
    /// The image configuration; its digest is the image's id.
    pub config: Digest,
    /// The image configuration as it came.
    pub config_bytes: Vec<u8>,
    /// The diffIDs of the layers with the claims on them, bottom first.
    pub layers: Vec<(Digest, LayerLease)>,
    /// Leases on the blobs that are to be kept.
    pub blobs: Vec<Blob>,
}

impl Pipeline {
    /// Reads a whole archive and finds the images in it that run on this machine.
    ///
    /// # Errors
    /// [`ImportError`]; what was stored is collected.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; the work ends with its source.
    pub async fn open_archive(
        &self,
        source: impl Read + Send + 'static,
    ) -> Result<Vec<ArchivedImage>, ImportError> {
        let content = self.content.clone();
        let limits = Limits {
            manifest_bytes: self.config.max_manifest_bytes,
            config_bytes: self.config.max_config_bytes,
        };
        let read = move || {
            let files = gather::gather(source, &content)?;
            let reader = Reader { content, files, limits, platform: Platform::host() };
            reader.images()
        };
        self.tasks.run_blocking(read).await.map_err(ImportError::Task)?
    }

    /// Unpacks the layers of one image that are not there yet.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is left of a layer that failed.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; a layer that was begun is finished and, unless
    /// somebody else wants it, removed.
    pub async fn unpack_archived(&self, image: ArchivedImage) -> Result<Imported, ImportError> {
        let mut layers = Vec::with_capacity(image.layers.len());
        let keys = Keys::new(Arc::clone(&self.config), self.tasks.clone());
        for (descriptor, diff_id) in image.layers {
            let digest = descriptor.digest.clone();
            let sealed = move |source| ImportError::Decrypt { digest: digest.clone(), source };
            let opening = match &descriptor.envelope {
                Some(envelope) => Some(keys.unwrap(envelope).await.map_err(&sealed)?),
                None => None,
            };
            let lease = match self.snapshots.layer(&diff_id).await {
                LayerSlot::Ready(lease) => lease,
                LayerSlot::Absent(writer) => {
                    let content = self.content.clone();
                    let work = move || {
                        let file = open(&content, &descriptor)?;
                        let mut file = Opened::new(file, opening);
                        let unpacked = unpack(&mut file, plain(&descriptor.media_type), writer);
                        if unpacked.is_err() {
                            // With another key nothing but that is worth telling.
                            io::copy(&mut file, &mut io::sink()).ok();
                        }
                        file.verify().map_err(sealed)?;
                        Ok::<_, ImportError>(unpacked?)
                    };
                    self.tasks.run_blocking(work).await.map_err(ImportError::Task)??
                }
            };
            layers.push((diff_id, lease));
        }
        let mut blobs = image.documents;
        if self.config.layer_blobs == LayerBlobs::Keep {
            blobs.extend(image.layer_blobs);
        }
        Ok(Imported {
            references: image.references,
            target: image.target,
            manifest: image.manifest,
            config: image.config,
            config_bytes: image.config_bytes,
            layers,
            blobs,
        })
    }
}

fn open(content: &ContentStore, layer: &Descriptor) -> Result<std::fs::File, ImportError> {
    content
        .open_blob(&layer.digest)
        .map_err(|source| ImportError::Store { name: layer.digest.to_string(), source })
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    manifest_bytes: u64,
    config_bytes: u64,
}

/// An archive whose files are stored.
struct Reader {
    content: ContentStore,
    files: Files,
    limits: Limits,
    platform: Platform,
}

/// The documents of one image, before its configuration is read.
struct Parts {
    references: Vec<Reference>,
    target: Option<Digest>,
    manifest: Digest,
    config: Digest,
    layers: Vec<Descriptor>,
    documents: Vec<Blob>,
}

impl Reader {
    fn images(&self) -> Result<Vec<ArchivedImage>, ImportError> {
        let found = if self.files.has(oci::INDEX) {
            self.oci_images()?
        } else if self.files.has(docker::MANIFEST) {
            self.docker_images()?
        } else {
            return Err(ImportError::NoIndex);
        };
        found.into_iter().map(|parts| self.complete(parts)).collect()
    }

    fn complete(&self, parts: Parts) -> Result<ArchivedImage, ImportError> {
        let mut documents = parts.documents;
        let config_blob = self.blob(&parts.config)?;
        let config_bytes = self.read(&parts.config, self.limits.config_bytes)?;
        let config = config_blob::parse(&config_bytes, parts.layers.len())
            .map_err(|source| ImportError::Config { digest: parts.config.clone(), source })?;
        let unfit = |platform: &Platform| self.platform.distance(platform).is_none();
        if config.platform.as_ref().is_some_and(unfit) {
            return Err(ImportError::NoPlatform(self.platform.clone()));
        }
        let layer_blobs =
            parts.layers.iter().map(|layer| self.blob(&layer.digest)).collect::<Result<_, _>>()?;
        documents.push(config_blob);
        Ok(ArchivedImage {
            references: parts.references,
            target: parts.target,
            manifest: parts.manifest,
            config: parts.config,
            config_bytes,
            layers: parts.layers.into_iter().zip(config.diff_ids).collect(),
            documents,
            layer_blobs,
        })
    }

    fn blob(&self, digest: &Digest) -> Result<Blob, ImportError> {
        self.content.blob(digest).ok_or_else(|| ImportError::Missing(digest.to_string()))
    }

    fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImportError> {
        self.content
            .read(digest, limit)
            .map_err(|source| ImportError::Store { name: digest.to_string(), source })
    }

    /// A small document by its name in the archive.
    fn document(&self, name: &str) -> Result<Vec<u8>, ImportError> {
        let digest =
            self.files.digest(name).ok_or_else(|| ImportError::Missing(name.to_owned()))?;
        self.read(digest, self.limits.manifest_bytes)
    }
}
