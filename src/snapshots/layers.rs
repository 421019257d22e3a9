//! Layers: who may write one, who needs one, and when it becomes durable.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use super::{
    Commitment, Layer, ROOTFS_DIRECTORY, SnapshotKey, Snapshots, State, Store, Usage, UsageError,
    stack, usage,
};
use crate::metadata::{Digest, ImageRow, LayerRow, MetadataError};

/// What [`Snapshots::layer`] finds.
#[derive(Debug)]
pub enum LayerSlot {
    /// The layer is unpacked.
    Ready(LayerLease),
    /// It is not, and the caller alone may unpack it.
    Absent(LayerWriter),
}

/// The right to write one layer. Dropping it unfinished deletes what was written.
#[derive(Debug)]
pub struct LayerWriter {
    pub(super) store: Arc<Store>,
    diff_id: Digest,
    pub(super) number: u64,
    purpose: Purpose,
    finished: Option<()>,
}

/// What a layer is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// It is not there.
    Missing,
    /// It is to take the place of the one that is there, by [`Snapshots::replace`].
    Replacement,
}

/// What was written into a layer's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerContents {
    /// Disk space and inodes of what was written.
    pub usage: Usage,
    /// Directories that hold named entries but were not named themselves, relative to the
    /// layer's root; the root is the empty path.
    pub implied: Vec<PathBuf>,
}

/// A claim on a layer: while it lives the layer stays on disk.
#[derive(Debug)]
pub struct LayerLease {
    store: Arc<Store>,
    key: String,
    number: u64,
    usage: Usage,
}

/// A layer's directory cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the layer directory {}", path.display())]
pub struct LayerError {
    path: PathBuf,
    source: io::Error,
}

/// A layer cannot take the place of another.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// It is not there any more.
    #[error("the new layer {0} is gone")]
    Lost(Digest),
    /// Data cannot be brought to the disk.
    #[error("cannot flush {} to the disk", path.display())]
    Flush {
        /// The store's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The rows cannot be written.
    #[error("cannot record the new layer {diff_id}")]
    Record {
        /// The layer.
        diff_id: Digest,
        /// The cause.
        #[source]
        source: MetadataError,
    },
}

