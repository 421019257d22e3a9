//! One sealed copy of this binary, in memory, for all shims of this daemon.
//!
//! A container that overwrites the file behind a shim's `/proc/<pid>/exe` (CVE-2019-5736)
//! meets a sealed memory file, and a package upgrade that replaces the binary on disk
//! does not change what a running daemon starts. All shims share its text pages.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};

/// The step of making the copy that failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The binary could not be read.
    #[error("read the running binary")]
    Read(#[source] io::Error),
    /// No memory file.
    #[error("make a memory file")]
    Make(#[source] rustix::io::Errno),
    /// It did not fit.
    #[error("copy the binary to memory")]
    Copy(#[source] io::Error),
    /// It could not be sealed.
    #[error("seal the copy of the binary")]
    Seal(#[source] rustix::io::Errno),
}

/// The sealed copy.
#[derive(Debug)]
pub struct Executable(OwnedFd);

impl Executable {
    /// Copies and seals the running binary.
    ///
    /// # Errors
    /// The step that failed.
    ///
    /// # References
    /// - [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html)
    pub fn seal_self() -> Result<Self, SealError> {
        Self::seal(&File::open("/proc/self/exe").map_err(SealError::Read)?)
    }

    /// Copies and seals another binary; for tests, whose own binary is no shim.
    ///
    /// # Errors
    /// The step that failed.
    pub fn seal(mut binary: &File) -> Result<Self, SealError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC;
        let copy = match rustix::fs::memfd_create("orlop-shim", flags) {
            // Before Linux 6.3 there was no flag to say so, and every one was executable.
            Err(rustix::io::Errno::INVAL) => {
                rustix::fs::memfd_create("orlop-shim", flags - MemfdFlags::EXEC)
            }
            made => made,
        };
        let mut copy = File::from(copy.map_err(SealError::Make)?);
        io::copy(&mut binary, &mut copy).map_err(SealError::Copy)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&copy, seals).map_err(SealError::Seal)?;
        // A file that is open for writing anywhere cannot be executed.
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        Ok(Self(File::open(path).map_err(SealError::Read)?.into()))
    }

    /// The path by which a child of this process executes it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}
