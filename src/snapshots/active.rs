//! Active snapshots: a writable directory on a stack of layers.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    ACTIVE, ActiveState, Driver, EMPTY, PRIVATE_DIRECTORY, ROOTFS_DIRECTORY, Snapshots, Store,
    native, stack,
};
use crate::metadata::{ActiveRow, Digest, MetadataError};

const KEY_MAX: usize = 128;
const UPPER: &str = "upper";
const WORK: &str = "work";

/// The name of an active snapshot, chosen by its user; a function of the container's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey(String);

/// The text cannot name a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("snapshot key {0:?} is not 1 to {KEY_MAX} letters, digits, dashes or underscores")]
pub struct SnapshotKeyError(String);

impl SnapshotKey {
    /// Checks that the text is safe as a file name and short enough for a mount option.
    ///
    /// # Errors
    /// [`SnapshotKeyError`].
    pub fn parse(text: &str) -> Result<Self, SnapshotKeyError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=KEY_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SnapshotKeyError(text.chars().take(KEY_MAX).collect()))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to mount for an active snapshot. Every path is short enough for one `fsconfig` option
/// (`lowerdir+`, `upperdir`, `workdir`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// The layers, top first; none when `upper` has all that is in them.
    pub lower: Vec<PathBuf>,
    /// Where the container writes; its owner and mode are those of the image's root directory.
    pub upper: PathBuf,
    /// Overlayfs's own directory, on the same file system.
    pub work: PathBuf,
}

