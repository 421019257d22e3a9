//! The daemon's two directories, each of which belongs to one daemon at a time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::Config;
use super::socket::make_directory;

/// The file in each directory whose lock says whose it is.
const LOCK: &str = "lock";

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
    #[error("{} is in use by another daemon (choose another --root and --state)", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
}

/// The locks; the kernel gives them up when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Claimed {
    _root: File,
    _state: File,
}

/// Makes both directories with mode 0700 where missing, and locks them.
///
/// # Errors
/// [`ClaimError`] with the directory.
pub(super) fn claim(config: &Config) -> Result<Claimed, ClaimError> {
    Ok(Claimed { _root: claim_one(&config.root)?, _state: claim_one(&config.state)? })
}

fn claim_one(directory: &Path) -> Result<File, ClaimError> {
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
        Ok(()) => Ok(lock),
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
        let path = directory.path().join("root");
        let held = claim_one(&path)?;
        assert!(matches!(claim_one(&path), Err(ClaimError::Taken { .. })));
        drop(held);
        claim_one(&path)?;
        Ok(())
    }
}
