//! Files of a node below its root directory, replaced as wholes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Below it, directories that become empty are removed.
const OURS: &str = "/etc/orlop";

/// A file cannot be changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct FileError {
    /// `read`, `write` or `remove`.
    pub step: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The operating system's reason.
    #[source]
    pub source: io::Error,
}

/// Where the absolute `path` of the node is.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A file as it should be.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Where, on the node.
    pub(super) path: PathBuf,
    mode: u32,
    content: Vec<u8>,
}

impl Wanted {
    pub(super) fn new(path: impl Into<PathBuf>, mode: u32, content: Vec<u8>) -> Self {
        Self { path: path.into(), mode, content }
    }

    /// Whether it is there already, with these bytes and this mode.
    ///
    /// # Errors
    /// [`FileError`] if that cannot be seen.
    pub(super) fn is_in_place(&self, root: &Path) -> Result<bool, FileError> {
        let path = below(root, &self.path);
        let failed = |source| FileError { step: "read", path: path.clone(), source };
        let status = match path.symlink_metadata() {
            Ok(status) => status,
            Err(absent) if absent.kind() == ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(failed(source)),
        };
        if !status.is_file()
            || status.permissions().mode() & 0o7777 != self.mode
            || status.len() != self.content.len() as u64
        {
            return Ok(false);
        }
        Ok(fs::read(&path).map_err(failed)? == self.content)
    }

    /// Puts it there.
    ///
    /// # Errors
    /// [`FileError`]; what was there before is there still.
    ///
    /// # Crash safety
    /// After a crash there is the old file or the new one, on disk.
    pub(super) fn put(&self, root: &Path) -> Result<(), FileError> {
        put(&below(root, &self.path), self.mode, &self.content)
    }
}

/// Replaces the file at `path`; makes the directories that lead there.
///
/// # Errors
/// [`FileError`].
pub(super) fn put(path: &Path, mode: u32, content: &[u8]) -> Result<(), FileError> {
    let failed = |source| FileError { step: "write", path: path.to_owned(), source };
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = directory.join(format!(".{name}.new"));
    let replace = || {
        fs::create_dir_all(directory)?;
        // Left by one that was killed.
        match fs::remove_file(&new) {
            Err(refusal) if refusal.kind() != ErrorKind::NotFound => return Err(refusal),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    };
    replace().map_err(failed)
}

/// Removes a file of ours, and the directories of ours that are empty then.
///
/// # Errors
/// [`FileError`]; a file that is not there is removed.
pub(super) fn remove(root: &Path, path: &Path) -> Result<(), FileError> {
    let at = below(root, path);
    match fs::remove_file(&at) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            return Err(FileError { step: "remove", path: at, source });
        }
        Ok(()) | Err(_) => {}
    }
    let inside = |directory: &&Path| directory.starts_with(OURS) && *directory != Path::new(OURS);
    for directory in path.ancestors().skip(1).take_while(inside) {
        // Somebody's file is in it.
        if fs::remove_dir(below(root, directory)).is_err() {
            break;
        }
    }
    Ok(())
}
