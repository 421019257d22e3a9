//! How much of the disk a tree takes.
//!
//! Where the file system counts (see `projects`), it is asked, there and then.
//!
//! Elsewhere a tree is walked, which is expensive, so writable directories are measured in the
//! background, one at a time, and only for a while after somebody asked; who asks gets the last
//! measurement and does not wait.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::iter::Sum;
use std::ops::Add;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{ActiveState, SnapshotKey, Snapshots, Store};

/// `st_blocks` counts these, whatever the file system's block size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// Disk space and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
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

/// How much rarer a directory is measured than it takes to measure it: a big one costs a
/// tenth of a processor at most.
const RARITY: u32 = 10;

/// A measurement of the writable directory of an active snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    /// What was found.
    pub usage: Usage,
    /// When.
    pub at: Instant,
    took: Duration,
}

impl Measurement {
    fn is_due(&self, age: Duration) -> bool {
        self.at.elapsed() >= age.max(self.took * RARITY)
    }
}

impl Snapshots {
    /// What the writable directory of an active snapshot takes, measured now; `None` when there
    /// is no such snapshot. Blocks.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn usage(&self, key: &SnapshotKey) -> Result<Option<Usage>, UsageError> {
        {
            let state = self.0.state();
            let Some(active) = state.active.get(key) else { return Ok(None) };
            if let Some(counted) = self.0.counted(active) {
                return Ok(Some(counted.usage));
            }
        }
        let at = Instant::now();
        let usage = measure(&self.0.upper_path(key))?;
        if let Some(active) = self.0.state().active.get_mut(key) {
            active.measured = Some(Measurement { usage, at, took: at.elapsed() });
        }
        Ok(Some(usage))
    }

    /// The last measurement of an active snapshot, if there is one. Does not touch the disk;
    /// but says that somebody wants to know, so that it is kept fresh for a while.
    #[must_use]
    pub fn measured(&self, key: &SnapshotKey) -> Option<Measurement> {
        self.0.asked.send_replace(Some(Instant::now()));
        let state = self.0.state();
        let active = state.active.get(key)?;
        self.0.counted(active).or(active.measured)
    }

    /// What all active snapshots took when they were last measured. Does not touch the disk;
    /// says that somebody wants to know, as [`Snapshots::measured`] does.
    #[must_use]
    pub fn active_usage(&self) -> Usage {
        self.0.asked.send_replace(Some(Instant::now()));
        let state = self.0.state();
        let measured =
            state.active.values().filter_map(|active| self.0.counted(active).or(active.measured));
        measured.map(|measured| measured.usage).sum()
    }

    /// Returns once somebody has asked for measurements within the last `interest`.
    pub async fn usage_wanted(&self, interest: Duration) {
        let wanted = |asked: &Option<Instant>| asked.is_some_and(|at| at.elapsed() < interest);
        // The sender is in the store that this borrows; it is not dropped.
        let _ = self.0.asked.subscribe().wait_for(wanted).await;
    }

    /// What all layers take, as measured when they were unpacked. Does not touch the disk.
    #[must_use]
    pub fn layer_usage(&self) -> Usage {
        let state = self.0.state();
        let layers = state.layers.values().map(|layer| &layer.row);
        layers.map(|row| Usage { bytes: row.bytes, inodes: row.inodes }).sum()
    }

    /// Sees to it that measurements are not older than `age`, for at most `patience`: after
    /// that the measuring goes on, and the caller too.
    pub async fn freshen_usage(&self, age: Duration, patience: Duration) {
        if self.old_measurements(age).is_empty() {
            return;
        }
        // Who asks again finds what this measured; why it could not is told by the next round.
        let _ = timeout(patience, self.refresh_usage(age)).await;
    }

    /// Measures the active snapshots that were not measured for `age`, nor for a multiple of
    /// the time that it took. One caller does it at a time, the others wait.
    ///
    /// # Errors
    /// The first [`UsageError`], after all have been tried.
    ///
    /// # Cancel safety
    /// The measuring goes on.
    pub async fn refresh_usage(&self, age: Duration) -> Result<(), UsageError> {
        let turn = Arc::clone(&self.0.measuring).lock_owned().await;
        let snapshots = self.clone();
        let measuring = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            snapshots.measure_old(age)
        });
        // It does not panic, and is cancelled only when the daemon ends.
        measuring.await.unwrap_or(Ok(()))
    }

    fn measure_old(&self, age: Duration) -> Result<(), UsageError> {
        let old = self.old_measurements(age);
        old.iter().map(|key| self.usage(key).map(drop)).fold(Ok(()), Result::and)
    }

    fn old_measurements(&self, age: Duration) -> Vec<SnapshotKey> {
        let state = self.0.state();
        let is_old = |active: &ActiveState| {
            active.measured.is_none_or(|one| one.is_due(age)) && self.0.counted(active).is_none()
        };
        let old = state.active.iter().filter(|(_, active)| is_old(active));
        old.map(|(key, _)| key.clone()).collect()
    }
}

impl Store {
    /// What the file system has counted for a snapshot, up to now.
    fn counted(&self, active: &ActiveState) -> Option<Measurement> {
        let usage = self.projects.as_ref()?.usage(active.project?).ok()?;
        Some(Measurement { usage, at: Instant::now(), took: Duration::ZERO })
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
