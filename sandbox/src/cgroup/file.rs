//! One file of a cgroup: read, or written by exactly one `write(2)`.
//!
//! Files are never created: `O_CREAT` in cgroupfs turns "no such file" into "permission denied".

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Why a file of a cgroup could not be read, understood or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading failed.
    #[error("read {}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The content is not what the kernel documents.
    #[error("{} holds {text:?}, which is not a number", .file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// Its content.
        text: String,
    },
    /// Writing failed.
    #[error("write {value:?} to {}", .file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The value.
        value: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

impl FileError {
    /// Whether the kernel says that the value means nothing to it.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Write { source: Errno::INVAL | Errno::RANGE, .. })
    }

    /// Whether the group, or this file of it, does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match self {
            // A file of a group that was removed while it was open answers ENODEV.
            Self::Read { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(Errno::NODEV.raw_os_error())
            }
            Self::Write { source, .. } => matches!(*source, Errno::NOENT | Errno::NODEV),
            Self::Parse { .. } => false,
        }
    }

    /// Whether the kernel has the file and was told not to fill it.
    pub(super) fn is_unsupported(&self) -> bool {
        let unsupported = Some(Errno::OPNOTSUPP.raw_os_error());
        matches!(self, Self::Read { source, .. } if source.raw_os_error() == unsupported)
    }
}

/// What nearly every file fits into.
const TYPICAL: usize = 4096;

/// Reads a whole file. The kernel makes its content when it is read and says nothing of its
/// length before, so nothing is asked: statistics read thousands of files.
pub(super) fn read(file: &Path) -> Result<String, FileError> {
    let failed = |source| FileError::Read { file: file.to_path_buf(), source };
    let errno = |errno: Errno| failed(errno.into());
    let opened =
        rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
    let mut text = Vec::with_capacity(TYPICAL);
    loop {
        let more = || rustix::io::read(&opened, rustix::buffer::spare_capacity(&mut text));
        if rustix::io::retry_on_intr(more).map_err(errno)? == 0 {
            break;
        }
        text.reserve(TYPICAL / 2);
    }
    String::from_utf8(text).map_err(|odd| failed(io::Error::new(io::ErrorKind::InvalidData, odd)))
}

/// Reads a whole file; `None` when it does not exist.
pub(super) fn read_if_there(file: &Path) -> Result<Option<String>, FileError> {
    match read(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a file that holds one number.
pub(super) fn read_number<N: FromStr>(file: &Path) -> Result<N, FileError> {
    let text = read(file)?;
    match text.trim().parse() {
        Ok(number) => Ok(number),
        Err(_) => Err(FileError::Parse { file: file.to_path_buf(), text }),
    }
}

/// Writes a value in one call.
pub(super) fn write(file: &Path, value: &str) -> Result<(), FileError> {
    let refuse =
        |source| FileError::Write { file: file.to_path_buf(), value: value.to_owned(), source };
    let opened =
        rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(refuse)?;
    // The kernel takes no empty write for a value; a line end is an empty value.
    let bytes = if value.is_empty() { b"\n" } else { value.as_bytes() };
    let written =
        rustix::io::retry_on_intr(|| rustix::io::write(&opened, bytes)).map_err(refuse)?;
    if written == bytes.len() { Ok(()) } else { Err(refuse(Errno::MSGSIZE)) }
}
