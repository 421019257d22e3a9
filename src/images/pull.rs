//! Pulling: one download for all who ask for the same thing, and the commit at its end.
//!
//! A *flight* is a pull in progress. It is a task of its own; those who ask only wait for it.
//! Who stops waiting leaves; when the last one has left, the flight is cancelled and what it
//! brought is collected. Only requests with the same reference *and* the same credentials share
//! a flight: nobody gets an image by waiting beside somebody who may pull it.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::config::ConfigError;
use super::index::Index;
use super::pins::Pins;
use super::record::Image;
use super::{Images, Store, config};
use crate::content::{Blob, Digest};
use crate::metadata::Pinning;
use crate::snapshots::{self, LayerLease};
use crate::transfer::is_disk_full;
use crate::transfer::{
    self, Credentials, Explained, Platform, Progress, PullFailure, Pulled, Reference, SessionError,
    Urgency,
};

/// An image cannot be pulled. All who waited for the same flight get the same error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// It does not arrive.
    #[error("cannot pull {reference}")]
    Transfer {
        /// What was asked for.
        reference: Reference,
        /// The cause.
        #[source]
        source: Arc<transfer::PullError>,
    },
    /// It arrived and cannot be kept.
    #[error("cannot store {reference}")]
    Commit {
        /// What was asked for.
        reference: Reference,
        /// The cause.
        #[source]
        source: Arc<CommitError>,
    },
    /// The daemon is going down.
    #[error("pull of {0} was cancelled")]
    Cancelled(Reference),
}

/// An image that is complete cannot be made durable.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Its configuration is not one.
    #[error("cannot read the configuration of image {id}")]
    Config {
        /// The image.
        id: Digest,
        /// The cause.
        #[source]
        source: ConfigError,
    },
    /// Layers or rows cannot be written.
    #[error("cannot write image {id}")]
    Record {
        /// The image.
        id: Digest,
        /// The cause.
        #[source]
        source: Box<snapshots::CommitError>,
    },
    /// Blobs cannot be brought to the disk.
    #[error("cannot flush the blobs of image {id}")]
    Flush {
        /// The image.
        id: Digest,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The thread that did the work is gone.
    #[error("commit of an image did not end")]
    Interrupted(#[source] JoinError),
}

impl PullError {
    /// What went wrong, for a program.
    #[must_use]
    pub fn failure(&self) -> PullFailure {
        match self {
            Self::Transfer { source, .. } => source.failure(),
            Self::Commit { source, .. } if is_disk_full(source.as_ref()) => PullFailure::DiskFull,
            Self::Commit { .. } | Self::Cancelled(_) => PullFailure::Local,
        }
    }
}

type Outcome = Option<Result<Arc<Image>, PullError>>;

/// The pulls in progress.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: Vec<Flight>,
    last: u64,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    reference: Reference,
    credentials: Option<Credentials>,
    platform: Platform,
    outcome: watch::Receiver<Outcome>,
    progress: Arc<Progress>,
    urgency: Arc<Urgency>,
    waiters: usize,
    cancel: CancellationToken,
}

/// Everything that a complete image brings along.
pub(super) struct Arrived {
    pub(super) id: Digest,
    pub(super) manifest: Digest,
    pub(super) layers: Vec<Digest>,
    pub(super) leases: Vec<LayerLease>,
    pub(super) blobs: Vec<Blob>,
    pub(super) config: Vec<u8>,
    pub(super) tags: Vec<String>,
    pub(super) digests: Vec<String>,
}

