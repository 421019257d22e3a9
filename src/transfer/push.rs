//! Pushing an image of the store: what the registry lacks, all layers at once, the manifest last.
//!
//! For each blob, in this order: the repository has it; the registry takes it from a repository
//! that the image is known to be in; it is here and is sent; the layer is made again, compressed
//! and sent. So an image goes back to where it came from byte for byte, whether or not its blobs
//! were kept. Invariants: a manifest is put only when all that it names is there; a push that
//! fails or is dropped leaves no tag, and no upload that the registry would keep.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt as _;

use super::credentials::Credentials;
use super::error::SessionError;
use super::fetch::stall;
use super::manifest::Descriptor;
use super::progress::{LayerProgress, Progress, Stage};
use super::pull::Pipeline;
use super::reference::Reference;
use super::registry::{Access, Body, HostsFailed, RequestFailure, Session, Started, body};
use super::stored::{
    LayerBytes, Outgoing, OutgoingLayer, Packing, Recompressed, StoredError, StoredImage,
    layer_type, with_layers,
};
use super::tasks::Lost;
use crate::content::{Algorithm, Digest, Hasher};

/// How much is read at once of what is sent.
const CHUNK_BYTES: usize = 128 << 10;

/// A push failed; the registry has blobs at most.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry cannot be spoken to.
    #[error("cannot prepare the push")]
    Session(#[source] SessionError),
    /// The image cannot be read.
    #[error("cannot read the image")]
    Stored(#[from] StoredError),
    /// The reference names a digest, and the manifest has another one.
    #[error("the manifest is {actual}, and {reference} asks for another one")]
    OtherDigest {
        /// What was asked for.
        reference: Reference,
        /// What is pushed.
        actual: Digest,
    },
    /// A blob is not taken.
    #[error("cannot push {digest}")]
    Blob {
        /// The blob, by the digest that the image's manifest has for it.
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
    /// A layer cannot be read to its end.
    #[error("cannot read layer {digest}")]
    Read {
        /// The layer, by the digest that the image's manifest has for it.
        digest: Digest,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The manifest cannot be written anew.
    #[error("cannot write the manifest")]
    Manifest(#[source] serde_json::Error),
    /// The manifest is not taken.
    #[error("cannot push the manifest")]
    Put(#[source] HostsFailed),
    /// Blocking work ended without a result, because the daemon stops or a bug was hit.
    #[error("cannot wait for a layer")]
    Task(#[source] Lost),
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest, as the registry has it now.
    pub manifest: Digest,
    /// Layers that had to be compressed anew, so that the manifest is another one.
    pub recompressed: Vec<Recompressed>,
}

impl Pipeline {
    /// Pushes `image` under the name `reference`.
    ///
    /// # Errors
    /// [`PushError`] names the blob and what the host said.
    ///
    /// # Cancel safety
    /// Dropping the future breaks off the uploads; no manifest is put.
    pub async fn push(
        &self,
        image: &StoredImage,
        reference: &Reference,
        credentials: Option<&Credentials>,
        progress: &Arc<Progress>,
    ) -> Result<Pushed, PushError> {
        let outgoing = self.outgoing(image).await?;
        let layers = outgoing.layers.iter().map(|layer| &layer.descriptor);
        progress.begin(layers.map(|layer| (layer.digest.clone(), layer.size)));
        let mounts = repositories_beside(&image.digests, reference);
        let access = Access::Push { mounts: mounts.clone() };
        let session = self.session(reference, credentials, access).await;
        let push = Push {
            pipeline: self,
            session: session.map_err(PushError::Session)?,
            mounts,
            outgoing: &outgoing,
            progress,
        };
        let parallel = self.config.parallel_layers.max(1);
        let numbered = outgoing.layers.iter().enumerate();
        // Made before they are run, so that each future is of one plain type.
        let work: Vec<_> = numbered.map(|(index, layer)| push.layer(index, layer)).collect();
        let pushed: Vec<_> = futures_util::stream::iter(work).buffered(parallel).collect().await;
        let pushed = pushed.into_iter().collect::<Result<Vec<Descriptor>, PushError>>()?;
        push.config().await?;
        let (manifest, recompressed) =
            with_layers(&outgoing, &pushed).map_err(PushError::Manifest)?;
        let digest = match recompressed.as_slice() {
            [] => outgoing.manifest_digest.clone(),
            _ => Hasher::digest(Algorithm::Sha256, &manifest),
        };
        if reference.digest().is_some_and(|wanted| *wanted != digest) {
            let reference = reference.clone();
            return Err(PushError::OtherDigest { reference, actual: digest });
        }
        let name = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let put = push.session.put_manifest(&name, &outgoing.media_type, &manifest).await;
        put.map_err(PushError::Put)?;
        Ok(Pushed { manifest: digest, recompressed })
    }
}

/// Repositories of the same registry that have the blobs of an image.
pub(super) fn repositories_beside(digests: &[String], reference: &Reference) -> Vec<String> {
    let known = digests.iter().filter_map(|name| Reference::parse(name).ok());
    let beside = known.filter(|known| known.domain() == reference.domain());
    let mut paths: Vec<String> = beside.map(|known| known.path().to_owned()).collect();
    paths.retain(|path| path != reference.path());
    paths.dedup();
    paths
}

/// One push.
struct Push<'a> {
    pipeline: &'a Pipeline,
    session: Session,
    mounts: Vec<String>,
    outgoing: &'a Outgoing,
    progress: &'a Arc<Progress>,
}

impl Push<'_> {
    /// Sees to it that the repository has the layer; says what it is called there.
    async fn layer(
        &self,
        index: usize,
        layer: &Arc<OutgoingLayer>,
    ) -> Result<Descriptor, PushError> {
        let progress = self.progress.layers().and_then(|layers| layers.get(index));
        let descriptor = &layer.descriptor;
        let refused = |source| PushError::Blob { digest: descriptor.digest.clone(), source };
        let started = self.offer(&descriptor.digest).await.map_err(refused)?;
        let Some(mut upload) = started else {
            enter(progress, Stage::Present);
            return Ok(descriptor.clone());
        };
        let mut attempt = 1;
        loop {
            enter(progress, Stage::Fetching);
            match self.send(index, layer, upload).await {
                Ok(pushed) => {
                    enter(progress, Stage::Done);
                    return Ok(pushed);
                }
                Err(PushError::Blob { digest, source })
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
            upload = match self.session.start_upload(None).await.map_err(refused)? {
                Started::Upload(url) => url,
                Started::Mounted => return Ok(descriptor.clone()),
            };
        }
    }

    /// Asks whether the repository has the blob or can get it without us; if not, where to
    /// send it.
    async fn offer(&self, digest: &Digest) -> Result<Option<url::Url>, HostsFailed> {
        if self.session.has_blob(digest).await? {
            return Ok(None);
        }
        let mounts = self.mounts.iter().map(|from| Some((digest, from.as_str())));
        let mut last = None;
        for mount in mounts.chain([None]) {
            if mount.is_none() && last.is_some() {
                break;
            }
            match self.session.start_upload(mount).await? {
                Started::Mounted => return Ok(None),
                Started::Upload(url) => last = Some(url),
            }
        }
        Ok(last)
    }

    async fn send(
        &self,
        index: usize,
        layer: &Arc<OutgoingLayer>,
        upload: url::Url,
    ) -> Result<Descriptor, PushError> {
        let digest = || layer.descriptor.digest.clone();
        let opened = self.open(layer).await?;
        let progress = Arc::clone(self.progress);
        let shown = self.progress.layers().and_then(|layers| layers.get(index));
        let refused = |source| PushError::Blob { digest: digest(), source };
        match opened {
            LayerBytes::Blob(source) => {
                let (body, content) = body(Some(layer.descriptor.size));
                let reading = self.pipeline.tasks.run_blocking(move || {
                    let counted = Counted { source, progress, index };
                    read_plain(counted, body)
                });
                let sent = self.session.send_known(upload, &layer.descriptor.digest, content);
                let (read, sent) =
                    self.watch(shown, async { tokio::join!(reading, sent) }, digest).await?;
                // What cannot be read is why it is not taken.
                read.map_err(PushError::Task)?
                    .map_err(|source| PushError::Read { digest: digest(), source })?;
                sent.map_err(refused)?;
                Ok(layer.descriptor.clone())
            }
            LayerBytes::Archive(source) => {
                if let Some(shown) = shown {
                    shown.expect(source.archive_bytes());
                }
                let (body, content) = body(None);
                let reading = self.pipeline.tasks.run_blocking(move || {
                    let counted = Counted { source, progress, index };
                    read_compressed(counted, body)
                });
                let sent = self.session.send_unknown(upload, content);
                let (read, sent) =
                    self.watch(shown, async { tokio::join!(reading, sent) }, digest).await?;
                let (is, size) = read
                    .map_err(PushError::Task)?
                    .map_err(|source| PushError::Read { digest: digest(), source })?;
                let at = sent.map_err(refused)?;
                self.session.finish_upload(at, &is).await.map_err(refused)?;
                let media_type = layer_type(&self.outgoing.media_type, Packing::Gzip).to_owned();
                Ok(Descriptor::of(media_type, is, size))
            }
        }
    }

    async fn open(&self, layer: &Arc<OutgoingLayer>) -> Result<LayerBytes, PushError> {
        let (content, snapshots) = (self.pipeline.content.clone(), self.pipeline.snapshots.clone());
        let layer = Arc::clone(layer);
        let opened = self.pipeline.tasks.run_blocking(move || layer.open(&content, &snapshots));
        Ok(opened.await.map_err(PushError::Task)??)
    }

    async fn watch<T>(
        &self,
        shown: Option<&LayerProgress>,
        work: impl Future<Output = T>,
        digest: impl Fn() -> Digest,
    ) -> Result<T, PushError> {
        tokio::select! {
            done = work => Ok(done),
            () = stall(shown, &self.pipeline.config) => {
                Err(PushError::NoProgress { digest: digest() })
            }
        }
    }

    async fn config(&self) -> Result<(), PushError> {
        let config = &self.outgoing.config;
        let refused = |source| PushError::Blob { digest: config.digest.clone(), source };
        let Some(upload) = self.offer(&config.digest).await.map_err(refused)? else {
            return Ok(());
        };
        let bytes = Bytes::from(self.outgoing.config_bytes.clone());
        let (body, content) = body(Some(bytes.len() as u64));
        let give = async move {
            body.send(bytes).await;
            body.end().await;
        };
        let sent = self.session.send_known(upload, &config.digest, content);
        let ((), sent) = tokio::join!(give, sent);
        sent.map_err(refused)
    }
}

pub(super) fn enter(layer: Option<&LayerProgress>, stage: Stage) {
    if let Some(layer) = layer {
        layer.enter(stage);
    }
}

/// A source that shows how far it is.
struct Counted<R> {
    source: R,
    progress: Arc<Progress>,
    index: usize,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if let Some(layer) = self.progress.layers().and_then(|layers| layers.get(self.index)) {
            layer.received(read);
        }
        Ok(read)
    }
}

/// Gives all of `source` to a request. An error of the source ends both.
fn read_plain(mut source: impl Read, body: Body) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => {
                body.end_blocking();
                return Ok(());
            }
            Ok(read) => {
                let bytes = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
                if !body.send_blocking(bytes) {
                    // The request has ended, and knows why.
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                body.fail_blocking(io::Error::other("the layer cannot be read"));
                return Err(error);
            }
        }
    }
}

/// As [`read_plain`], compressed on the way; says what went out.
fn read_compressed(mut source: impl Read, body: Body) -> io::Result<(Digest, u64)> {
    let sink = Sink { body, hasher: Hasher::new(Algorithm::Sha256), bytes: 0, gone: None };
    let mut encoder = GzEncoder::new(sink, Compression::default());
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => encoder.write_all(buffer.get(..read).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                encoder.get_ref().body.clone().fail_blocking(io::Error::other("unreadable"));
                return Err(error);
            }
        }
        if encoder.get_ref().gone.is_some() {
            break;
        }
    }
    let sink = encoder.finish()?;
    let digest = sink.hasher.finish();
    sink.body.end_blocking();
    Ok((digest, sink.bytes))
}

/// Compressed bytes on their way into a request.
struct Sink {
    body: Body,
    hasher: Hasher,
    bytes: u64,
    /// Set once nobody takes the bytes any more: the request has ended, and knows why.
    gone: Option<()>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        if !self.body.send_blocking(Bytes::copy_from_slice(bytes)) {
            self.gone = Some(());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
