//! Paths inside the root that a container must not read, or must not write.
//!
//! # References
//! - [OCI runtime spec, masked and read-only paths](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#masked-paths)

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::target;
use crate::sys::mount::{Depth, MountAttr, mount_setattr};

const NULL: &str = "/dev/null";

/// The path that could not be protected.
#[derive(Debug, thiserror::Error)]
pub(super) enum PathError {
    #[error("find {} to protect it", .0.display())]
    Find(PathBuf, #[source] Errno),
    #[error("make {} read-only", .0.display())]
    ReadOnly(PathBuf, #[source] std::io::Error),
    #[error("mask {}", .0.display())]
    Mask(PathBuf, #[source] Errno),
    #[error("/dev/null of the container is not the null device")]
    NotNull,
}

/// The container's `/dev/null`, to be put over masked files. It was made by this process
/// a moment ago, or came with a volume over `/dev`; it is used only if it is the device.
pub(super) fn null_device() -> Result<OwnedFd, PathError> {
    let path = Path::new(NULL);
    let null = target::open(path).map_err(|errno| PathError::Find(path.to_owned(), errno))?;
    if is_null(&null) { Ok(null) } else { Err(PathError::NotNull) }
}

/// The container's `/dev/null`, to be read; none where something else is there.
pub(super) fn open_null() -> Option<OwnedFd> {
    null_device().ok()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(NULL, flags, Mode::empty()).ok().filter(is_null)
}

/// Whether this is the null device, whatever its name.
pub(super) fn is_null(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (1, 3)
    })
}

/// Makes the mount or the directory tree at `path` read-only; a missing path is fine.
pub(super) fn make_read_only(path: &Path) -> Result<(), PathError> {
    let find = |errno| PathError::Find(path.to_owned(), errno);
    let Some(target) = existing(path).map_err(find)? else { return Ok(()) };
    let copy = rustix::mount::open_tree(
        target.as_fd(),
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH,
    )
    .map_err(find)?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount_setattr(copy.as_fd(), c"", Depth::One, attr)
        .map_err(|error| PathError::ReadOnly(path.to_owned(), error))?;
    cover(&copy, &target).map_err(find)
}

/// Hides `path`: a directory under an empty read-only one, a file under the null device.
/// `label` is the SELinux context of that directory.
pub(super) fn mask(path: &Path, null: &OwnedFd, label: Option<&str>) -> Result<(), PathError> {
    let Some(target) = existing(path).map_err(|errno| PathError::Find(path.to_owned(), errno))?
    else {
        return Ok(());
    };
    let masked = |errno| PathError::Mask(path.to_owned(), errno);
    let stat = rustix::fs::fstat(&target).map_err(masked)?;
    let hidden_by = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        empty_directory(label)
    } else {
        rustix::mount::open_tree(
            null.as_fd(),
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        )
    };
    cover(&hidden_by.map_err(masked)?, &target).map_err(masked)
}

fn existing(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match target::open(path) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn empty_directory(label: Option<&str>) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "size", "0")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "nr_inodes", "1")?;
    if let Some(label) = label {
        rustix::mount::fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

fn cover(mount: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    rustix::mount::move_mount(
        mount.as_fd(),
        "",
        target.as_fd(),
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}