/// An image's layers cannot be made durable.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The synthetic layer on top cannot be written.
    #[error("cannot complete the directories that layers imply")]
    Stack(#[source] stack::StackError),
    /// Data cannot be brought to the disk.
    #[error("cannot flush {} to the disk", path.display())]
    Flush {
        /// The store's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The rows cannot be written.
    #[error("cannot commit image {id}")]
    Record {
        /// The image's id.
        id: Digest,
        /// The cause.
        #[source]
        source: MetadataError,
    },
}

impl Snapshots {
    /// The layer of this diffID, or the right to write it. While somebody else writes it, waits
    /// until it is finished or given up.
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing.
    pub async fn layer(&self, diff_id: &Digest) -> LayerSlot {
        loop {
            let mut written = pin!(self.0.written.notified());
            // Listens before it looks, so that no notice is lost between the two.
            written.as_mut().enable();
            if let Some(slot) = self.try_layer(diff_id) {
                return slot;
            }
            written.await;
        }
    }

    /// As [`Snapshots::layer`], but `None` while somebody else writes the layer.
    #[must_use]
    pub fn try_layer(&self, diff_id: &Digest) -> Option<LayerSlot> {
        let mut state = self.0.state();
        if let Some(layer) = state.layers.get_mut(&diff_id.to_string()) {
            return Some(LayerSlot::Ready(LayerLease::take(&self.0, layer)));
        }
        let number = state.begin_writing(diff_id)?;
        Some(LayerSlot::Absent(LayerWriter {
            store: Arc::clone(&self.0),
            diff_id: diff_id.clone(),
            number,
            purpose: Purpose::Missing,
            finished: None,
        }))
    }

    /// The right to write a layer anew, whether or not it is there. While somebody else writes
    /// it, waits. Nobody finds what is written before [`Snapshots::replace`].
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing.
    pub async fn rewrite(&self, diff_id: &Digest) -> LayerWriter {
        loop {
            let mut written = pin!(self.0.written.notified());
            written.as_mut().enable();
            {
                let mut state = self.0.state();
                if let Some(number) = state.begin_writing(diff_id) {
                    return LayerWriter {
                        store: Arc::clone(&self.0),
                        diff_id: diff_id.clone(),
                        number,
                        purpose: Purpose::Replacement,
                        finished: None,
                    };
                }
            }
            written.await;
        }
    }

    /// Puts a layer that was written anew in the place of the one of this diffID. Snapshots that
    /// stand on the old one keep it; it goes with the last of them. Blocks.
    ///
    /// # Errors
    /// [`ReplaceError`]; the old one stays then, and nothing is left of the new one.
    ///
    /// # Crash safety
    /// The files are flushed before the rows are written, and the rows are one transaction.
    pub fn replace(&self, diff_id: &Digest, lease: LayerLease) -> Result<(), ReplaceError> {
        let failed = || (diff_id.clone(), self.0.directory.clone());
        let row = self.0.state().layers.get(&lease.key).map(|layer| layer.row.clone());
        let Some(mut row) = row else { return Err(ReplaceError::Lost(failed().0)) };
        row.key = diff_id.to_string();
        File::open(&self.0.directory)
            .and_then(|directory| Ok(rustix::fs::syncfs(directory)?))
            .map_err(|source| ReplaceError::Flush { path: failed().1, source })?;
        let old = self.0.state().layers.get(&row.key).map(|layer| layer.row.number);
        let old_key = replaced_key(old.unwrap_or_default());
        self.0
            .metadata
            .replace_layer(&row, &old_key)
            .map_err(|source| ReplaceError::Record { diff_id: failed().0, source })?;
        let mut state = self.0.state();
        if let Some(mut old) = state.layers.remove(&row.key) {
            old.row.key.clone_from(&old_key);
            state.layers.insert(old_key, old);
        }
        state.layers.remove(&lease.key);
        // The only claim on it was the lease that ends here.
        let new = Layer { row, commitment: Commitment::Committed, leases: 0 };
        state.layers.insert(new.row.key.clone(), new);
        Ok(())
    }

    /// Makes layers durable together with their image. `leases` are those of `image.layers`.
    /// Blocks.
    ///
    /// # Errors
    /// [`CommitError`]; neither the image nor a layer is committed then.
    ///
    /// # Crash safety
    /// The files are flushed before the rows are written, and the rows are one transaction.
    pub fn commit_image(&self, image: &ImageRow, leases: &[LayerLease]) -> Result<(), CommitError> {
        let stack = stack::write(&self.0, &image.layers).map_err(CommitError::Stack)?;
        let rows = self.pending_rows(leases.iter().chain(&stack));
        let flushed =
            File::open(&self.0.directory).and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
        flushed.map_err(|source| CommitError::Flush { path: self.0.directory.clone(), source })?;
        self.0
            .metadata
            .commit_image(image, &rows)
            .map_err(|source| CommitError::Record { id: image.id.clone(), source })?;
        let mut state = self.0.state();
        for row in rows {
            if let Some(layer) = state.layers.get_mut(&row.key) {
                layer.commitment = Commitment::Committed;
            }
        }
        Ok(())
    }

    fn pending_rows<'a>(&self, leases: impl Iterator<Item = &'a LayerLease>) -> Vec<LayerRow> {
        let state = self.0.state();
        let mut keys = HashSet::new();
        leases
            .filter(|lease| keys.insert(lease.key.as_str()))
            .filter_map(|lease| state.layers.get(&lease.key))
            .filter(|layer| layer.commitment == Commitment::Pending)
            .map(|layer| layer.row.clone())
            .collect()
    }

    /// A lease on a layer that is unpacked; `None` when it is not.
    #[must_use]
    pub fn lease(&self, diff_id: &Digest) -> Option<LayerLease> {
        let mut state = self.0.state();
        state.layers.get_mut(&diff_id.to_string()).map(|layer| LayerLease::take(&self.0, layer))
    }

    /// Every layer, by its diffID or the key of a synthetic one, and what it takes of the disk.
    #[must_use]
    pub fn layers(&self) -> Vec<(String, Usage)> {
        let state = self.0.state();
        let layers = state.layers.values().map(|it| (it.row.key.clone(), usage_of(&it.row)));
        let mut layers: Vec<_> = layers.collect();
        layers.sort();
        layers
    }

    /// What keeps a layer now: leases, and the active snapshots that stand on it. `None` when
    /// there is no such layer.
    #[must_use]
    pub fn claims(&self, diff_id: &Digest) -> Option<(usize, Vec<SnapshotKey>)> {
        let state = self.0.state();
        let layer = state.layers.get(&diff_id.to_string())?;
        let active = state.active.iter();
        let on_it = active.filter(|(_, active)| active.layers.contains(&layer.row.number));
        Some((layer.leases, on_it.map(|(key, _)| key.clone()).collect()))
    }

    /// Whether every one of these layers is on disk.
    #[must_use]
    pub fn has_layers(&self, diff_ids: &[Digest]) -> bool {
        let state = self.0.state();
        diff_ids.iter().all(|diff_id| state.layers.contains_key(&diff_id.to_string()))
    }

    /// The highest number up to which every layer is committed or gone.
    #[must_use]
    pub fn settled(&self) -> u64 {
        let state = self.0.state();
        let pending = state.layers.values().filter(|it| it.commitment == Commitment::Pending);
        let open = pending.map(|layer| layer.row.number).chain(state.writing.values().copied());
        open.min().map_or(state.last_number, |lowest| lowest.saturating_sub(1))
    }

    /// The layers with higher numbers than this, by diffID; synthetic and served ones, which are
    /// held against nothing, are not among them.
    #[must_use]
    pub fn layers_after(&self, number: u64) -> Vec<Digest> {
        let state = self.0.state();
        let served = self.0.served();
        let newer = state.layers.values().map(|layer| &layer.row);
        let newer = newer.filter(|row| row.number > number && !served.contains_key(&row.number));
        newer.filter_map(|row| row.key.parse().ok()).collect()
    }

    /// Takes a damaged layer's diffID away, so that it is fetched again. Snapshots that stand on
    /// it keep it. Blocks.
    ///
    /// # Errors
    /// [`MetadataError`]; the layer is then as it was.
    pub fn set_aside(&self, diff_id: &Digest) -> Result<(), MetadataError> {
        let key = diff_id.to_string();
        let number = self.0.state().layers.get(&key).map(|layer| layer.row.number);
        let Some(number) = number else { return Ok(()) };
        let other = replaced_key(number);
        self.0.metadata.rename_layer(&key, &other)?;
        let mut state = self.0.state();
        if let Some(mut layer) = state.layers.remove(&key) {
            layer.row.key.clone_from(&other);
            state.layers.insert(other, layer);
        }
        Ok(())
    }

    /// Deletes every committed layer that has no lease, is in no active snapshot, and belongs to
    /// none of `images` (each the diffIDs of one image, lowest first); says which, by diffID or
    /// the key of a synthetic one, and what each took. Blocks.
    ///
    /// # Errors
    /// [`MetadataError`]; the layers are then deleted at the next start.
    ///
    /// # Crash safety
    /// The rows go first, durably; what is left of the files is deleted at the next start.
    pub fn collect<'a>(
        &self,
        images: impl Iterator<Item = &'a [Digest]>,
    ) -> Result<Vec<(String, Usage)>, MetadataError> {
        let referenced: HashSet<String> = images
            .flat_map(|layers| layers.iter().map(Digest::to_string).chain([stack::key(layers)]))
            .collect();
        let unused: Vec<LayerRow> = {
            let mut state = self.0.state();
            let in_use: HashSet<u64> =
                state.active.values().flat_map(|active| active.layers.iter().copied()).collect();
            let unused = state.layers.extract_if(|key, layer| {
                layer.commitment == Commitment::Committed
                    && layer.leases == 0
                    && !referenced.contains(key)
                    && !in_use.contains(&layer.row.number)
            });
            unused.map(|(_, layer)| layer.row).collect()
        };
        if unused.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<u64> = unused.iter().map(|row| row.number).collect();
        self.0.metadata.delete_layers(&numbers)?;
        for number in numbers {
            self.0.discard_layer(number);
        }
        Ok(unused.into_iter().map(|row| (row.key.clone(), usage_of(&row))).collect())
    }
}

