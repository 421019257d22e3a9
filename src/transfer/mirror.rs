//! From one registry to another, byte for byte, without touching the disk.
//!
//! What the reference names is copied as it is: an index with all that it names, or the one
//! image of it that fits a platform. Each blob is looked for at the destination first; within
//! one registry it is mounted; else it streams through. Invariants: a document is put only when
//! all that it names is there, the one with the tag last; bytes are verified before their last
//! piece goes out, and so before the destination can keep them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;

use super::credentials::Credentials;
use super::error::SessionError;
use super::fetch::stall;
use super::manifest::{self, Descriptor, Manifest, ManifestError};
use super::platform::Platform;
use super::progress::{Progress, Stage};
use super::pull::Pipeline;
use super::push::enter;
use super::reference::Reference;
use super::registry::{
    Access, BlobError, Document, HostIndex, HostsFailed, RequestFailure, Resolved, Session,
    Started, body,
};
use crate::content::{Digest, Hasher};

/// Most documents of one mirrored reference.
const DOCUMENTS_MAX: usize = 1024;

/// A mirror failed; the destination has no tag of it.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// A registry cannot be spoken to.
    #[error("cannot prepare the mirroring")]
    Session(#[source] SessionError),
    /// The source does not say what the reference names.
    #[error("cannot resolve {reference}")]
    Resolve {
        /// The source.
        reference: Reference,
        /// Every host tried.
        #[source]
        source: HostsFailed,
    },
    /// A document does not come.
    #[error("cannot fetch manifest {digest}")]
    Fetch {
        /// The document.
        digest: Digest,
        /// Every host tried.
        #[source]
        source: HostsFailed,
    },
    /// A document is not one that can be copied.
    #[error("cannot read manifest {digest}")]
    Manifest {
        /// The document.
        digest: Digest,
        /// The fault.
        #[source]
        source: ManifestError,
    },
    /// There is no image for the platform.
    #[error("there is no image for {0}")]
    NoPlatform(Platform),
    /// More documents than any image has.
    #[error("the reference leads to more than {DOCUMENTS_MAX} manifests")]
    TooMany,
    /// A blob does not come.
    #[error("cannot fetch {digest}: {fault}")]
    Source {
        /// The blob.
        digest: Digest,
        /// What happened.
        fault: String,
    },
    /// A blob is not taken.
    #[error("cannot push {digest}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// What the host said.
        #[source]
        source: HostsFailed,
    },
    /// Too little happened for too long.
    #[error("no progress with {digest}")]
    NoProgress {
        /// The blob.
        digest: Digest,
    },
    /// A document is not taken.
    #[error("cannot push manifest {digest}")]
    Put {
        /// The document.
        digest: Digest,
        /// What the host said.
        #[source]
        source: HostsFailed,
    },
}

/// Who may ask for what at the two ends.
#[derive(Debug, Clone, Copy)]
pub struct MirrorEnds<'a> {
    /// Where the image is.
    pub from: &'a Reference,
    /// What is shown there.
    pub from_credentials: Option<&'a Credentials>,
    /// Where it is to be.
    pub to: &'a Reference,
    /// What is shown there.
    pub to_credentials: Option<&'a Credentials>,
}

/// What a document names, whatever it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    media_type: Option<String>,
    config: Option<Named>,
    layers: Option<Vec<Named>>,
    manifests: Option<Vec<Named>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
}

/// Everything that is to be copied.
#[derive(Default)]
struct Inventory {
    /// Those that are named before those that name them.
    documents: Vec<(Document, String)>,
    blobs: HashMap<Digest, Descriptor>,
}

