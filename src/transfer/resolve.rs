//! From a reference to one image: its manifest and its configuration, both verified.
//!
//! A tag is resolved to a digest first, by hosts that are trusted to; everything after that is
//! fetched by digest, from any host. Invariants: the caller's right to the image is asked for
//! even when all of it is here; documents are taken from the content store only by digest.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/image-index.md>

use super::config_blob::{self, ConfigBlob, ConfigError};
use super::error::PullError;
use super::manifest::{self, Descriptor, ImageManifest, IndexEntry, Manifest, ManifestError};
use super::platform::Platform;
use super::reference::Reference;
use super::registry::{Document, HostsFailed, Resolved, Session};
use super::tasks::Tasks;
use crate::content::{Blob, ContentStore, Digest};
use crate::transfer::config::Config;

/// Most documents between a reference and an image; real ones have one index, some two.
const MAX_DEPTH: usize = 8;

/// One image and the documents that describe it.
#[derive(Debug)]
pub(super) struct Image {
    /// What the reference names: an index or a manifest.
    pub(super) target: Descriptor,
    /// The manifest of the image.
    pub(super) manifest: Descriptor,
    /// What it names.
    pub(super) parts: ImageManifest,
    /// The image configuration as it came.
    pub(super) config: Vec<u8>,
    /// What is read of it.
    pub(super) config_blob: ConfigBlob,
    /// Leases on all documents.
    pub(super) blobs: Vec<Blob>,
}

/// What resolving needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolver<'a> {
    pub(super) session: &'a Session,
    pub(super) content: &'a ContentStore,
    pub(super) tasks: &'a Tasks,
    pub(super) config: &'a Config,
    pub(super) reference: &'a Reference,
    pub(super) platform: &'a Platform,
}

/// A document that was parsed, and what leads to the next one.
struct Found {
    descriptor: Descriptor,
    manifest: Manifest,
    blob: Blob,
}

