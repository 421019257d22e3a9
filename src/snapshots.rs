//! The snapshotter: unpacked layers, and writable snapshots on top of them.
//!
//! ```text
//! <root>/snapshots/layers/<number>/        one unpacked layer, as overlayfs wants it
//! <root>/snapshots/records/<number>        what its unpacker wrote down about its archive
//! <root>/snapshots/active/<key>/upper      what a container has written
//! <root>/snapshots/active/<key>/work       overlayfs's own
//! <root>/snapshots/empty/<0|1>             lower directories for images of fewer than two layers
//! <root>/snapshots/trash/<number>/         being deleted
//! <root>/snapshots/remote/<hex>            what a remote snapshotter may have of ours
//! ```
//!
//! Terms. A *layer* is stored once, by its diffID, whatever images it is part of, and is unpacked
//! without its parents. An *active* snapshot is a stack of layers with a writable directory; a
//! *view* is a stack without one. No mount is made or attached here: [`Active`] says what to
//! mount, [`View`] is a detached mount.
//!
//! The life of a layer: [`Snapshots::layer`] gives either a lease on it or the right to write it;
//! a finished [`LayerWriter`] becomes a lease; [`Snapshots::commit_image`] makes leased layers
//! durable together with the image that they belong to. A leased layer is never collected. The
//! last lease of a layer that was never committed deletes it.
//!
//! A damaged layer is replaced: a new one is written beside it ([`Snapshots::rewrite`]) and takes
//! its diffID ([`Snapshots::replace`]); the old one stays for the snapshots that stand on it.
//!
//! A layer may be served by another process instead of being unpacked; see `remote`. Its directory
//! is a link then, which is followed where the layer is read and not where it is deleted.
//!
//! What is mounted is an overlay, or, with [`Driver::Native`], a copy of the whole stack in
//! `upper`.
//!
//! Invariants:
//! - A layer's row is written after its files are on disk (one `syncfs` for each image). At the
//!   start, a layer directory without a row is deleted, and a row without a directory too.
//! - An active snapshot's row is written before its directories, and deleted after them.
//! - Numbers name directories and are not used twice by one process; they keep every path short
//!   enough for `fsconfig`, which takes at most 255 bytes.
//! - A record is made, flushed and deleted with its layer. What is in it, and whether a layer
//!   has one, is the unpacker's affair; here it is a file that counts as the layer's.
//! - Deleting is renaming into `trash/`; the disk is freed by the store's own thread.
//! - A directory that a layer has without naming it takes its mode and owner from the layers
//!   below it, by way of a synthetic layer on top; see `stack`.
//!
//! Specification: <https://docs.kernel.org/filesystems/overlayfs.html>,
//! <https://github.com/opencontainers/image-spec/blob/main/layer.md>

mod active;
mod diff;
mod filesystem;
mod layers;
mod native;
mod projects;
mod remote;
mod stack;
mod trash;
mod usage;
mod view;

pub use active::{Active, ActiveError, Scratch, SnapshotKey, SnapshotKeyError};
pub use diff::{DiffError, Written};
pub use filesystem::Filesystem;
pub use layers::{
    CommitError, LayerContents, LayerError, LayerLease, LayerSlot, LayerWriter, ReplaceError,
};
pub use remote::{Offer, RemoteConfig};
pub use usage::{Measurement, Usage, UsageError};
pub use view::{ReadError, View, ViewError, has_path, read_in_root};

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::metadata::{Digest, LayerRow, Metadata, MetadataError};
use projects::Projects;
use remote::Remote;
use trash::Trash;

const LAYERS: &str = "layers";
const RECORDS: &str = "records";
const ACTIVE: &str = "active";
const TRASH: &str = "trash";
const REMOTE: &str = "remote";
const EMPTY: [&str; 2] = ["empty/0", "empty/1"];
const PRIVATE_DIRECTORY: u32 = 0o700;
const ROOTFS_DIRECTORY: u32 = 0o755;
/// `fsconfig` takes strings of up to 255 bytes.
const OPTION_MAX: usize = 255;
/// Room for `/active/<key>/upper` with a key of 128 bytes, the longest thing below the root.
const DIRECTORY_MAX: usize = OPTION_MAX - 145;