impl Images {
    /// Pulls an image and gives it its names. Whoever asks for the same reference with the same
    /// credentials meanwhile waits for the same download. The image is listed and durable when
    /// this returns.
    ///
    /// # Errors
    /// [`PullError`]; nothing is left of the image then.
    ///
    /// # Cancel safety
    /// Dropping the future is to stop waiting. When nobody waits any more the download is
    /// cancelled, and nothing is left of it; what is already being committed is committed.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Arc<Image>, PullError> {
        let progress = ArcSwap::default();
        let platform = Platform::host();
        self.pull_for(reference, credentials, &platform, &progress, &Urgency::urgent()).await
    }

    /// As [`Self::pull`], behind all pulls that somebody waits for.
    pub(super) async fn pull_patiently(
        &self,
        reference: &Reference,
    ) -> Result<Arc<Image>, PullError> {
        let (progress, platform) = (ArcSwap::default(), Platform::host());
        self.pull_for(reference, None, &platform, &progress, &Urgency::patient()).await
    }

    /// As [`Self::pull`], for any platform; puts the download's progress in place of `progress`.
    pub(super) async fn pull_for(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        platform: &Platform,
        progress: &ArcSwap<Progress>,
        urgency: &Arc<Urgency>,
    ) -> Result<Arc<Image>, PullError> {
        let mut waiter = self.join(reference, credentials, platform, urgency);
        progress.store(Arc::clone(&waiter.progress));
        match waiter.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => match &*outcome {
                Some(result) => result.clone(),
                None => Err(PullError::Cancelled(reference.clone())),
            },
            Err(_task_is_gone) => Err(PullError::Cancelled(reference.clone())),
        }
    }

    /// Asks every host of the reference's registry for it, and tells about each.
    ///
    /// # Errors
    /// [`SessionError`]; what a host says is no error here.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn explain(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Explained, SessionError> {
        self.0.transfer.explain(reference, credentials).await
    }

    /// The pulls in progress.
    #[must_use]
    pub fn pulling(&self) -> Vec<(Reference, Arc<Progress>)> {
        let flights = self.0.flights();
        let each = flights.flights.iter();
        each.map(|flight| (flight.reference.clone(), Arc::clone(&flight.progress))).collect()
    }

    fn join(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        platform: &Platform,
        urgency: &Arc<Urgency>,
    ) -> Waiter {
        let mut flights = self.0.flights();
        let same = |flight: &&mut Flight| {
            flight.reference == *reference
                && flight.credentials.as_ref() == credentials
                && flight.platform == *platform
        };
        if let Some(flight) = flights.flights.iter_mut().find(same) {
            flight.waiters += 1;
            if urgency.is_urgent() {
                flight.urgency.hurry();
            }
            return Waiter {
                images: self.clone(),
                number: flight.number,
                outcome: flight.outcome.clone(),
                progress: Arc::clone(&flight.progress),
            };
        }
        flights.last += 1;
        let number = flights.last;
        let (report, outcome) = watch::channel(None);
        let flight = Flight {
            number,
            reference: reference.clone(),
            credentials: credentials.cloned(),
            platform: platform.clone(),
            outcome: outcome.clone(),
            progress: Arc::new(Progress::default()),
            urgency: Arc::clone(urgency),
            waiters: 1,
            cancel: CancellationToken::new(),
        };
        let task = fly(
            Arc::clone(&self.0),
            number,
            (reference.clone(), credentials.cloned(), platform.clone()),
            (Arc::clone(&flight.progress), Arc::clone(urgency)),
            flight.cancel.clone(),
            report,
        );
        let progress = Arc::clone(&flight.progress);
        flights.flights.push(flight);
        self.0.tasks.spawn(task);
        Waiter { images: self.clone(), number, outcome, progress }
    }
}

/// Somebody who waits for a flight.
struct Waiter {
    images: Images,
    number: u64,
    outcome: watch::Receiver<Outcome>,
    progress: Arc<Progress>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.images.0.flights().leave(self.number);
    }
}

impl Flights {
    /// The last one to leave cancels; from then on the flight cannot be joined.
    fn leave(&mut self, number: u64) {
        let Some(at) = self.flights.iter().position(|flight| flight.number == number) else {
            return;
        };
        let Some(flight) = self.flights.get_mut(at) else { return };
        flight.waiters -= 1;
        if flight.waiters == 0 {
            flight.cancel.cancel();
            self.flights.swap_remove(at);
        }
    }

    fn end(&mut self, number: u64) {
        self.flights.retain(|flight| flight.number != number);
    }

    pub(super) fn cancel_all(&self) {
        for flight in &self.flights {
            flight.cancel.cancel();
        }
    }
}

async fn fly(
    store: Arc<Store>,
    number: u64,
    (reference, credentials, platform): (Reference, Option<Credentials>, Platform),
    (progress, urgency): (Arc<Progress>, Arc<Urgency>),
    cancel: CancellationToken,
    report: watch::Sender<Outcome>,
) {
    let credentials = credentials.as_ref();
    let download = store.transfer.pull(&reference, credentials, &platform, &progress, &urgency);
    let pulled = cancel.run_until_cancelled(download).await;
    let outcome = match pulled {
        None => Err(PullError::Cancelled(reference)),
        Some(Err(source)) => Err(PullError::Transfer { reference, source: Arc::new(source) }),
        Some(Ok(pulled)) => {
            let arrived = Arrived::from(pulled);
            let committed = Arc::clone(&store).commit(arrived).await;
            committed.map_err(|source| PullError::Commit { reference, source: Arc::new(source) })
        }
    };
    if outcome.is_err() {
        store.collect_leftovers().await;
    }
    // First unlisted, then answered: who comes after the answer starts a flight of its own.
    store.flights().end(number);
    report.send(Some(outcome)).ok();
}

