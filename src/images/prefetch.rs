//! Images that are on the node before anybody asks: a list of references, a directory of archives.
//!
//! Invariants: what is here already is not fetched; what is not yet here is tried again and again,
//! behind every pull that somebody waits for; all of it is pinned. An archive is read at each
//! start, because only it knows the names of its images; its layers are unpacked once. Whoever
//! must not run before is told so by [`Images::readiness`], until everything was tried once, or
//! for as long as was configured.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::record::Image;
use super::{Images, ImportError, PullError, Store};
use crate::metadata::MetadataError;
use crate::transfer::Reference;

/// Wait before what failed is tried again; it doubles each time.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// What is to be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefetch {
    /// Images from registries.
    pub images: Vec<Reference>,
    /// A directory of archives.
    pub archives: Option<PathBuf>,
    /// How long the node may say that it is not ready because of them; `None` for never.
    pub gate: Option<Duration>,
}

/// Images are missing that the node was to have before it is ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{tried} of {all} images and archives to be prefetched were tried")]
pub struct Prefetching {
    /// How many.
    pub tried: usize,
    /// Of how many.
    pub all: usize,
}

/// How far it is, as long as the node is held.
#[derive(Debug)]
pub(super) struct Gate {
    until: Instant,
    now: Prefetching,
}

/// One thing cannot be prefetched.
#[derive(Debug, thiserror::Error)]
enum PrefetchError {
    #[error("cannot open the archive")]
    Open(#[source] io::Error),
    #[error(transparent)]
    Import(ImportError),
    #[error(transparent)]
    Pull(PullError),
    #[error("cannot pin the images")]
    Pin(#[source] MetadataError),
    #[error("cannot wait for the work")]
    Task(#[source] tokio::task::JoinError),
}

/// One thing to prefetch.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Image(Reference),
    Archive(PathBuf),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(reference) => write!(f, "{reference}"),
            Self::Archive(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Gate {
    /// Closed if the configuration has something to wait for.
    pub(super) fn new(prefetch: &Prefetch) -> Option<Self> {
        let all = prefetch.images.len() + usize::from(prefetch.archives.is_some());
        let until = Instant::now() + prefetch.gate.filter(|_| all > 0)?;
        Some(Self { until, now: Prefetching { tried: 0, all } })
    }
}

impl Images {
    /// Whether the images are there that the node was to have before it is ready.
    ///
    /// # Errors
    /// [`Prefetching`], for a while.
    pub fn readiness(&self) -> Result<(), Prefetching> {
        let gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        match &*gate {
            Some(gate) if Instant::now() < gate.until => Err(gate.now.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// Sees to it that what is configured is there; returns when it is.
    ///
    /// # Cancel safety
    /// Dropping the future ends it; each image is there or not.
    pub async fn prefetch(&self) {
        let Prefetch { images, archives, gate: _ } = &self.0.config.prefetch;
        let found = match archives {
            Some(directory) => list(directory).await.unwrap_or_else(|error| {
                let directory = directory.display();
                tracing::warn!(%directory, %error, "cannot list the archives to be prefetched");
                Vec::new()
            }),
            None => Vec::new(),
        };
        let archives = found.into_iter().map(Item::Archive);
        let mut missing: Vec<Item> =
            archives.chain(images.iter().cloned().map(Item::Image)).collect();
        let all = missing.len();
        let mut names = HashSet::new();
        let mut pause = PAUSE;
        loop {
            let mut failed = Vec::new();
            for (tried, item) in missing.into_iter().enumerate() {
                self.tell(Prefetching { tried, all });
                match self.prefetch_one(&item, &mut names).await {
                    Ok(()) => tracing::info!(%item, "prefetched"),
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(%item, error, "cannot prefetch, will be tried again");
                        failed.push(item);
                    }
                }
            }
            *self.0.gate.lock().unwrap_or_else(PoisonError::into_inner) = None;
            if failed.is_empty() {
                break;
            }
            missing = failed;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        // What archives gave that are not there any more is pinned no longer.
        if let Err(error) = self.pin(names).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "cannot unpin images of former archives");
        }
    }

    fn tell(&self, now: Prefetching) {
        if let Some(gate) = &mut *self.0.gate.lock().unwrap_or_else(PoisonError::into_inner) {
            gate.now = now;
        }
    }

    async fn prefetch_one(
        &self,
        item: &Item,
        names: &mut HashSet<String>,
    ) -> Result<(), PrefetchError> {
        match item {
            Item::Image(reference) if self.has(reference) => Ok(()),
            Item::Image(reference) => {
                self.pull_patiently(reference).await.map(drop).map_err(PrefetchError::Pull)
            }
            Item::Archive(path) => {
                let file = tokio::fs::File::open(path).await.map_err(PrefetchError::Open)?;
                let file = file.into_std().await;
                let images = self.import(file).await.map_err(PrefetchError::Import)?;
                names.extend(images.iter().flat_map(|image| image.tags.iter().cloned()));
                let mut pinned = self.0.pins.archived();
                pinned.extend(names.iter().cloned());
                self.pin(pinned).await
            }
        }
    }

    fn has(&self, reference: &Reference) -> bool {
        self.find(&reference.to_string()).is_ok_and(|found| found.is_some())
    }

    async fn pin(&self, archived: HashSet<String>) -> Result<(), PrefetchError> {
        let store = Arc::clone(&self.0);
        let pinning = self.0.tasks.spawn_blocking(move || store.pin(archived));
        pinning.await.map_err(PrefetchError::Task)?.map_err(PrefetchError::Pin)
    }
}

impl Store {
    /// Pins the images of these references, beside those that are configured, and no others.
    fn pin(&self, archived: HashSet<String>) -> Result<(), MetadataError> {
        let _changing = self.changing();
        self.pins.set_archived(archived);
        let mut index = Arc::unwrap_or_clone(self.index.load_full());
        for image in index.list() {
            let mut settled = Image::clone(&image);
            settled.settle(&self.pins);
            if settled.pinned != image.pinned {
                self.metadata.commit_image(&settled.to_row(), &[])?;
                self.list(&mut index, &Arc::new(settled));
            }
        }
        self.index.store(Arc::new(index));
        Ok(())
    }
}

/// The files of the directory, by name; hidden ones are being written.
async fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = match tokio::fs::read_dir(directory).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && tokio::fs::metadata(entry.path()).await?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
