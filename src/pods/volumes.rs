//! Volumes that an image declares: each is a directory of the container's own, filled
//! with what the image has at that path, owners and modes included.
//!
//! Everything is read through the image's own detached mount with `RESOLVE_IN_ROOT`, so a
//! link at the declared path cannot name a file of the host (CVE-2022-23648).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::error::PodsError;
use crate::snapshots::View;

/// Makes a directory below `directory` for each of `paths`, and fills it from `view`.
/// Returns pairs of container path and host path.
pub(super) fn fill(
    view: &View,
    directory: &Path,
    paths: Vec<PathBuf>,
) -> Result<Vec<(PathBuf, PathBuf)>, PodsError> {
    let mut filled = Vec::new();
    for (number, path) in paths.into_iter().enumerate() {
        let host = directory.join(number.to_string());
        copy_volume(view, &path, &host)
            .map_err(|source| PodsError::Volume { path: path.clone(), source })?;
        filled.push((path, host));
    }
    Ok(filled)
}

/// Removes all volumes of a container. Idempotent.
pub(super) fn remove(directory: &Path) -> Result<(), PodsError> {
    match std::fs::remove_dir_all(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PodsError::Prepare { path: directory.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn copy_volume(view: &View, path: &Path, host: &Path) -> io::Result<()> {
    std::fs::create_dir_all(host)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let to = rustix::fs::openat(CWD, host, flags, Mode::empty())?;
    let inside = path.strip_prefix("/").unwrap_or(path);
    let from =
        rustix::fs::openat2(view.as_fd(), inside, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    match from {
        Ok(from) => {
            copy_directory(&from, &to)?;
            Ok(copy_attributes(&to, &rustix::fs::fstat(&from)?)?)
        }
        // The image declares it and has nothing there.
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let open = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let flags = open | OFlags::RDONLY | OFlags::DIRECTORY;
                let inner = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_directory(&inner, &copy)?;
                copy_attributes(&copy, &stat)?;
            }
            FileType::RegularFile => {
                let inner = rustix::fs::openat(from, name, open | OFlags::RDONLY, Mode::empty())?;
                let flags = open | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let copy = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                let mut source = std::fs::File::from(inner);
                let mut target = std::fs::File::from(copy);
                io::copy(&mut source, &mut target)?;
                copy_capabilities(&source, &target)?;
                copy_attributes(&target.into(), &stat)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
                own(to, name, &stat)?;
            }
            kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
                own(to, name, &stat)?;
            }
            // A socket is of no use without its listener.
            FileType::Socket | FileType::Unknown => {}
        }
    }
    Ok(())
}

fn own(directory: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner first: changing it clears set-user-id bits.
fn copy_attributes(to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

fn copy_capabilities(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    const NAME: &str = "security.capability";
    let mut value = [0_u8; 64];
    match rustix::fs::fgetxattr(from, NAME, &mut value[..]) {
        Ok(length) => rustix::fs::fsetxattr(to, NAME, &value[..length], XattrFlags::empty()),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno),
    }
}
