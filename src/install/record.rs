//! Which files of a node `orlop install` has put there: `/etc/orlop/installed.json`.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{self, FileError, below};

const PATH: &str = "/etc/orlop/installed.json";

/// The record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// It is not what we write.
    #[error("{} is not a record of this or an older orlop", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The files, by their paths on the node.
    pub(super) files: BTreeSet<PathBuf>,
    /// Whether the daemon does not know yet.
    pub(super) restart_due: bool,
}

impl Record {
    /// Where it is.
    pub(super) fn path(root: &Path) -> PathBuf {
        below(root, Path::new(PATH))
    }

    /// What is recorded, if anything is.
    ///
    /// # Errors
    /// [`RecordError`].
    pub(super) fn read(root: &Path) -> Result<Option<Self>, RecordError> {
        let path = Self::path(root);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| RecordError::Parse { path, source }),
            Err(absent) if absent.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RecordError::Read { path, source }),
        }
    }

    /// Replaces it, unless it says so already.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) fn write(&self, root: &Path) -> Result<(), FileError> {
        if Self::read(root).is_ok_and(|known| known.as_ref() == Some(self)) {
            return Ok(());
        }
        let path = Self::path(root);
        let text = serde_json::to_vec_pretty(self).map_err(|source| FileError {
            step: "write",
            path: path.clone(),
            source: source.into(),
        })?;
        files::put(&path, 0o644, &text)
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) fn remove(root: &Path) -> Result<(), FileError> {
        files::remove(root, Path::new(PATH))
    }
}
