//! One layer: from the registry through verification into its directory, in one pass; unless a
//! remote snapshotter serves it.
//!
//! ```text
//! async: Ranges ── bounded channel ──> thread: sha256 ── unpack (inflate, sha256, untar)
//! ```
//! Invariants: memory is bounded by the channel and what the pipeline lends to parts of big
//! layers, so a slow disk slows the network down; the
//! compressed bytes have the manifest's digest and size and the uncompressed ones the config's
//! diffID, or nothing of the layer is left; a dropped future closes the channel, at which the
//! thread gives up and cleans up.

mod ranges;
mod reader;

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Sender};

use self::ranges::{Means, Ranges};
use self::reader::{BlobReader, Piece, Unpacked};
use super::config::{Config, LayerBlobs};
use super::decryption::{DecryptError, Envelope, Keys, Opening};
use super::error::{PullFailure, any_io_error, failure_of_hosts};
use super::manifest::Descriptor;
use super::permits::{Closed, Permits, Urgency};
use super::progress::{LayerProgress, Progress, Stage};
use super::registry::{BlobError, HostIndex, HostsFailed, Session};
use super::tasks::{Lost, Tasks};
use super::unpack::UnpackError;
use crate::content::{Blob, ContentError, ContentStore, Digest};
use crate::snapshots::{LayerLease, LayerSlot, LayerWriter, Offer, Snapshots};

/// Pieces between the network and the disk; each is what one read of a socket gave, at most a
/// few hundred KiB. With what inflates them they come to [`super::config::LAYER_BYTES`].
const CHANNEL_PIECES: usize = 1;

