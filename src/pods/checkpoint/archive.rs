//! Writing files and archives that whoever asked may give up at any time.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tokio_util::sync::CancellationToken;

/// A file that takes no more bytes once the checkpoint is given up.
#[derive(Debug)]
pub(super) struct Revocable {
    file: File,
    given_up: CancellationToken,
}

impl Revocable {
    /// Makes a file that only root can read.
    pub(super) fn create(path: &Path, given_up: &CancellationToken) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file, given_up: given_up.clone() })
    }

    /// Waits until its bytes are on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Write for Revocable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.given_up.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody waits for it any more"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a file that only root can read.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)
}

/// Writes an archive of all files in `directory`, but for `to` itself, which is in there.
pub(super) fn pack(directory: &Path, to: &Path, given_up: &CancellationToken) -> io::Result<()> {
    let mut builder = tar::Builder::new(io::BufWriter::new(Revocable::create(to, given_up)?));
    builder.follow_symlinks(false);
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        let mut entries: Vec<_> = fs::read_dir(&path)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries.iter().map(fs::DirEntry::path).filter(|entry| entry != to) {
            let name = entry.strip_prefix(directory).map_err(io::Error::other)?;
            builder.append_path_with_name(&entry, name)?;
            if entry.is_dir() && !entry.is_symlink() {
                pending.push(entry);
            }
        }
    }
    let file = builder.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync()
}

/// Waits until all files of a directory are on disk.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            sync(&path)?;
        } else if path.is_file() {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}
