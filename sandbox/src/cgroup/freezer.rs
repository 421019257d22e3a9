//! Freezing a group: by `cgroup.freeze` where the unified hierarchy is mounted, else by the v1
//! freezer.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::file::{self, FileError};
use super::group::Cgroup;
use super::hierarchies::{Controller, Version};

/// Why a group could not be frozen or thawed.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The host has neither a unified hierarchy nor the v1 freezer.
    #[error("no freezer is mounted on this host")]
    NoFreezer,
    /// A file of the freezer failed.
    #[error("change the freezer of a cgroup")]
    Change {
        /// The file.
        #[source]
        source: FileError,
    },
    /// Waiting for the processes failed.
    #[error("wait for {} to freeze", .directory.display())]
    Wait {
        /// The group.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Some process did not freeze in time; the group was thawed again.
    #[error("{} did not freeze within {} ms", .directory.display(), .patience.as_millis())]
    TimedOut {
        /// The group.
        directory: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
}

impl Cgroup {
    /// Stops all processes of the group, and waits until they have stopped.
    ///
    /// # Errors
    /// [`FreezeError::TimedOut`] after `patience`; the group is thawed then.
    pub fn freeze(&self, patience: Duration) -> Result<(), FreezeError> {
        let (version, directory) = self.freezer()?;
        let frozen = set(version, &directory, State::Frozen)
            .map_err(|source| FreezeError::Change { source })
            .and_then(|()| wait_frozen(version, &directory, patience));
        if frozen.is_err() {
            set(version, &directory, State::Thawed)
                .map_err(|source| FreezeError::Change { source })?;
        }
        frozen
    }

    /// Begins to stop all processes of the group; [`Cgroup::is_frozen`] tells when they have
    /// stopped. With the v1 freezer this is to be repeated until then, for the sake of
    /// processes that were forked meanwhile.
    ///
    /// # Errors
    /// [`FreezeError::Change`] when the group is gone or the kernel refuses.
    pub fn begin_freeze(&self) -> Result<(), FreezeError> {
        let (version, directory) = self.freezer()?;
        set(version, &directory, State::Frozen).map_err(|source| FreezeError::Change { source })
    }

    /// The group's directory in the hierarchy by which it is frozen.
    ///
    /// # Errors
    /// [`FreezeError::NoFreezer`].
    pub fn freezer_directory(&self) -> Result<PathBuf, FreezeError> {
        Ok(self.freezer()?.1)
    }

    /// Lets all processes of the group go on.
    ///
    /// # Errors
    /// [`FreezeError::Change`] when the group is gone or the kernel refuses.
    pub fn thaw(&self) -> Result<(), FreezeError> {
        let (version, directory) = self.freezer()?;
        set(version, &directory, State::Thawed).map_err(|source| FreezeError::Change { source })
    }

    /// Whether the group is frozen; a group that is gone is not.
    ///
    /// # Errors
    /// [`FreezeError::Change`] when the state cannot be read.
    pub fn is_frozen(&self) -> Result<bool, FreezeError> {
        let (version, directory) = self.freezer()?;
        is_frozen(version, &directory).map_err(|source| FreezeError::Change { source })
    }

    fn freezer(&self) -> Result<(Version, PathBuf), FreezeError> {
        match self.unified() {
            Some(directory) => Ok((Version::V2, directory)),
            None => self.directory(Controller::Freezer).ok_or(FreezeError::NoFreezer),
        }
    }
}

#[derive(Clone, Copy)]
enum State {
    Frozen,
    Thawed,
}

fn set(version: Version, directory: &Path, state: State) -> Result<(), FileError> {
    let (name, value) = match (version, state) {
        (Version::V2, State::Frozen) => ("cgroup.freeze", "1"),
        (Version::V2, State::Thawed) => ("cgroup.freeze", "0"),
        (Version::V1, State::Frozen) => ("freezer.state", "FROZEN"),
        (Version::V1, State::Thawed) => ("freezer.state", "THAWED"),
    };
    file::write(&directory.join(name), value)
}

fn is_frozen(version: Version, directory: &Path) -> Result<bool, FileError> {
    let name = match version {
        Version::V1 => "freezer.state",
        Version::V2 => "cgroup.events",
    };
    let text = file::read_if_there(&directory.join(name))?.unwrap_or_default();
    Ok(match version {
        Version::V1 => text.trim() == "FROZEN",
        Version::V2 => text.lines().any(|line| line == "frozen 1"),
    })
}

/// Waits for the notification of `cgroup.events`; the v1 freezer has none and is asked again.
fn wait_frozen(version: Version, directory: &Path, patience: Duration) -> Result<(), FreezeError> {
    let fail = |source| FreezeError::Wait { directory: directory.to_path_buf(), source };
    let deadline = Instant::now() + patience;
    let events = match version {
        Version::V1 => None,
        Version::V2 => Some(
            rustix::fs::open(
                directory.join("cgroup.events"),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(fail)?,
        ),
    };
    loop {
        if is_frozen(version, directory).map_err(|source| FreezeError::Change { source })? {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(FreezeError::TimedOut { directory: directory.to_path_buf(), patience });
        }
        let mut watched: Vec<PollFd<'_>> =
            events.iter().map(|events| PollFd::new(events, PollFlags::PRI)).collect();
        // Short, so that a process forked while freezing on v1 is asked to freeze again.
        let pause = left.min(Duration::from_millis(if version == Version::V1 { 2 } else { 20 }));
        let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
        match poll(&mut watched, Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(fail(errno)),
        }
        if version == Version::V1 {
            set(version, directory, State::Frozen)
                .map_err(|source| FreezeError::Change { source })?;
        }
    }
}