impl Resolver<'_> {
    /// Finds the image for the platform.
    ///
    /// # Errors
    /// [`PullError`] of the step.
    pub(super) async fn resolve(self) -> Result<Image, PullError> {
        let mut found = self.target().await?;
        let target = found.descriptor.clone();
        let mut blobs = Vec::new();
        let mut required = Required::ByConfig;
        let parts = loop {
            blobs.push(found.blob);
            match found.manifest {
                Manifest::Image(parts) => break parts,
                Manifest::Index(_) if blobs.len() >= MAX_DEPTH => {
                    return Err(PullError::TooDeep { limit: MAX_DEPTH });
                }
                Manifest::Index(entries) => {
                    let entry = self.choose(entries)?;
                    if entry.platform.is_some() {
                        required = Required::ByIndex;
                    }
                    found = self.by_descriptor(&entry.descriptor).await?;
                }
            }
        };
        let (config, blob) = self.config_bytes(&parts.config).await?;
        blobs.push(blob);
        let digest = || parts.config.digest.clone();
        let config_blob = config_blob::parse(&config, parts.layers.len())
            .map_err(|source| self.invalid_config(digest(), source))?;
        self.check_platform(&config_blob, required)?;
        Ok(Image { target, manifest: found.descriptor, parts, config, config_blob, blobs })
    }

    /// The document that the reference names.
    async fn target(self) -> Result<Found, PullError> {
        if let Some(digest) = self.reference.digest() {
            return self.authorized(digest).await;
        }
        let tag = self.reference.tag().unwrap_or("latest");
        let resolved = self.session.resolve(tag).await.map_err(|source| self.unresolved(source))?;
        match resolved {
            Resolved::Digest(digest) => self.by_digest(&digest, None).await,
            Resolved::Document(document) => self.keep(document, None).await,
        }
    }

    /// A document named by the caller: what is here already is only for those whom the registry
    /// would give it to.
    async fn authorized(self, digest: &Digest) -> Result<Found, PullError> {
        if self.content.blob(digest).is_some() {
            let asked = self.session.authorize(digest).await;
            asked.map_err(|source| self.unresolved(source))?;
        }
        self.by_digest(digest, None).await
    }

    async fn by_descriptor(self, descriptor: &Descriptor) -> Result<Found, PullError> {
        let found = self.by_digest(&descriptor.digest, Some(&descriptor.media_type)).await?;
        if found.descriptor.size == descriptor.size {
            return Ok(found);
        }
        let (actual, promised) = (found.descriptor.size, descriptor.size);
        let text = format!("it has {actual} bytes, and its index says {promised}");
        Err(self.invalid_manifest(&descriptor.digest, ManifestError::Ambiguous(text)))
    }

    /// From the content store, else from the registry.
    async fn by_digest(self, digest: &Digest, announced: Option<&str>) -> Result<Found, PullError> {
        if let Some(blob) = self.content.blob(digest)
            && let Some(bytes) = self.read(digest, self.config.max_manifest_bytes).await?
        {
            return self.found(digest, &bytes, announced, blob);
        }
        let fetched = self.session.manifest(digest).await;
        let document =
            fetched.map_err(|source| PullError::Manifest { digest: digest.clone(), source })?;
        self.keep(document, announced).await
    }

    /// Parses before anything is stored, so that what is no manifest leaves nothing.
    async fn keep(self, document: Document, announced: Option<&str>) -> Result<Found, PullError> {
        let Document { bytes, digest, media_type } = document;
        let invalid = |source| self.invalid_manifest(&digest, source);
        if let (Some(index_says), Some(host_says)) = (announced, media_type.as_deref())
            && manifest::is_manifest(host_says)
            && index_says != host_says
        {
            let text = format!("the host says {host_says}, the index says {index_says}");
            return Err(invalid(ManifestError::Ambiguous(text)));
        }
        let announced = announced.or(media_type.as_deref());
        manifest::parse(&bytes, announced).map_err(invalid)?;
        let blob = self.put(&digest, bytes.clone()).await?;
        self.found(&digest, &bytes, announced, blob)
    }

    fn found(
        self,
        digest: &Digest,
        bytes: &[u8],
        announced: Option<&str>,
        blob: Blob,
    ) -> Result<Found, PullError> {
        let manifest = manifest::parse(bytes, announced)
            .map_err(|source| self.invalid_manifest(digest, source))?;
        let media_type = manifest::media_type_of(bytes, announced, &manifest);
        let size = bytes.len() as u64;
        let descriptor = Descriptor::of(media_type, digest.clone(), size);
        Ok(Found { descriptor, manifest, blob })
    }

    /// The entry that fits best; of equals the first. An entry that does not say its platform
    /// is taken when no other fits: the configuration will say it.
    fn choose(self, entries: Vec<IndexEntry>) -> Result<IndexEntry, PullError> {
        let offered: Vec<Platform> =
            entries.iter().filter_map(|entry| entry.platform.clone()).collect();
        let rank = |entry: &IndexEntry| match &entry.platform {
            _ if !manifest::is_manifest(&entry.descriptor.media_type) => None,
            None => Some(u32::MAX),
            Some(platform) => self.platform.distance(platform),
        };
        let best = entries
            .into_iter()
            .filter_map(|entry| rank(&entry).map(|rank| (rank, entry)))
            .min_by_key(|(rank, _)| *rank);
        best.map(|(_, entry)| entry).ok_or_else(|| self.no_platform(offered))
    }

    /// An image that no index names for a platform must name its own.
    fn check_platform(self, config: &ConfigBlob, required: Required) -> Result<(), PullError> {
        match (&config.platform, required) {
            (Some(platform), Required::ByConfig) if self.platform.distance(platform).is_none() => {
                Err(self.no_platform(vec![platform.clone()]))
            }
            _ => Ok(()),
        }
    }

    async fn config_bytes(self, descriptor: &Descriptor) -> Result<(Vec<u8>, Blob), PullError> {
        let Descriptor { digest, size, .. } = descriptor;
        let limit = self.config.max_config_bytes;
        if *size > limit {
            let error = ConfigError::TooLarge { size: *size, limit };
            return Err(self.invalid_config(digest.clone(), error));
        }
        if let Some(blob) = self.content.blob(digest)
            && let Some(bytes) = self.read(digest, limit).await?
        {
            return Ok((bytes, blob));
        }
        let fetched = self.session.small_blob(digest, *size).await;
        let document =
            fetched.map_err(|source| PullError::Config { digest: digest.clone(), source })?;
        let blob = self.put(digest, document.bytes.clone()).await?;
        Ok((document.bytes, blob))
    }

    /// A stored document; `None` when the disk does not give back what was written, so that it
    /// is fetched again.
    async fn read(self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, PullError> {
        let (content, wanted) = (self.content.clone(), digest.clone());
        let read = self.tasks.run_blocking(move || content.read(&wanted, limit)).await;
        read.map(Result::ok).map_err(PullError::Task)
    }

    async fn put(self, digest: &Digest, bytes: Vec<u8>) -> Result<Blob, PullError> {
        let (content, name) = (self.content.clone(), digest.clone());
        let put = self.tasks.run_blocking(move || content.put(&bytes, &name)).await;
        put.map_err(PullError::Task)?
            .map_err(|source| PullError::Store { digest: digest.clone(), source })
    }

    fn unresolved(self, source: HostsFailed) -> PullError {
        PullError::Resolve { source }
    }

    fn invalid_manifest(self, digest: &Digest, source: ManifestError) -> PullError {
        PullError::InvalidManifest { digest: digest.clone(), source }
    }

    fn invalid_config(self, digest: Digest, source: ConfigError) -> PullError {
        PullError::InvalidConfig { digest, source }
    }

    fn no_platform(self, offered: Vec<Platform>) -> PullError {
        PullError::NoPlatform { platform: self.platform.clone(), offered }
    }
}

/// Who says that the image fits the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Required {
    /// The index named it for the platform; builders' configurations may be less exact.
    ByIndex,
    /// Nobody but the image's own configuration.
    ByConfig,
}
