//! Images as mounts: a read-only overlay of an image's layers, or a part of one.
//!
//! The part is found with the image as root, so that no link in it leads to anything of
//! the host. A detached mount cannot be cloned in part by every kernel; the container's
//! first process attaches it for an instant, in a mount namespace that nobody shares.
//!
//! # References
//! - [KEP-4639](https://github.com/kubernetes/enhancements/tree/master/keps/sig-node/4639-oci-volume-source)
//! - [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html)

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::mapped_overlay;
use super::rootfs::{self, RootfsError};
use super::target::TargetKind;
use super::user_namespace::UserNamespace;
use crate::protocol::{ImageMount, Rootfs};

/// The step of mounting an image that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error("make the overlay of an image")]
    Overlay(#[from] RootfsError),
    #[error("make {}", .0.display())]
    Directory(PathBuf, #[source] std::io::Error),
    #[error("attach an image at {}", .0.display())]
    Attach(PathBuf, #[source] Errno),
    #[error("find {} in the image", .0.display())]
    Find(PathBuf, #[source] Errno),
    #[error("copy the mount of {} in the image", .0.display())]
    Copy(PathBuf, #[source] Errno),
    #[error("detach the image from {}", .0.display())]
    Detach(PathBuf, #[source] Errno),
}

/// The image, or the part of it that is meant, attached to nothing. With the ids of the user
/// namespace, if there is one. `attach_at` is hidden for an instant.
pub(super) fn open(
    image: &ImageMount,
    attach_at: &Path,
    user_namespace: Option<&UserNamespace>,
) -> Result<(OwnedFd, TargetKind), ImageError> {
    let whole = match user_namespace {
        Some(user_namespace) => {
            mapped_overlay::overlay(&layers_of(image), user_namespace, attach_at)?
        }
        None => rootfs::overlay(&layers_of(image))?,
    };
    if image.sub_path.is_empty() {
        return Ok((whole, TargetKind::Directory));
    }
    part(&whole, Path::new(&image.sub_path), attach_at)
}

/// An image as a root in which nothing is writable.
pub(super) fn layers_of(image: &ImageMount) -> Rootfs {
    let (lower, context) = (image.lower.clone(), image.context.clone());
    Rootfs { lower, context, ..Rootfs::default() }
}

/// A part of a detached image, detached too.
fn part(
    image: &OwnedFd,
    sub_path: &Path,
    attach_at: &Path,
) -> Result<(OwnedFd, TargetKind), ImageError> {
    move_to(image, attach_at)?;
    let found = find(image, sub_path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let failed = |errno| ImageError::Copy(sub_path.to_owned(), errno);
    let tree = rustix::mount::open_tree(found.as_fd(), "", flags).map_err(failed)?;
    rustix::mount::unmount(attach_at, UnmountFlags::DETACH)
        .map_err(|errno| ImageError::Detach(attach_at.to_owned(), errno))?;
    let stat = rustix::fs::fstat(&tree).map_err(failed)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => TargetKind::Directory,
        _ => TargetKind::File,
    };
    Ok((tree, kind))
}

/// Mounts the image at its source, in this mount namespace; returns the path of the part
/// that is meant, free of links. Nobody can change it: the mount is read-only.
pub(super) fn attach(image: &ImageMount, whole: &OwnedFd) -> Result<PathBuf, ImageError> {
    let place = Path::new(&image.source);
    std::fs::create_dir_all(place).map_err(|e| ImageError::Directory(place.to_owned(), e))?;
    move_to(whole, place)?;
    if image.sub_path.is_empty() {
        return Ok(place.to_owned());
    }
    use std::os::fd::AsRawFd as _;
    let sub_path = Path::new(&image.sub_path);
    let found = find(whole, sub_path)?;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        ImageError::Find(sub_path.to_owned(), errno)
    })
}

fn move_to(image: &OwnedFd, place: &Path) -> Result<(), ImageError> {
    rustix::mount::move_mount(
        image.as_fd(),
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|errno| ImageError::Attach(place.to_owned(), errno))
}

fn find(image: &OwnedFd, sub_path: &Path) -> Result<OwnedFd, ImageError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(image, sub_path, flags, Mode::empty(), resolve)
        .map_err(|errno| ImageError::Find(sub_path.to_owned(), errno))
}
