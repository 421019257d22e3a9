//! Mount points inside the container's root: found, or made.
//!
//! The process is already inside the root, so a path can lead nowhere else; magic links
//! (`/proc/self/fd/…`) are refused all the same, since they could name descriptors that
//! this process inherited.
//!
//! # References
//! - [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html)

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What a mount point must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetKind {
    Directory,
    File,
}

/// Links followed while making a missing path, as the kernel counts them.
const MAX_LINKS: u32 = 40;

/// Opens `path` as a mount point, making what is missing of it.
pub(super) fn open_or_make(path: &Path, kind: TargetKind) -> Result<OwnedFd, Errno> {
    match open(path) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    make(path, kind, MAX_LINKS)?;
    open(path)
}

/// Opens `path`, following links but no magic links.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens `path` if no component of it is a symbolic link.
pub(super) fn open_plain(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )
}

fn make(path: &Path, kind: TargetKind, links: u32) -> Result<(), Errno> {
    let mut so_far = PathBuf::from("/");
    let mut parts = path.components().filter(|part| *part != Component::RootDir).peekable();
    while let Some(part) = parts.next() {
        so_far.push(part);
        match open(&so_far) {
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let kind = if parts.peek().is_some() { TargetKind::Directory } else { kind };
        make_one(&so_far, kind, links)?;
    }
    Ok(())
}

fn make_one(path: &Path, kind: TargetKind, links: u32) -> Result<(), Errno> {
    let made = match kind {
        TargetKind::Directory => rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)),
        TargetKind::File => rustix::fs::openat(
            CWD,
            path,
            OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o644),
        )
        .map(drop),
    };
    match made {
        // It was missing, yet it exists: a link to something missing. Make that.
        Err(Errno::EXIST) if links > 0 => make(&link_target(path)?, kind, links - 1),
        Err(Errno::EXIST) => Err(Errno::LOOP),
        result => result,
    }
}

fn link_target(path: &Path) -> Result<PathBuf, Errno> {
    use std::os::unix::ffi::OsStringExt as _;
    let target = rustix::fs::readlinkat(CWD, path, Vec::new())?.into_bytes();
    let target = PathBuf::from(std::ffi::OsString::from_vec(target));
    Ok(path.parent().unwrap_or(Path::new("/")).join(target))
}