/// How a snapshot shows its layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// By overlayfs, which copies nothing.
    #[default]
    Overlay,
    /// By a copy of all of them, for file systems and kernels that cannot do otherwise.
    Native,
}

/// What the snapshotter is told.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// How a snapshot shows its layers.
    pub driver: Driver,
    /// Who may serve layers, so that they need not be unpacked.
    pub remote: Option<RemoteConfig>,
}

/// The snapshotter of one directory. A clone is another handle of the same store.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<Store>);

#[derive(Debug)]
struct Store {
    directory: PathBuf,
    driver: Driver,
    remote: Option<Remote>,
    metadata: Arc<Metadata>,
    state: Mutex<State>,
    /// Where layers are that are served, by their numbers.
    served: Mutex<HashMap<u64, PathBuf>>,
    /// Told when a layer stops being written.
    written: Notify,
    trash: Trash,
    /// What the store's file system is on.
    device: String,
    /// Where the file system counts what a snapshot takes.
    projects: Option<Projects>,
    /// When somebody last asked what active snapshots take.
    asked: watch::Sender<Option<Instant>>,
    /// Held by who measures them.
    measuring: Arc<tokio::sync::Mutex<()>>,
}

/// What is on disk and in use, so that lookups and usage do not ask the disk.
#[derive(Debug, Default)]
struct State {
    layers: HashMap<String, Layer>,
    /// The layers that are being written, and the numbers that they will have.
    writing: HashMap<Digest, u64>,
    active: BTreeMap<SnapshotKey, ActiveState>,
    last_number: u64,
}

#[derive(Debug)]
struct Layer {
    row: LayerRow,
    commitment: Commitment,
    leases: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commitment {
    /// Has no row; goes with its last lease.
    Pending,
    /// Has a row; goes when it is collected.
    Committed,
}

#[derive(Debug)]
struct ActiveState {
    layers: Vec<u64>,
    measured: Option<Measurement>,
    /// The project under which the file system counts what it takes.
    project: Option<u32>,
}

/// The snapshotter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path leaves no room for the names below it in a mount option.
    #[error("snapshot directory {} is longer than {DIRECTORY_MAX} bytes", .0.display())]
    PathTooLong(PathBuf),
    /// A directory cannot be made.
    #[error("cannot make the snapshot directory {}", path.display())]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A directory cannot be listed, or cleared of what a crash left.
    #[error("cannot scan the snapshot directory {}", path.display())]
    Scan {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The thread that deletes cannot be started.
    #[error("cannot start the thread that deletes old snapshots")]
    StartThread(#[source] io::Error),
    /// The rows cannot be read or mended.
    #[error("cannot load what is known of snapshots")]
    Load(#[source] MetadataError),
}

impl Snapshots {
    /// Opens, or makes, the store in `directory`, with overlays; deletes what has no row. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(directory: &Path, metadata: Arc<Metadata>) -> Result<Self, OpenError> {
        Self::open_as(directory, metadata, Config::default())
    }

    /// As [`Snapshots::open`], for any driver. Layers are the same for all of them; a snapshot
    /// is its maker's. With a remote snapshotter, to be called where tokio runs. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_as(
        directory: &Path,
        metadata: Arc<Metadata>,
        config: Config,
    ) -> Result<Self, OpenError> {
        if directory.as_os_str().len() > DIRECTORY_MAX {
            return Err(OpenError::PathTooLong(directory.to_owned()));
        }
        for name in [LAYERS, RECORDS, ACTIVE, TRASH, REMOTE] {
            create_directory(&directory.join(name), PRIVATE_DIRECTORY)?;
        }
        for name in EMPTY {
            create_directory(&directory.join(name), ROOTFS_DIRECTORY)?;
        }
        let trash = Trash::start(directory.join(TRASH)).map_err(OpenError::StartThread)?;
        let projects = Projects::find(directory);
        let state = load(directory, &metadata, &trash, projects.as_ref())?;
        let served = served(directory, &state)?;
        Ok(Self(Arc::new(Store {
            directory: directory.to_owned(),
            driver: config.driver,
            remote: config.remote.map(|config| Remote::new(config, directory)),
            metadata,
            state: Mutex::new(state),
            served: Mutex::new(served),
            written: Notify::new(),
            trash,
            device: filesystem::device_of(directory),
            projects,
            asked: watch::Sender::new(None),
            measuring: Arc::default(),
        })))
    }

    /// The store's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// Waits until everything that was removed so far is off the disk. Blocks.
    pub fn wait_until_removed(&self) {
        self.0.trash.wait_until_empty();
    }
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self) -> MutexGuard<'_, HashMap<u64, PathBuf>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a layer is to be read.
    fn layer_root(&self, number: u64) -> PathBuf {
        let served = self.served().get(&number).cloned();
        served.unwrap_or_else(|| self.layer_path(number))
    }