impl From<Pulled> for Arrived {
    fn from(pulled: Pulled) -> Self {
        let named_by_digest = pulled.reference.digest().is_some();
        let tag = if named_by_digest { None } else { pulled.reference.tagged() };
        Self {
            id: pulled.config.digest,
            manifest: pulled.manifest.digest,
            layers: pulled.layers.iter().map(|layer| layer.name.clone()).collect(),
            leases: pulled.layers.into_iter().map(|layer| layer.lease).collect(),
            blobs: pulled.blobs,
            config: pulled.config_bytes,
            tags: tag.into_iter().collect(),
            digests: vec![pulled.reference.digested(&pulled.target.digest)],
        }
    }
}

impl Arrived {
    /// Layers that occur twice are stored once.
    fn size_bytes(&self) -> u64 {
        let mut seen = HashSet::new();
        let layers = self.layers.iter().zip(&self.leases);
        let layers = layers.filter(|(diff_id, _)| seen.insert(*diff_id));
        let layers: u64 = layers.map(|(_, lease)| lease.usage().bytes).sum();
        let blobs: u64 = self.blobs.iter().map(Blob::bytes).sum();
        layers + blobs.max(self.config.len() as u64)
    }

    fn into_image(self, pins: &Pins) -> Result<(Image, Claims), CommitError> {
        let parsed = config::parse(&self.config)
            .map_err(|source| CommitError::Config { id: self.id.clone(), source })?;
        let mut image = Image {
            size_bytes: self.size_bytes(),
            id: self.id,
            manifest: self.manifest,
            layers: self.layers,
            blobs: self.blobs.iter().map(|blob| blob.digest().clone()).collect(),
            tags: self.tags,
            digests: self.digests,
            pinned: Pinning::Unpinned,
            config: Arc::new(parsed),
            config_bytes: self.config.into(),
        };
        let itself = image.clone();
        image.absorb(&itself, pins);
        Ok((image, Claims { layers: self.leases, _blobs: self.blobs }))
    }
}

/// What keeps an image's parts until it is listed.
struct Claims {
    layers: Vec<LayerLease>,
    _blobs: Vec<Blob>,
}

impl Store {
    /// Makes a complete image durable and lists it.
    pub(super) async fn commit(
        self: Arc<Self>,
        arrived: Arrived,
    ) -> Result<Arc<Image>, CommitError> {
        let store = Arc::clone(&self);
        let commit = self.tasks.spawn_blocking(move || store.commit_now(arrived));
        commit.await.map_err(CommitError::Interrupted)?
    }

    pub(super) fn commit_now(&self, arrived: Arrived) -> Result<Arc<Image>, CommitError> {
        let (mut image, claims) = arrived.into_image(&self.pins)?;
        let _changing = self.changing();
        let mut index = Arc::unwrap_or_clone(self.index.load_full());
        if let Some(older) = index.get(&image.id) {
            image.absorb(older, &self.pins);
            if image.says_the_same(older) {
                return Ok(Arc::clone(older));
            }
        }
        self.flush_blobs(&image.id)?;
        self.snapshots.commit_image(&image.to_row(), &claims.layers).map_err(|source| {
            CommitError::Record { id: image.id.clone(), source: Box::new(source) }
        })?;
        let image = Arc::new(image);
        self.list(&mut index, &image);
        self.index.store(Arc::new(index));
        Ok(image)
    }

    /// Puts an image into the index, and takes its names away from others.
    pub(super) fn list(&self, index: &mut Index, image: &Arc<Image>) {
        for rival in index.rivals(image) {
            index.remove(&rival.id);
            index.insert(Arc::new(rival.without(image, &self.pins)));
        }
        index.remove(&image.id);
        index.insert(Arc::clone(image));
    }

    /// Blobs on another file system than the layers are not reached by the flush of those.
    fn flush_blobs(&self, id: &Digest) -> Result<(), CommitError> {
        let flush = || -> std::io::Result<()> {
            let blobs = std::fs::File::open(self.content.directory())?;
            let layers = std::fs::File::open(self.snapshots.directory())?;
            let device = |file: &std::fs::File| rustix::fs::fstat(file).map(|stat| stat.st_dev);
            if device(&blobs)? != device(&layers)? {
                rustix::fs::syncfs(&blobs)?;
            }
            Ok(())
        };
        flush().map_err(|source| CommitError::Flush { id: id.clone(), source })
    }

    pub(super) async fn collect_leftovers(self: &Arc<Self>) {
        let store = Arc::clone(self);
        let collection = self.tasks.spawn_blocking(move || store.collect(&store.changing()));
        match collection.await {
            Ok(Ok(_said_in_the_log)) => {}
            // The pull's own error is answered; this one has nobody to go to but the log.
            Ok(Err(error)) => tracing::warn!(%error, "cannot collect what nothing refers to"),
            Err(error) => tracing::warn!(%error, "cannot collect what nothing refers to"),
        }
    }
}