fn usage_of(row: &LayerRow) -> Usage {
    Usage { bytes: row.bytes, inodes: row.inodes }
}

impl State {
    /// The number of a layer that is to be written; `None` while somebody else writes it.
    fn begin_writing(&mut self, diff_id: &Digest) -> Option<u64> {
        if self.writing.contains_key(diff_id) {
            return None;
        }
        let number = self.next_number();
        self.writing.insert(diff_id.clone(), number);
        Some(number)
    }
}

/// What a layer is found by once another one has its diffID.
fn replaced_key(number: u64) -> String {
    format!("replaced-{number}")
}

impl Store {
    /// What cannot be moved to the trash has no row, so the next start deletes it.
    pub(super) fn discard_layer(&self, number: u64) {
        for path in [self.layer_path(number), self.record_path(number)] {
            if let Err(error) = self.trash.discard(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot discard a layer");
            }
        }
        self.served().remove(&number);
        if let Some(remote) = &self.remote {
            remote.notice();
        }
    }

    /// Adds a layer that nobody has committed yet.
    pub(super) fn add_pending(self: &Arc<Self>, row: LayerRow) -> LayerLease {
        let mut state = self.state();
        let mut layer = Layer { row, commitment: Commitment::Pending, leases: 0 };
        let lease = LayerLease::take(self, &mut layer);
        state.layers.insert(layer.row.key.clone(), layer);
        lease
    }
}