    /// Where a layer is kept.
    fn layer_path(&self, number: u64) -> PathBuf {
        self.directory.join(LAYERS).join(number.to_string())
    }

    fn record_path(&self, number: u64) -> PathBuf {
        self.directory.join(RECORDS).join(number.to_string())
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// Compares rows with directories; what is only on one side goes.
fn load(
    directory: &Path,
    metadata: &Metadata,
    trash: &Trash,
    projects: Option<&Projects>,
) -> Result<State, OpenError> {
    let mut state = State::default();
    let rows = metadata.load_layers().map_err(OpenError::Load)?;
    let directories = directory_names(&directory.join(LAYERS))?;
    let numbers = directories.iter().filter_map(|name| name.parse().ok());
    let row_numbers = rows.iter().map(|row| row.number);
    state.last_number = numbers.chain(row_numbers).max().unwrap_or(0);
    let (whole, lost): (Vec<LayerRow>, Vec<LayerRow>) =
        rows.into_iter().partition(|row| directories.contains(&row.number.to_string()));
    if !lost.is_empty() {
        let lost: Vec<u64> = lost.iter().map(|row| row.number).collect();
        metadata.delete_layers(&lost).map_err(OpenError::Load)?;
    }
    let known: HashSet<String> = whole.iter().map(|row| row.number.to_string()).collect();
    discard_unknown(&directory.join(LAYERS), &directories, &known, trash)?;
    let records = directory.join(RECORDS);
    discard_unknown(&records, &directory_names(&records)?, &known, trash)?;
    state.layers = whole
        .into_iter()
        .map(|row| (row.key.clone(), Layer { row, commitment: Commitment::Committed, leases: 0 }))
        .collect();

    for row in metadata.load_active().map_err(OpenError::Load)? {
        if let Ok(key) = SnapshotKey::parse(&row.key) {
            let path = directory.join(ACTIVE).join(key.as_str());
            let project = projects.and_then(|projects| projects.of(&path));
            let found = ActiveState { layers: row.layers, measured: None, project };
            state.active.insert(key, found);
        }
    }
    let active = directory.join(ACTIVE);
    let known = state.active.keys().map(|key| key.as_str().to_owned()).collect();
    discard_unknown(&active, &directory_names(&active)?, &known, trash)?;
    Ok(state)
}

/// Which layers are links, and where they lead: each of them is in the records.
fn served(directory: &Path, state: &State) -> Result<HashMap<u64, PathBuf>, OpenError> {
    let mut served = HashMap::new();
    let records = directory.join(REMOTE);
    let recorded = remote::recorded(&records);
    for digest in recorded.map_err(|source| OpenError::Scan { path: records, source })? {
        let Some(layer) = state.layers.get(&digest.to_string()) else { continue };
        let number = layer.row.number;
        let path = directory.join(LAYERS).join(number.to_string());
        match fs::read_link(&path) {
            Ok(target) => drop(served.insert(number, target)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(source) => return Err(OpenError::Scan { path, source }),
        }
    }
    Ok(served)
}

fn discard_unknown(
    parent: &Path,
    present: &HashSet<String>,
    known: &HashSet<String>,
    trash: &Trash,
) -> Result<(), OpenError> {
    for name in present.difference(known) {
        let path = parent.join(name);
        trash.discard(&path).map_err(|source| OpenError::Scan { path, source })?;
    }
    Ok(())
}

fn directory_names(path: &Path) -> Result<HashSet<String>, OpenError> {
    fs::read_dir(path)
        .and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        })
        .map_err(|source| OpenError::Scan { path: path.to_owned(), source })
}

fn create_directory(path: &Path, mode: u32) -> Result<(), OpenError> {
    let failed = |source| OpenError::CreateDirectory { path: path.to_owned(), source };
    let parent = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(parent).map_err(failed)?;
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)
}

#[cfg(test)]
mod tests;
