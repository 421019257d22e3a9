//! The state directory belongs to one daemon at a time. (The root directory does too: the
//! database sees to that.)

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::socket::make_directory;

/// The file whose lock says whose the directory is.
const LOCK: &str = "orlop.lock";

/// Why a directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It cannot be made.
    #[error("cannot make the directory {}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Its lock cannot be opened or taken.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("{} is in use by another daemon (choose another --state)", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
}

/// The lock; the kernel gives it up when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Claimed {
    _lock: File,
}

/// Makes `directory` with mode 0700 if it is missing, and locks it.
///
/// # Errors
/// [`ClaimError`] with the directory.
pub(super) fn claim(directory: &Path) -> Result<Claimed, ClaimError> {
    make_directory(directory)
        .map_err(|source| ClaimError::MakeDirectory { path: directory.to_owned(), source })?;
    let path = directory.join(LOCK);
    let locked = |source| ClaimError::Lock { path: path.clone(), source };
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(locked)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Claimed { _lock: lock }),
        Err(Errno::WOULDBLOCK) => Err(ClaimError::Taken { path: directory.to_owned() }),
        Err(errno) => Err(locked(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_daemon() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("state");
        let held = claim(&path)?;
        assert!(matches!(claim(&path), Err(ClaimError::Taken { .. })));
        drop(held);
        claim(&path)?;
        Ok(())
    }
}
