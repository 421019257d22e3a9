//! Layers that a remote snapshotter serves: another process, asked over containerd's snapshots
//! API, that mounts a layer at once and fetches what is in it when it is read.
//!
//! ```text
//! <root>/snapshots/remote/<hex>       what the snapshotter may have of ours
//! <root>/snapshots/layers/<number>    a link to where the snapshotter has mounted a layer
//! ```
//!
//! Each layer is asked for on its own, without parents: stacking is done here. A snapshotter that
//! does not serve it, fails or is silent costs time, bounded by the configuration, and the layer
//! is fetched as any other.
//!
//! Invariants:
//! - What the snapshotter is asked to keep is recorded before it is asked, and crossed out after
//!   it was told to remove it, so that no crash leaves anything with it.
//! - A served layer goes by the digest of all that was asked for ([`Offer::digest`]), never by the
//!   diffID that its image claims: nobody has held it against that. So it is shared by images of
//!   one repository that ask for the same, and can be no other image's layer.
//! - Of a layer's mount only an absolute directory is used; options do not count.
//!
//! Specification:
//! <https://github.com/containerd/containerd/blob/main/docs/remote-snapshotter.md>

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinError;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::{
    LayerContents, LayerLease, LayerSlot, LayerWriter, OPTION_MAX, REMOTE, Snapshots, Usage,
};
use crate::metadata::{Algorithm, Digest};
use v1::snapshots_client::SnapshotsClient;
use v1::{
    CleanupRequest, Mount, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    UsageRequest, ViewSnapshotRequest,
};

/// The part of the package `containerd.services.snapshots.v1` that is used.
#[expect(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto is the documentation"
)]
mod v1 {
    include!("remote/containerd.services.snapshots.v1.rs");
}

/// The label that asks for a layer instead of a place to unpack it, and says what to call it.
const WANTED: &str = "containerd.io/snapshot.ref";
/// What else a snapshotter is told, by the names that containerd has for it.
const REFERENCE: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";
const LAYERS_FROM_HERE: &str = "containerd.io/snapshot/cri.image-layers";
/// What a label and its value may come to.
const LABEL_MAX: usize = 4096;
/// How often what was given up is given back, where nobody says that something was.
const INTERVAL: Duration = Duration::from_secs(60);
/// Of the digest of the store's directory, in names: several stores may share a snapshotter.
const STORE_BYTES: usize = 6;

/// Which snapshotter is asked, and how patiently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    /// Its socket.
    pub socket: PathBuf,
    /// How long it may take for a layer, or to take one back.
    pub timeout: Duration,
}

/// What a snapshotter is told of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The registry and repository that the image is pulled from.
    pub repository: String,
    /// The image's reference.
    pub reference: String,
    /// The image's manifest.
    pub manifest: Digest,
    /// The compressed layer.
    pub layer: Digest,
    /// It and the image's layers above it, which may be prefetched.
    pub from_here: Vec<Digest>,
    /// What the manifest says of the layer to snapshotters.
    pub labels: BTreeMap<String, String>,
}

/// The snapshotter, and the records of what it may have.
#[derive(Debug)]
pub(super) struct Remote {
    config: RemoteConfig,
    client: SnapshotsClient<Channel>,
    records: PathBuf,
    prefix: String,
    /// Told when a layer was given up that may have been served.
    given_up: Notify,
    /// Whether something was removed since the snapshotter cleaned up.
    removed: AtomicBool,
}

/// A layer that the snapshotter has mounted.
#[derive(Debug)]
struct Served {
    directory: PathBuf,
    usage: Usage,
}

