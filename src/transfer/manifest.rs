//! Manifests and indexes: reading them in the one way in which they can be read.
//!
//! Invariants: a document that another reader could take for the other kind is refused
//! (CVE-2021-41190): it must not have `manifests` beside `layers` or `config`, and what it says
//! of itself, what the registry says of it and what the index that names it says must agree.
//! `urls` of a descriptor are never followed (CVE-2020-15157), nor handed on.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/manifest.md>,
//! <https://github.com/opencontainers/image-spec/blob/main/image-index.md>

use std::collections::BTreeMap;

use serde::Deserialize;

use super::decryption::{Envelope, plain};
use super::platform::Platform;
use crate::content::Digest;

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker schema 2 manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Annotations of layers that are for snapshotters.
const FOR_SNAPSHOTTERS: &str = "containerd.io/snapshot/";
/// Those that say from where else a layer is to be fetched.
const ADDRESSES: &str = "containerd.io/snapshot/remote/urls";

/// Most layers of an image: the kernel stacks at most 500 lower directories.
const MAX_LAYERS: usize = 500;

/// Names a blob and says what to expect of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it is encrypted, if it is.
    pub envelope: Option<Envelope>,
    /// What its manifest says to remote snapshotters.
    pub labels: BTreeMap<String, String>,
}

impl Descriptor {
    /// That of a blob of which nothing else is known.
    #[must_use]
    pub fn of(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        let media_type = media_type.into();
        Self { media_type, digest, size, envelope: None, labels: BTreeMap::new() }
    }
}

/// A document that names an image, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manifest {
    /// One image.
    Image(ImageManifest),
    /// Images for several platforms.
    Index(Vec<IndexEntry>),
}

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageManifest {
    /// The image configuration.
    pub(super) config: Descriptor,
    /// The layers, bottom first.
    pub(super) layers: Vec<Descriptor>,
}

/// One image, or a further index, and the platform it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) descriptor: Descriptor,
    /// `None` where the index does not say.
    pub(super) platform: Option<Platform>,
}

/// A document is not a usable manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not the JSON they should be.
    #[error("cannot parse the manifest")]
    Parse(#[source] serde_json::Error),
    /// The document can be read in two ways, or says two things about itself.
    #[error("the manifest is ambiguous: {0}")]
    Ambiguous(String),
    /// A manifest of the first generation.
    #[error(
        "the image has a Docker schema 1 manifest, which is no longer supported; push it again \
         with a current tool"
    )]
    Schema1,
    /// Neither a manifest nor an index.
    #[error("{0:?} is not a manifest or an index of images")]
    MediaType(String),
    /// Something else than a container image, a Helm chart for instance.
    #[error("the manifest is not one of a container image: its config is {0:?}")]
    NotAnImage(String),
    /// A layer in a form that cannot be unpacked.
    #[error("layer {digest} has the unsupported media type {media_type:?}")]
    LayerMediaType {
        /// The layer's digest.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// A layer that its registry must not distribute.
    #[error(
        "layer {digest} is non-distributable ({media_type}): it would have to be fetched from \
         another place than the registry"
    )]
    NonDistributable {
        /// The layer's digest.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// More layers than can be stacked.
    #[error("the image has {0} layers, more than {MAX_LAYERS}")]
    TooManyLayers(usize),
}

/// Every field that decides what a document is; the rest is ignored. A field that comes twice
/// is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl RawDescriptor {
    fn descriptor(self) -> Descriptor {
        let annotations = self.annotations.unwrap_or_default();
        let envelope = Envelope::of(&self.media_type, &annotations);
        let labels = annotations.into_iter().filter(|(name, _)| is_for_snapshotters(name));
        let labels = labels.collect();
        Descriptor { envelope, labels, ..Descriptor::of(self.media_type, self.digest, self.size) }
    }
}

/// Snapshotters are told where a layer is by the image's reference alone.
fn is_for_snapshotters(annotation: &str) -> bool {
    annotation.starts_with(FOR_SNAPSHOTTERS) && !annotation.starts_with(ADDRESSES)
}