impl LayerWriter {
    /// The diffID that the layer must turn out to have.
    #[must_use]
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Where the layer is written.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.store.layer_path(self.number)
    }

    /// Where the unpacker may write down what it needs to know later about the layer's archive.
    #[must_use]
    pub fn record_path(&self) -> PathBuf {
        self.store.record_path(self.number)
    }

    /// Makes the layer's directory and opens it; anything written before is thrown away.
    /// Blocks.
    ///
    /// # Errors
    /// [`LayerError`] with the path and the cause.
    pub fn create(&self) -> Result<File, LayerError> {
        let path = self.path();
        let made = self.store.trash.discard(&path).and_then(|()| {
            DirBuilder::new().mode(ROOTFS_DIRECTORY).create(&path)?;
            // The mode must not depend on the umask.
            fs::set_permissions(
                &path,
                std::os::unix::fs::PermissionsExt::from_mode(ROOTFS_DIRECTORY),
            )?;
            File::open(&path)
        });
        made.map_err(|source| LayerError { path, source })
    }

    /// Says that the layer is complete and has its diffID.
    #[must_use]
    pub fn finish(mut self, contents: LayerContents) -> LayerLease {
        self.finished = Some(());
        // One that is not there takes nothing.
        let record = usage::measure(&self.record_path()).unwrap_or_default();
        let usage = contents.usage + record;
        let key = match self.purpose {
            Purpose::Missing => self.diff_id.to_string(),
            Purpose::Replacement => format!("replacement-{}", self.number),
        };
        self.store.add_pending(LayerRow {
            number: self.number,
            key,
            bytes: usage.bytes,
            inodes: usage.inodes,
            implied: stack::encode(&contents.implied),
        })
        // Dropping `self` now ends the writing, after the layer can be found.
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        if self.finished.is_none() {
            self.store.discard_layer(self.number);
        }
        self.store.state().writing.remove(&self.diff_id);
        self.store.written.notify_waiters();
    }
}

impl LayerLease {
    pub(super) fn take(store: &Arc<Store>, layer: &mut Layer) -> Self {
        layer.leases += 1;
        Self {
            store: Arc::clone(store),
            key: layer.row.key.clone(),
            number: layer.row.number,
            usage: usage_of(&layer.row),
        }
    }

    /// What the layer takes of the disk.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The layer's directory; read-only by custom.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.store.layer_root(self.number)
    }

    /// What the unpacker wrote down about the layer's archive; there may be no such file.
    #[must_use]
    pub fn record_path(&self) -> PathBuf {
        self.store.record_path(self.number)
    }

    /// Counts what is in the layer's directory now. Blocks.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn measure(&self) -> Result<Usage, UsageError> {
        usage::measure(&self.path())
    }
}

impl Drop for LayerLease {
    fn drop(&mut self) {
        let mut state = self.store.state();
        let mut key = self.key.clone();
        if state.layers.get(&key).is_none_or(|layer| layer.row.number != self.number) {
            key = replaced_key(self.number);
        }
        let Some(layer) = state.layers.get_mut(&key) else { return };
        layer.leases -= 1;
        if layer.leases == 0 && layer.commitment == Commitment::Pending {
            state.layers.remove(&key);
            drop(state);
            self.store.discard_layer(self.number);
        }
    }
}