impl Pipeline {
    /// Copies what `ends.from` names to `ends.to`; all of an index, or only what fits
    /// `platform`. Gives the digest of what the destination's reference names then.
    ///
    /// # Errors
    /// [`MirrorError`] names the blob or document and what the host said.
    ///
    /// # Cancel safety
    /// Dropping the future breaks off the uploads; no tag is put.
    pub async fn mirror(
        &self,
        ends: MirrorEnds<'_>,
        platform: Option<&Platform>,
        progress: &Arc<Progress>,
    ) -> Result<Digest, MirrorError> {
        let MirrorEnds { from, from_credentials, to, to_credentials } = ends;
        let source = self.session(from, from_credentials, Access::Pull).await;
        let source = source.map_err(MirrorError::Session)?;
        let neighbour = from.domain() == to.domain() && from.path() != to.path();
        let mounts: Vec<String> = neighbour.then(|| from.path().to_owned()).into_iter().collect();
        let access = Access::Push { mounts: mounts.clone() };
        let destination = self.session(to, to_credentials, access).await;
        let destination = destination.map_err(MirrorError::Session)?;

        let mut inventory = Inventory::default();
        let top = inventory.take_in(&source, from, platform).await?;
        let blobs: Vec<Descriptor> = inventory.blobs.into_values().collect();
        progress.begin(blobs.iter().map(|blob| (blob.digest.clone(), blob.size)));
        let copy = Copy { pipeline: self, source, destination, mounts, progress };
        let work: Vec<_> =
            blobs.iter().enumerate().map(|(index, blob)| copy.blob(index, blob)).collect();
        let parallel = self.config.parallel_layers.max(1);
        let copied: Vec<_> = futures_util::stream::iter(work).buffered(parallel).collect().await;
        copied.into_iter().collect::<Result<(), MirrorError>>()?;
        for (document, media_type) in &inventory.documents {
            let digest = document.digest.to_string();
            let name = match to.tag() {
                Some(tag) if document.digest == top => tag,
                Some(_) | None => &digest,
            };
            let put = copy.destination.put_manifest(name, media_type, &document.bytes).await;
            put.map_err(|source| MirrorError::Put { digest: document.digest.clone(), source })?;
        }
        Ok(top)
    }
}

impl Inventory {
    /// Fetches all documents that the reference leads to; gives the one it stands for.
    async fn take_in(
        &mut self,
        source: &Session,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Digest, MirrorError> {
        let fetch = async |digest: &Digest| {
            let fetched = source.manifest(digest).await;
            fetched.map_err(|source| MirrorError::Fetch { digest: digest.clone(), source })
        };
        let mut top = match reference.digest() {
            Some(digest) => fetch(digest).await?,
            None => {
                let resolved = source.resolve(reference.tag().unwrap_or("latest")).await;
                let failed = |source| MirrorError::Resolve { reference: reference.clone(), source };
                match resolved.map_err(failed)? {
                    Resolved::Document(document) => document,
                    Resolved::Digest(digest) => fetch(&digest).await?,
                }
            }
        };
        if let Some(platform) = platform {
            // Indexes are left behind until an image is reached.
            for _ in 0..DOCUMENTS_MAX {
                match choose(&top, platform)? {
                    None => break,
                    Some(digest) => top = fetch(&digest).await?,
                }
            }
        }
        let digest = top.digest.clone();
        let mut seen = HashSet::from([digest.clone()]);
        let mut pending = vec![top];
        while let Some(document) = pending.pop() {
            if self.documents.len() >= DOCUMENTS_MAX {
                return Err(MirrorError::TooMany);
            }
            let names = names_of(&document)?;
            for blob in names.config.into_iter().chain(names.layers.into_iter().flatten()) {
                let foreign = ["nondistributable", "foreign"];
                if foreign.iter().any(|word| blob.media_type.contains(word)) {
                    continue;
                }
                let Named { media_type, digest, size } = blob;
                self.blobs.insert(digest.clone(), Descriptor::of(media_type, digest, size));
            }
            for child in names.manifests.into_iter().flatten() {
                if seen.insert(child.digest.clone()) {
                    pending.push(fetch(&child.digest).await?);
                }
            }
            let stated = names.media_type.or_else(|| document.media_type.clone());
            let media_type = stated.unwrap_or_else(|| manifest::OCI_MANIFEST.to_owned());
            self.documents.push((document, media_type));
        }
        // Found from the top down; put from the bottom up.
        self.documents.reverse();
        Ok(digest)
    }
}

/// The entry of an index that fits best; `None` when the document is no index.
fn choose(document: &Document, platform: &Platform) -> Result<Option<Digest>, MirrorError> {
    let invalid = |source| MirrorError::Manifest { digest: document.digest.clone(), source };
    let entries = match manifest::parse(&document.bytes, document.media_type.as_deref()) {
        Ok(Manifest::Image(_)) => return Ok(None),
        Ok(Manifest::Index(entries)) => entries,
        Err(source) => return Err(invalid(source)),
    };
    let fitting = entries.into_iter().filter_map(|entry| {
        let distance = entry.platform.as_ref().and_then(|it| platform.distance(it))?;
        Some((distance, entry.descriptor.digest))
    });
    let best = fitting.min_by_key(|(distance, _)| *distance);
    best.map(|(_, digest)| Some(digest)).ok_or_else(|| MirrorError::NoPlatform(platform.clone()))
}

fn names_of(document: &Document) -> Result<Names, MirrorError> {
    serde_json::from_slice(&document.bytes).map_err(|source| MirrorError::Manifest {
        digest: document.digest.clone(),
        source: ManifestError::Parse(source),
    })
}

/// One mirroring under way.
struct Copy<'a> {
    pipeline: &'a Pipeline,
    source: Session,
    destination: Session,
    mounts: Vec<String>,
    progress: &'a Arc<Progress>,
}