/// Reads `bytes`, of which others said that they are `announced`.
///
/// # Errors
/// [`ManifestError`]; see there.
pub(super) fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Manifest, ManifestError> {
    let document: Document = serde_json::from_slice(bytes).map_err(ManifestError::Parse)?;
    if document.fs_layers.is_some() || document.schema_version == Some(1) {
        return Err(ManifestError::Schema1);
    }
    if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
        let both = "it has manifests as well as layers or config";
        return Err(ManifestError::Ambiguous(both.to_owned()));
    }
    // Some registries serve everything under one general type.
    let announced = announced.filter(|media_type| is_manifest(media_type));
    let stated = document.media_type.as_deref().filter(|media_type| !media_type.is_empty());
    if let (Some(announced), Some(stated)) = (announced, stated)
        && announced != stated
    {
        let text = format!("it says that it is {stated}, and was announced as {announced}");
        return Err(ManifestError::Ambiguous(text));
    }
    let media_type = stated.or(announced);
    match (media_type, document.manifests, document.config) {
        (Some(OCI_INDEX | DOCKER_INDEX) | None, Some(manifests), None) => {
            Ok(Manifest::Index(manifests.into_iter().map(IndexEntry::from).collect()))
        }
        (Some(OCI_MANIFEST | DOCKER_MANIFEST) | None, None, Some(config)) => {
            let layers = document.layers.unwrap_or_default();
            let layers = layers.into_iter().map(RawDescriptor::descriptor).collect();
            image(config.descriptor(), layers)
        }
        (Some(known), _, _) if is_manifest(known) => {
            Err(ManifestError::Ambiguous(format!("it says that it is {known}, and is not")))
        }
        (other, _, _) => Err(ManifestError::MediaType(other.unwrap_or_default().to_owned())),
    }
}

impl From<RawDescriptor> for IndexEntry {
    fn from(mut raw: RawDescriptor) -> Self {
        let platform = raw.platform.take().map(|platform| {
            let variant = platform.variant.as_deref().unwrap_or_default();
            Platform::normalised(&platform.os, &platform.architecture, variant)
        });
        Self { descriptor: raw.descriptor(), platform }
    }
}

fn image(config: Descriptor, layers: Vec<Descriptor>) -> Result<Manifest, ManifestError> {
    match config.media_type.as_str() {
        "application/vnd.oci.image.config.v1+json"
        | "application/vnd.docker.container.image.v1+json"
        // What the first clients of schema 2 pushed.
        | "application/octet-stream" => {}
        _ => return Err(ManifestError::NotAnImage(config.media_type)),
    }
    if layers.len() > MAX_LAYERS {
        return Err(ManifestError::TooManyLayers(layers.len()));
    }
    for layer in &layers {
        check_layer(layer)?;
    }
    Ok(Manifest::Image(ImageManifest { config, layers }))
}

/// The compression is not read from the media type: builders get it wrong, and the bytes say
/// it themselves.
fn check_layer(layer: &Descriptor) -> Result<(), ManifestError> {
    let digest = layer.digest.clone();
    let media_type = layer.media_type.clone();
    match plain(&media_type) {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(()),
        "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            if layer.envelope.is_none() =>
        {
            Ok(())
        }
        other if other.contains("nondistributable") || other.contains("foreign") => {
            Err(ManifestError::NonDistributable { digest, media_type })
        }
        _ => Err(ManifestError::LayerMediaType { digest, media_type }),
    }
}

/// What a parsed document is: its own word, else that of others, else what its form says.
pub(super) fn media_type_of(bytes: &[u8], announced: Option<&str>, manifest: &Manifest) -> String {
    let stated = serde_json::from_slice::<Document>(bytes).ok().and_then(|it| it.media_type);
    let announced = announced.map(str::to_owned);
    let known = stated.into_iter().chain(announced).find(|media_type| is_manifest(media_type));
    known.unwrap_or_else(|| match manifest {
        Manifest::Image(_) => OCI_MANIFEST.to_owned(),
        Manifest::Index(_) => OCI_INDEX.to_owned(),
    })
}

/// Whether `media_type` is one of the four that name images.
pub(super) fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | OCI_MANIFEST | DOCKER_INDEX | DOCKER_MANIFEST)
}

#[cfg(test)]
mod tests;