/// Why a layer is not there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No host gives it.
    #[error("cannot fetch the layer")]
    Hosts(#[source] HostsFailed),
    /// A host gives something else.
    #[error("{host} sends another layer: {fault}")]
    Lie {
        /// The host.
        host: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Too little happened for too long.
    #[error(
        "no progress: less than {min_bytes} bytes in {} s from {host}, {received} of {size} \
         bytes received",
        window.as_secs_f32()
    )]
    NoProgress {
        /// The host that was being read from.
        host: String,
        /// What had to happen.
        min_bytes: u64,
        /// In which time.
        window: Duration,
        /// Bytes received.
        received: u64,
        /// Bytes of the layer.
        size: u64,
    },
    /// It is encrypted, and the node does not get its key or it is not what was encrypted.
    #[error("cannot decrypt the layer")]
    Decrypt(#[source] DecryptError),
    /// The layer came and cannot be unpacked.
    #[error("cannot unpack the layer")]
    Unpack(#[source] UnpackError),
    /// The compressed layer was to be kept and cannot be stored.
    #[error("cannot store the compressed layer")]
    Store(#[source] ContentError),
    /// The unpacking thread ended without a result, because the daemon stops or a bug was hit.
    #[error("cannot wait for the unpacking")]
    Task(#[source] Lost),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

impl FetchError {
    /// What the error means.
    pub(super) fn failure(&self) -> PullFailure {
        match self {
            Self::Hosts(failed) => failure_of_hosts(failed),
            Self::Lie { .. } => PullFailure::Corrupt,
            Self::NoProgress { .. } => PullFailure::RegistryUnavailable,
            Self::Decrypt(error) => error.failure(),
            Self::Unpack(UnpackError::Mismatch { .. }) => PullFailure::Corrupt,
            Self::Unpack(error) if is_local(error) => PullFailure::Local,
            Self::Unpack(_) => PullFailure::Unusable,
            Self::Store(_) | Self::Task(_) | Self::Stopping => PullFailure::Local,
        }
    }
}

/// A layer that is there.
#[derive(Debug)]
pub(super) struct Fetched {
    /// What the store knows it by: its diffID, unless it is served.
    pub(super) name: Digest,
    /// The claim on its directory.
    pub(super) lease: LayerLease,
    /// The claim on its compressed form, where that is kept.
    pub(super) blob: Option<Blob>,
}

/// What fetching needs.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    pub(super) session: Arc<Session>,
    pub(super) content: ContentStore,
    pub(super) snapshots: Snapshots,
    pub(super) tasks: Tasks,
    pub(super) config: Arc<Config>,
    /// Where keys of encrypted layers come from.
    pub(super) keys: Arc<Keys>,
    /// Layers of all pulls that may be fetched at once.
    pub(super) permits: Arc<Permits>,
    /// Parts of layers of all pulls that may be held in memory.
    pub(super) memory: Arc<Semaphore>,
    /// Whether somebody waits for the layers.
    pub(super) urgency: Arc<Urgency>,
    pub(super) progress: Arc<Progress>,
    pub(super) demand: Demand,
}

/// Which layers are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Those that are not there.
    Missing,
    /// All: what is there is damaged.
    Anew,
}

/// How one attempt at a layer ended without it.
enum Failed {
    /// Another host may do better.
    Host(FetchError),
    /// No other host can.
    Final(FetchError),
}

impl Fetcher {
    /// Gives the layer number `index`: the one that is there, one that a remote snapshotter serves
    /// when it is offered, or a new one. While another pull fetches the same layer, waits for it.
    ///
    /// # Errors
    /// [`FetchError`]; nothing is left of the layer then.
    ///
    /// # Cancel safety
    /// Safe: what was begun is removed soon after.
    pub(super) async fn layer(
        self,
        index: usize,
        descriptor: Descriptor,
        diff_id: Digest,
        offer: Option<Offer>,
    ) -> Result<Fetched, FetchError> {
        let layers = self.progress.layers().unwrap_or_default();
        // Before anything is held, and of a layer that is here too: it is asked for the right to it.
        let opening = match &descriptor.envelope {
            Some(envelope) => Some(self.unwrap(envelope).await?),
            None => None,
        };
        if let Some(offer) = offer
            && let Some((name, lease)) = self.served(&diff_id, &offer).await
        {
            enter(layers.get(index), Stage::Present);
            return Ok(Fetched { name, lease, blob: None });
        }
        let mut host = HostIndex::default();
        // The right to write is taken before the permit: whoever holds a permit waits for
        // nobody, so permits always come back; who holds a connection waits for a permit alone.
        loop {
            let slot = match self.demand {
                Demand::Missing => self.snapshots.layer(&diff_id).await,
                Demand::Anew => LayerSlot::Absent(self.snapshots.rewrite(&diff_id).await),
            };
            let writer = match slot {
                LayerSlot::Ready(lease) => {
                    enter(layers.get(index), Stage::Present);
                    let blob = self.content.blob(&descriptor.digest);
                    return Ok(Fetched { name: diff_id, lease, blob });
                }
                LayerSlot::Absent(writer) => writer,
            };
            let share = self.session.share();
            let stopping = |Closed| FetchError::Stopping;
            let connection = share.connection(&self.urgency).await.map_err(stopping)?;
            let permit = self.permits.acquire(&self.urgency).await.map_err(stopping)?;
            enter(layers.get(index), Stage::Fetching);
            let mut ranges = Ranges::new(self.means(), descriptor.clone(), host);
            let opening = opening.clone();
            let attempt = self.attempt(&mut ranges, writer, index, &descriptor, opening).await;
            let next = ranges.host().next();
            drop(ranges);
            drop((permit, connection));
            match attempt {
                Ok(fetched) => {
                    enter(layers.get(index), Stage::Done);
                    return Ok(fetched);
                }
                Err(Failed::Host(error)) if self.session.has_host(next) => {
                    let digest = &descriptor.digest;
                    tracing::warn!(content.digest = %digest, %error, "trying the next host");
                    host = next;
                }
                Err(Failed::Host(error) | Failed::Final(error)) => return Err(error),
            }
        }
    }

    /// What is here in full is better than what is served.
    async fn served(&self, diff_id: &Digest, offer: &Offer) -> Option<(Digest, LayerLease)> {
        if self.snapshots.has_layers(slice::from_ref(diff_id)) {
            return None;
        }
        self.snapshots.served(offer).await
    }

    async fn unwrap(&self, envelope: &Envelope) -> Result<Opening, FetchError> {
        self.keys.unwrap(envelope).await.map_err(FetchError::Decrypt)
    }

    fn means(&self) -> Means {
        Means {
            session: Arc::clone(&self.session),
            config: Arc::clone(&self.config),
            urgency: Arc::clone(&self.urgency),
            tasks: self.tasks.clone(),
            memory: Arc::clone(&self.memory),
        }
    }

    /// Streams the blob into the writer's layer.
    async fn attempt(
        &self,
        ranges: &mut Ranges,
        writer: LayerWriter,
        index: usize,
        descriptor: &Descriptor,
        opening: Option<Opening>,
    ) -> Result<Fetched, Failed> {
        let (sender, receiver) = mpsc::channel(CHANNEL_PIECES);
        let keep = self.config.layer_blobs == LayerBlobs::Keep;
        let content = keep.then(|| self.content.clone());
        let (progress, descriptor) = (Arc::clone(&self.progress), descriptor.clone());
        let size = descriptor.size;
        let unpacking = self.tasks.run_blocking(move || {
            let layer = progress.layers().and_then(|layers| layers.get(index));
            BlobReader::new(receiver, descriptor.digest.algorithm(), layer).unpack(
                &descriptor,
                opening,
                writer,
                content.as_ref(),
            )
        });
        let layer = self.progress.layers().and_then(|layers| layers.get(index));
        let work = async {
            let pumped = pump(ranges, sender, layer).await;
            (pumped, unpacking.await)
        };
        let done = tokio::select! {
            done = work => Some(done),
            () = stall(layer, &self.config) => None,
        };
        let host = self.session.host_name(ranges.host());
        match done {
            None => Err(Failed::Host(FetchError::NoProgress {
                host,
                min_bytes: self.config.min_progress_bytes,
                window: self.config.no_progress_timeout,
                received: layer.map_or(0, LayerProgress::received_bytes),
                size,
            })),
            Some((Err(BlobError::Hosts(failed)), _)) => {
                Err(Failed::Final(FetchError::Hosts(failed)))
            }
            Some((Err(BlobError::Lie { host, error }), _)) => {
                Err(Failed::Host(FetchError::Lie { host, fault: error.to_string() }))
            }
            Some((Ok(()), Err(lost))) => Err(Failed::Final(FetchError::Task(lost))),
            Some((Ok(()), Ok(unpacked))) => unpacked.into_fetched(host),
        }
    }
}

impl Unpacked {
    fn into_fetched(self, host: String) -> Result<Fetched, Failed> {
        match self {
            Self::Layer(name, lease, blob) => Ok(Fetched { name, lease, blob }),
            Self::OtherBytes { expected, actual } => {
                let fault = format!("its digest is {actual}, not {expected}");
                Err(Failed::Host(FetchError::Lie { host, fault }))
            }
            Self::Forged(error) => Err(Failed::Final(FetchError::Decrypt(error))),
            Self::Unpack(error) => Err(Failed::Final(FetchError::Unpack(error))),
            Self::Store(error) => Err(Failed::Final(FetchError::Store(error))),
        }
    }
}

/// Moves the blob into the channel. A closed channel is no error here: the reader knows why it
/// closed it.
async fn pump(
    ranges: &mut Ranges,
    sender: Sender<Piece>,
    layer: Option<&LayerProgress>,
) -> Result<(), BlobError> {
    while let Some(bytes) = ranges.next().await? {
        if let Some(layer) = layer {
            layer.received(bytes.len());
        }
        if sender.send(Piece::Bytes(bytes)).await.is_err() {
            return Ok(());
        }
    }
    // Only this makes the end of the channel the end of the blob.
    sender.send(Piece::End).await.ok();
    Ok(())
}

/// Returns when a window of time passed without enough progress.
pub(super) async fn stall(layer: Option<&LayerProgress>, config: &Config) {
    let moved = || layer.map_or(0, |layer| layer.received_bytes() + layer.unpacked_bytes());
    loop {
        let before = moved();
        tokio::time::sleep(config.no_progress_timeout).await;
        if moved().saturating_sub(before) < config.min_progress_bytes {
            return;
        }
    }
}

fn enter(layer: Option<&LayerProgress>, stage: Stage) {
    if let Some(layer) = layer {
        layer.enter(stage);
    }
}

/// Whether the kernel said no, rather than the bytes being wrong.
fn is_local(error: &UnpackError) -> bool {
    any_io_error(error, |io| io.raw_os_error().is_some())
}