/// An operation on an active snapshot failed.
#[derive(Debug, thiserror::Error)]
pub enum ActiveError {
    /// A layer is not, or no longer, on disk.
    #[error("layer {diff_id} of snapshot {key} is not unpacked")]
    LayerMissing {
        /// The snapshot.
        key: SnapshotKey,
        /// The layer.
        diff_id: Digest,
    },
    /// The key names a snapshot of other layers.
    #[error("snapshot {0} exists on other layers")]
    Conflict(SnapshotKey),
    /// The row cannot be written.
    #[error("cannot record snapshot {key}")]
    Record {
        /// The snapshot.
        key: SnapshotKey,
        /// The cause.
        #[source]
        source: MetadataError,
    },
    /// The directories cannot be made.
    #[error("cannot make the directories of snapshot {key}")]
    CreateDirectories {
        /// The snapshot.
        key: SnapshotKey,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The directories cannot be moved to the trash.
    #[error("cannot remove the directories of snapshot {key}")]
    RemoveDirectories {
        /// The snapshot.
        key: SnapshotKey,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Snapshots {
    /// Makes an active snapshot on these layers (lowest first), or finds the one made before.
    /// While it exists its layers stay on disk, whatever happens to their image. Makes no mount.
    /// Blocks.
    ///
    /// # Errors
    /// [`ActiveError`]; of note [`ActiveError::LayerMissing`] when the image has just been
    /// removed. After an error [`Snapshots::remove`] leaves nothing.
    ///
    /// # Crash safety
    /// The row comes before the directories. Calling again completes what a crash left half done.
    pub fn prepare(&self, key: &SnapshotKey, diff_ids: &[Digest]) -> Result<Active, ActiveError> {
        let layers = self.claim(key, diff_ids)?;
        let row = ActiveRow { key: key.as_str().to_owned(), layers };
        self.0
            .metadata
            .put_active(&row)
            .map_err(|source| ActiveError::Record { key: key.clone(), source })?;
        let active = self.0.describe(key, &row.layers);
        self.create_directories(key, &active, &row.layers)
            .map_err(|source| ActiveError::CreateDirectories { key: key.clone(), source })?;
        Ok(active)
    }

    /// An empty directory that is to become the writable directory of a snapshot. Blocks.
    ///
    /// # Errors
    /// What the file system says.
    ///
    /// # Crash safety
    /// The next start deletes it.
    pub fn scratch(&self) -> io::Result<Scratch> {
        let number = self.0.state().next_number();
        let scratch = Scratch { store: Arc::clone(&self.0), number };
        DirBuilder::new().mode(ROOTFS_DIRECTORY).create(scratch.path())?;
        Ok(scratch)
    }

    /// Makes a new active snapshot on these layers (lowest first) of what was written into
    /// `scratch`. It is no project of its own: files do not move from one to another. Blocks.
    ///
    /// # Errors
    /// As [`Snapshots::prepare`], and [`ActiveError::Conflict`] when the key is taken.
    ///
    /// # Crash safety
    /// The row comes first; the snapshot is complete when its last directory is there.
    pub fn prepare_from(
        &self,
        key: &SnapshotKey,
        diff_ids: &[Digest],
        scratch: &Scratch,
    ) -> Result<Active, ActiveError> {
        if self.0.state().active.contains_key(key) {
            return Err(ActiveError::Conflict(key.clone()));
        }
        let layers = self.claim(key, diff_ids)?;
        let row = ActiveRow { key: key.as_str().to_owned(), layers };
        let recorded = self.0.metadata.put_active(&row);
        recorded.map_err(|source| ActiveError::Record { key: key.clone(), source })?;
        let active = self.0.describe(key, &row.layers);
        let mut private = DirBuilder::new();
        private.recursive(true).mode(PRIVATE_DIRECTORY);
        let made = private
            .create(self.0.active_path(key))
            .and_then(|()| match self.0.driver {
                Driver::Overlay => fs::rename(scratch.path(), &active.upper),
                Driver::Native => {
                    let below = self.0.lower_paths(&row.layers, 0);
                    let all: Vec<PathBuf> = [scratch.path()].into_iter().chain(below).collect();
                    self.0.copy_tree(&all, &active.upper)
                }
            })
            .and_then(|()| private.create(&active.work));
        made.map_err(|source| ActiveError::CreateDirectories { key: key.clone(), source })?;
        Ok(active)
    }

    /// `work` comes last: where it is, all is there.
    fn create_directories(
        &self,
        key: &SnapshotKey,
        active: &Active,
        layers: &[u64],
    ) -> io::Result<()> {
        if active.work.is_dir() {
            return Ok(());
        }
        let mut private = DirBuilder::new();
        private.recursive(true).mode(PRIVATE_DIRECTORY);
        private.create(self.0.active_path(key))?;
        self.count(key);
        if self.0.driver == Driver::Native {
            self.0.copy_tree(&self.0.lower_paths(layers, 0), &active.upper)?;
            return private.create(&active.work);
        }
        private.create(&active.upper)?;
        if let Some(top) = active.lower.first() {
            let root = fs::metadata(top)?;
            std::os::unix::fs::chown(
                &active.upper,
                Some(std::os::unix::fs::MetadataExt::uid(&root)),
                Some(std::os::unix::fs::MetadataExt::gid(&root)),
            )?;
            fs::set_permissions(&active.upper, root.permissions())?;
        }
        private.create(&active.work)
    }

    /// Has the file system count what is made in a snapshot, if it can. One that is not counted
    /// is walked through.
    fn count(&self, key: &SnapshotKey) {
        let Some(projects) = &self.0.projects else { return };
        let number = {
            let mut state = self.0.state();
            let taken: HashSet<u32> = state.active.values().filter_map(|one| one.project).collect();
            let Some(active) = state.active.get_mut(key) else { return };
            if active.project.is_none() {
                active.project = projects.free(|number| taken.contains(&number));
            }
            active.project
        };
        let Some(number) = number else { return };
        if let Err(error) = projects.count(&self.0.active_path(key), number) {
            tracing::warn!(snapshot = %key, %error, "a snapshot cannot be a project of its own");
            if let Some(active) = self.0.state().active.get_mut(key) {
                active.project = None;
            }
        }
    }

    /// Enters the snapshot into the state, which keeps its layers from now on.
    fn claim(&self, key: &SnapshotKey, diff_ids: &[Digest]) -> Result<Vec<u64>, ActiveError> {
        let mut state = self.0.state();
        let layers = stack::numbers(&state, diff_ids)
            .map_err(|diff_id| ActiveError::LayerMissing { key: key.clone(), diff_id })?;
        let fresh = || ActiveState { layers: layers.clone(), measured: None, project: None };
        let claimed = state.active.entry(key.clone()).or_insert_with(fresh);
        if claimed.layers == layers { Ok(layers) } else { Err(ActiveError::Conflict(key.clone())) }
    }

    /// The active snapshot of this key, after a restart too; `None` when there is none, or when
    /// it was never completed. Blocks.
    #[must_use]
    pub fn active(&self, key: &SnapshotKey) -> Option<Active> {
        let layers = self.0.state().active.get(key)?.layers.clone();
        let active = self.0.describe(key, &layers);
        let complete = active.work.is_dir() && active.lower.iter().all(|path| path.is_dir());
        complete.then_some(active)
    }

    /// The keys of all active snapshots, complete or not.
    #[must_use]
    pub fn keys(&self) -> Vec<SnapshotKey> {
        self.0.state().active.keys().cloned().collect()
    }

    /// Removes an active snapshot; one that is not there, or only in part, is fine. The disk is
    /// freed later. Blocks.
    ///
    /// # Errors
    /// [`ActiveError::RemoveDirectories`] and [`ActiveError::Record`]; call again then.
    ///
    /// # Crash safety
    /// The row goes after the directories, so that a crash between leaves it to the next call.
    pub fn remove(&self, key: &SnapshotKey) -> Result<(), ActiveError> {
        self.0
            .trash
            .discard(&self.0.active_path(key))
            .map_err(|source| ActiveError::RemoveDirectories { key: key.clone(), source })?;
        self.0
            .metadata
            .delete_active(key.as_str())
            .map_err(|source| ActiveError::Record { key: key.clone(), source })?;
        self.0.state().active.remove(key);
        Ok(())
    }
}

/// A directory that is written before it belongs to a snapshot. Dropping it deletes what is
/// still there.
#[derive(Debug)]
pub struct Scratch {
    store: Arc<Store>,
    number: u64,
}

impl Scratch {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.store.layer_path(self.number)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.store.discard_layer(self.number);
    }
}

impl Store {
    fn active_path(&self, key: &SnapshotKey) -> PathBuf {
        self.directory.join(ACTIVE).join(key.as_str())
    }

    pub(super) fn upper_path(&self, key: &SnapshotKey) -> PathBuf {
        self.active_path(key).join(UPPER)
    }

    /// The directories of these layers, top first, and at least `least` of them.
    pub(super) fn lower_paths(&self, layers: &[u64], least: usize) -> Vec<PathBuf> {
        let missing = least.saturating_sub(layers.len());
        let empty = EMPTY.iter().take(missing).map(|name| self.directory.join(name));
        layers.iter().map(|number| self.layer_root(*number)).chain(empty).collect()
    }

    /// Copies these layers, top first, into a directory that is made anew.
    fn copy_tree(&self, layers: &[PathBuf], to: &Path) -> io::Result<()> {
        // What a crash left half copied.
        self.trash.discard(to)?;
        DirBuilder::new().mode(ROOTFS_DIRECTORY).create(to)?;
        native::merge(layers, to)
    }

    fn describe(&self, key: &SnapshotKey, layers: &[u64]) -> Active {
        let lower = match self.driver {
            Driver::Overlay => self.lower_paths(layers, 1),
            Driver::Native => Vec::new(),
        };
        Active { lower, upper: self.upper_path(key), work: self.active_path(key).join(WORK) }
    }
}