/// Why a layer is not served, or not given back.
#[derive(Debug, thiserror::Error)]
enum RemoteError {
    #[error("cannot record what the snapshotter has")]
    Record(#[source] io::Error),
    #[error("the snapshotter cannot {step} {name}")]
    Call {
        step: &'static str,
        name: String,
        #[source]
        source: Box<Status>,
    },
    #[error("the snapshotter was silent for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the snapshotter does not mount the layer as a directory of the host: {0}")]
    Mounts(String),
    #[error("cannot link to the layer at {}", directory.display())]
    Link {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the work on a record was lost")]
    Task(#[source] JoinError),
}

impl Offer {
    /// What the layer goes by when it is served.
    fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        let layer = self.layer.to_string();
        let pairs = self.labels.iter().flat_map(|(name, value)| [name, value]);
        for part in [&self.repository, &layer].into_iter().chain(pairs) {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Digest::sha256(hasher.finalize().into())
    }

    fn labels(&self, wanted: String) -> HashMap<String, String> {
        let mut layers = String::new();
        for digest in &self.from_here {
            let separator = if layers.is_empty() { "" } else { "," };
            let next = format!("{separator}{digest}");
            if LAYERS_FROM_HERE.len() + layers.len() + next.len() > LABEL_MAX {
                break;
            }
            layers.push_str(&next);
        }
        let own = [
            (WANTED, wanted),
            (REFERENCE, self.reference.clone()),
            (MANIFEST, self.manifest.to_string()),
            (LAYER, self.layer.to_string()),
            (LAYERS_FROM_HERE, layers),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        // Its own words come last, so that no manifest takes their place.
        let all: HashMap<_, _> = self.labels.clone().into_iter().chain(own).collect();
        all.into_iter().filter(|(name, value)| name.len() + value.len() <= LABEL_MAX).collect()
    }
}

impl Snapshots {
    /// Whether layers can be offered to a snapshotter.
    #[must_use]
    pub fn has_remote(&self) -> bool {
        self.0.remote.is_some()
    }

    /// The layer as the remote snapshotter serves it, and what it goes by; `None` when there is no
    /// snapshotter, or it does not serve it, for whatever reason.
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing; what the snapshotter has by then is given back.
    pub async fn served(&self, offer: &Offer) -> Option<(Digest, LayerLease)> {
        let remote = self.0.remote.as_ref()?;
        let digest = offer.digest();
        let writer = match self.layer(&digest).await {
            LayerSlot::Ready(lease) => return Some((digest, lease)),
            LayerSlot::Absent(writer) => writer,
        };
        let (patience, layer) = (remote.config.timeout, &offer.layer);
        let asked = timeout(patience, remote.ask(&digest, offer));
        match asked.await.unwrap_or(Err(RemoteError::Silent(patience))) {
            Ok(Some(served)) => match blocking(move || writer.link(served)).await {
                Ok(lease) => {
                    tracing::debug!(%layer, "the layer is served by the remote snapshotter");
                    return Some((digest, lease));
                }
                Err(error) => remote.say(&error, layer),
            },
            Ok(None) => {}
            Err(error) => remote.say(&error, layer),
        }
        None
    }

    /// Gives back, again and again, what the snapshotter has and no layer stands for.
    pub async fn give_back(&self) {
        let Some(remote) = &self.0.remote else { return };
        loop {
            if let Err(error) = self.give_back_once(remote).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    socket = %remote.config.socket.display(),
                    "cannot give back to the remote snapshotter what no image needs"
                );
                sleep(INTERVAL).await;
            }
            timeout(INTERVAL, remote.given_up.notified()).await.ok();
        }
    }

    async fn give_back_once(&self, remote: &Remote) -> Result<(), RemoteError> {
        let (patience, records) = (remote.config.timeout, remote.records.clone());
        let recorded = blocking(move || recorded(&records).map_err(RemoteError::Record)).await?;
        let mut outcome = Ok(());
        for digest in recorded {
            // Who has the right to write a layer is alone with its name.
            let Some(LayerSlot::Absent(_writer)) = self.try_layer(&digest) else { continue };
            match timeout(patience, remote.give_back(&digest)).await {
                Ok(given) => outcome = outcome.and(given),
                // Nor will it answer for the others.
                Err(_elapsed) => return Err(RemoteError::Silent(patience)),
            }
        }
        if remote.removed.swap(false, Ordering::Relaxed)
            && timeout(patience, remote.clean_up()).await.is_err()
        {
            remote.removed.store(true, Ordering::Relaxed);
            return Err(RemoteError::Silent(patience));
        }
        outcome
    }
}

impl Remote {
    /// The snapshotter for the store in `directory`. Reaches for it when it is first asked.
    pub(super) fn new(config: RemoteConfig, directory: &Path) -> Self {
        let socket = config.socket.clone();
        let connect = move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        // The address is not used: the socket is.
        let endpoint = Endpoint::from_static("http://snapshotter");
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(connect));
        let store = Sha256::digest(directory.as_os_str().as_encoded_bytes());
        let store = hex::encode(store.get(..STORE_BYTES).unwrap_or_default());
        Self {
            config,
            client: SnapshotsClient::new(channel),
            records: directory.join(REMOTE),
            prefix: format!("orlop-{store}"),
            given_up: Notify::new(),
            removed: AtomicBool::new(false),
        }
    }

    fn say(&self, error: &RemoteError, layer: &Digest) {
        let (error, socket): (&dyn std::error::Error, _) = (error, self.config.socket.display());
        tracing::warn!(error, %layer, %socket, "a layer is fetched, as it is not served");
    }

    /// Says that a layer was given up.
    pub(super) fn notice(&self) {
        self.given_up.notify_one();
    }

    /// What the snapshotter calls the layer.
    fn name(&self, digest: &Digest) -> String {
        format!("{}-{}", self.prefix, digest.hex())
    }

    async fn ask(&self, digest: &Digest, offer: &Offer) -> Result<Option<Served>, RemoteError> {
        let name = self.name(digest);
        let place = place(&name);
        // What a crash left would look like an answer. Who does not even answer this is not asked.
        self.remove(&place).await?;
        self.record(digest).await?;
        let prepare = PrepareSnapshotRequest {
            key: place.clone(),
            parent: String::new(),
            labels: offer.labels(name.clone()),
        };
        let prepared = self.client().prepare(request(prepare)).await;
        if !matches!(&prepared, Err(status) if status.code() == Code::AlreadyExists) {
            prepared.map_err(|source| call("make room for", &place, source))?;
            // It has made room to unpack the layer instead.
            self.remove(&place).await?;
            self.forget(digest).await?;
            self.notice();
            return Ok(None);
        }
        let view = ViewSnapshotRequest {
            key: view(&name),
            parent: name.clone(),
            labels: HashMap::default(),
        };
        let mounts = match self.client().view(request(view)).await {
            Ok(viewed) => viewed.into_inner().mounts,
            Err(status) if status.code() == Code::AlreadyExists => {
                let mounts = MountsRequest { key: self::view(&name) };
                let mounts = self.client().mounts(request(mounts)).await;
                mounts
                    .map_err(|source| call("tell the mounts of", &name, source))?
                    .into_inner()
                    .mounts
            }
            Err(source) => return Err(call("make a view of", &name, source)),
        };
        let directory = directory(&mounts)?;
        let usage = self.client().usage(request(UsageRequest { key: name.clone() })).await;
        let usage = usage.map_err(|source| call("tell the usage of", &name, source))?.into_inner();
        let [bytes, inodes] =
            [usage.size, usage.inodes].map(|number| number.try_into().unwrap_or_default());
        Ok(Some(Served { directory, usage: Usage { bytes, inodes } }))
    }

    /// Has the snapshotter remove all that is there of a layer, and crosses it out.
    async fn give_back(&self, digest: &Digest) -> Result<(), RemoteError> {
        let name = self.name(digest);
        for key in [place(&name), view(&name), name] {
            self.remove(&key).await?;
        }
        self.forget(digest).await
    }

    /// Removes a snapshot; one that is not there is fine.
    async fn remove(&self, key: &str) -> Result<(), RemoteError> {
        let removal = RemoveSnapshotRequest { key: key.to_owned() };
        match self.client().remove(request(removal)).await {
            Ok(_) => self.removed.store(true, Ordering::Relaxed),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(call("remove the snapshot", key, status)),
        }
        Ok(())
    }

    /// Not every snapshotter has something to clean up, or can.
    async fn clean_up(&self) {
        let cleaned = self.client().cleanup(request(CleanupRequest {})).await;
        if let Err(status) = cleaned
            && status.code() != Code::Unimplemented
        {
            tracing::warn!(%status, "the remote snapshotter cannot clean up");
        }
    }

    fn client(&self) -> SnapshotsClient<Channel> {
        self.client.clone()
    }

    async fn record(&self, digest: &Digest) -> Result<(), RemoteError> {
        let (records, record) = (self.records.clone(), self.records.join(digest.hex()));
        let write = move || {
            File::create(record)?;
            File::open(records)?.sync_all()
        };
        blocking(move || write().map_err(RemoteError::Record)).await
    }

    /// Crosses a layer out; who listed it before it was is fine.
    async fn forget(&self, digest: &Digest) -> Result<(), RemoteError> {
        let record = self.records.join(digest.hex());
        let remove = move || match fs::remove_file(record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RemoteError::Record(error))
            }
            _ => Ok(()),
        };
        blocking(remove).await
    }
}

