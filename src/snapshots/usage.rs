//! How much of the disk a tree takes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::iter::Sum;
use std::ops::Add;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{SnapshotKey, Snapshots};

/// `st_blocks` counts these, whatever the file system's block size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// Disk space and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Disk space in bytes.
    pub bytes: u64,
    /// Files, directories and everything else with an inode.
    pub inodes: u64,
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Self::add)
    }
}

/// A tree cannot be measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot measure {}", path.display())]
pub struct UsageError {
    path: PathBuf,
    source: io::Error,
}

impl Snapshots {
    /// What the writable directory of an active snapshot takes, measured now; `None` when there
    /// is no such snapshot. Blocks.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn usage(&self, key: &SnapshotKey) -> Result<Option<Usage>, UsageError> {
        if !self.0.state().active.contains_key(key) {
            return Ok(None);
        }
        let usage = measure(&self.0.upper_path(key))?;
        if let Some(active) = self.0.state().active.get_mut(key) {
            active.measured = Some((usage, Instant::now()));
        }
        Ok(Some(usage))
    }

    /// What all layers take, as measured when they were unpacked. Does not touch the disk.
    #[must_use]
    pub fn layer_usage(&self) -> Usage {
        let state = self.0.state();
        let layers = state.layers.values().map(|layer| &layer.row);
        layers.map(|row| Usage { bytes: row.bytes, inodes: row.inodes }).sum()
    }

    /// What all active snapshots took when they were last measured. Does not touch the disk.
    #[must_use]
    pub fn active_usage(&self) -> Usage {
        let state = self.0.state();
        let measured = state.active.values().filter_map(|active| active.measured);
        measured.map(|(usage, _)| usage).sum()
    }

    /// Measures the active snapshots that were not measured for `age`. Blocks.
    ///
    /// # Errors
    /// The first [`UsageError`], after all have been tried.
    pub fn refresh_usage(&self, age: Duration) -> Result<(), UsageError> {
        let old: Vec<SnapshotKey> = {
            let state = self.0.state();
            let is_old = |measured: Option<(Usage, Instant)>| {
                measured.is_none_or(|(_, when)| when.elapsed() >= age)
            };
            let old = state.active.iter().filter(|(_, active)| is_old(active.measured));
            old.map(|(key, _)| key.clone()).collect()
        };
        old.iter().map(|key| self.usage(key).map(drop)).fold(Ok(()), Result::and)
    }
}

/// Measures a tree; a file with several links counts once, and what vanishes meanwhile not.
pub(super) fn measure(root: &Path) -> Result<Usage, UsageError> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let failed = |source| UsageError { path: path.clone(), source };
        let Some(metadata) = unless_gone(fs::symlink_metadata(&path)).map_err(failed)? else {
            continue;
        };
        if metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino()) {
            continue;
        }
        usage.bytes += metadata.blocks() * STAT_BLOCK_BYTES;
        usage.inodes += 1;
        if metadata.is_dir() {
            let Some(entries) = unless_gone(fs::read_dir(&path)).map_err(failed)? else { continue };
            for entry in entries {
                pending.push(entry.map_err(failed)?.path());
            }
        }
    }
    Ok(usage)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