impl Copy<'_> {
    async fn blob(&self, index: usize, blob: &Descriptor) -> Result<(), MirrorError> {
        let layer = self.progress.layers().and_then(|layers| layers.get(index));
        let refused = |source| MirrorError::Blob { digest: blob.digest.clone(), source };
        if self.destination.has_blob(&blob.digest).await.map_err(refused)? {
            enter(layer, Stage::Present);
            return Ok(());
        }
        let mount = self.mounts.first().map(|from| (&blob.digest, from.as_str()));
        let mut started = self.destination.start_upload(mount).await.map_err(refused)?;
        let mut attempt = 1;
        loop {
            let Started::Upload(url) = started else {
                enter(layer, Stage::Present);
                return Ok(());
            };
            enter(layer, Stage::Fetching);
            let sent = tokio::select! {
                sent = self.stream(index, blob, url) => sent,
                () = stall(layer, &self.pipeline.config) => {
                    Err(MirrorError::NoProgress { digest: blob.digest.clone() })
                }
            };
            match sent {
                Ok(()) => {
                    enter(layer, Stage::Done);
                    return Ok(());
                }
                Err(MirrorError::Blob { digest, source })
                    if source.failure() == RequestFailure::Unavailable
                        && attempt < self.pipeline.config.attempts_per_host =>
                {
                    tracing::warn!(content.digest = %digest, error = %source, "pushing again");
                    let config = &self.pipeline.config;
                    let wait = config.initial_backoff.saturating_mul(1 << attempt.min(16));
                    tokio::time::sleep(wait.min(config.max_backoff)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
            started = self.destination.start_upload(None).await.map_err(refused)?;
        }
    }

    async fn stream(
        &self,
        index: usize,
        blob: &Descriptor,
        url: url::Url,
    ) -> Result<(), MirrorError> {
        let (body, content) = body(Some(blob.size));
        let give = async move {
            let layer = self.progress.layers().and_then(|layers| layers.get(index));
            let mut stream = self.source.blob(&blob.digest, blob.size, HostIndex::default());
            let mut hasher = Hasher::new(blob.digest.algorithm());
            // The last piece waits until all are verified.
            let mut held: Option<Bytes> = None;
            let fault = |fault: String| MirrorError::Source { digest: blob.digest.clone(), fault };
            loop {
                let next =
                    stream.next().await.map_err(|error: BlobError| fault(error.to_string()))?;
                let Some(bytes) = next else { break };
                if let Some(layer) = layer {
                    layer.received(bytes.len());
                }
                hasher.update(&bytes);
                if let Some(bytes) = held.replace(bytes)
                    && !body.send(bytes).await
                {
                    // The request has ended, and knows why.
                    return Ok(());
                }
            }
            let actual = hasher.finish();
            if actual != blob.digest {
                return Err(fault(format!("its digest is {actual}")));
            }
            if let Some(bytes) = held {
                body.send(bytes).await;
            }
            body.end().await;
            Ok(())
        };
        let take = self.destination.send_known(url, &blob.digest, content);
        let (given, taken) = tokio::join!(give, take);
        given?;
        taken.map_err(|source| MirrorError::Blob { digest: blob.digest.clone(), source })
    }
}