impl LayerWriter {
    /// Makes the layer a link to what is served. Blocks.
    fn link(self, served: Served) -> Result<LayerLease, RemoteError> {
        let Served { directory, usage } = served;
        let linked =
            self.store.trash.discard(&self.path()).and_then(|()| symlink(&directory, self.path()));
        linked.map_err(|source| RemoteError::Link { directory: directory.clone(), source })?;
        self.store.served().insert(self.number, directory);
        Ok(self.finish(LayerContents { usage, implied: Vec::new() }))
    }
}

/// Every layer that the snapshotter may have. Blocks.
pub(super) fn recorded(records: &Path) -> io::Result<Vec<Digest>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(records)? {
        let name = entry?.file_name();
        found.extend(Digest::from_hex(Algorithm::Sha256, name.to_str().unwrap_or_default()));
    }
    Ok(found)
}

/// Where the snapshotter would have a layer unpacked.
fn place(name: &str) -> String {
    format!("{name}-place")
}

/// What holds a layer's mount.
fn view(name: &str) -> String {
    format!("{name}-view")
}

/// The directory that is mounted.
fn directory(mounts: &[Mount]) -> Result<PathBuf, RemoteError> {
    let said = || {
        let mounts = mounts.iter().map(|it| format!("{} of {:?}", it.r#type, it.source));
        mounts.collect::<Vec<_>>().join(", ")
    };
    let [mount] = mounts else { return Err(RemoteError::Mounts(said())) };
    let is_short = mount.source.len() <= OPTION_MAX;
    let directory = PathBuf::from(&mount.source);
    if mount.r#type == "bind" && directory.is_absolute() && is_short {
        Ok(directory)
    } else {
        Err(RemoteError::Mounts(said()))
    }
}

/// Servers of containerd's API keep things apart by namespace, and refuse what names none.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = tonic::metadata::MetadataValue::from_static("orlop");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
}

fn call(step: &'static str, name: &str, source: Status) -> RemoteError {
    RemoteError::Call { step, name: name.to_owned(), source: Box::new(source) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RemoteError> + Send + 'static,
) -> Result<T, RemoteError> {
    tokio::task::spawn_blocking(work).await.map_err(RemoteError::Task)?
}
