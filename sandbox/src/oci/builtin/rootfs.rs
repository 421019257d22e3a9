//! The root file system: an overlay that exists only in the container's own mount
//! namespace, and the switch into it.
//!
//! The overlay is made detached (`fsopen`, `fsmount`), so the host's mount table never
//! shows it and nothing is left to unmount when every process of the container is gone.
//! The old root is taken away **before** any other mount is made: from then on no path,
//! symbolic link or race in the image or in a volume can name anything of the host.
//!
//! # References
//! - [overlayfs](https://docs.kernel.org/filesystems/overlayfs.html)
//! - [pivot_root(2)](https://man7.org/linux/man-pages/man2/pivot_root.2.html)

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::protocol::Rootfs;
use crate::sys::mount::{Depth, MountAttr, mount_setattr};

/// The step of setting up the root that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootfsError {
    #[error("open a file system context for overlay")]
    Open(#[source] Errno),
    #[error("set {option} of the root overlay to {value}")]
    Option { option: &'static str, value: String, source: Errno },
    #[error("create the root overlay with the writable layer {upper}")]
    Create { upper: String, source: Errno },
    #[error("mount the root overlay")]
    Mount(#[source] Errno),
    #[error("set the attributes of the root")]
    Attributes(#[source] std::io::Error),
    #[error("label a root of one directory as {context}: only overlays can be")]
    Context { context: String },
    #[error("{upper} and {work} are not in one directory")]
    Apart { upper: String, work: String },
    #[error("open the layer {}", layer.display())]
    OpenLayer { layer: PathBuf, source: Errno },
    #[error("map the ids of the layer {}", layer.display())]
    MapIds { layer: PathBuf, source: std::io::Error },
    #[error("mount the layer {}", layer.display())]
    AttachLayer { layer: PathBuf, source: Errno },
    #[error("take the ids of the user namespace's root")]
    Ids(#[source] Errno),
    #[error("make the container's mount namespace private")]
    Private(#[source] Errno),
    #[error("attach the root")]
    Attach(#[source] Errno),
    #[error("change into the root")]
    Enter(#[source] Errno),
    #[error("pivot into the root")]
    Pivot(#[source] Errno),
    #[error("detach the host's root")]
    Detach(#[source] Errno),
}

/// Makes the overlay, attached to nothing; read-only without a writable layer. Where there is
/// but one directory, that is the root.
pub(super) fn overlay(rootfs: &Rootfs) -> Result<OwnedFd, RootfsError> {
    match (rootfs.lower.as_slice(), rootfs.upper.as_str()) {
        ([], upper) => return directory(upper, 0, &rootfs.context),
        ([whole], "") => return directory(whole, libc::MOUNT_ATTR_RDONLY, &rootfs.context),
        _ => {}
    }
    let context =
        rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(RootfsError::Open)?;
    let set = |option: &'static str, value: &str| {
        rustix::mount::fsconfig_set_string(context.as_fd(), option, value)
            .map_err(|source| RootfsError::Option { option, value: value.to_owned(), source })
    };
    set("source", "overlay")?;
    for layer in &rootfs.lower {
        set("lowerdir+", layer)?;
    }
    if !rootfs.context.is_empty() {
        set("context", &rootfs.context)?;
    }
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if !rootfs.upper.is_empty() {
        set("upperdir", &rootfs.upper)?;
        set("workdir", &rootfs.work)?;
        attributes = MountAttrFlags::empty();
    }
    rustix::mount::fsconfig_create(context.as_fd())
        .map_err(|source| RootfsError::Create { upper: rootfs.upper.clone(), source })?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(RootfsError::Mount)
}

/// A directory as the root, with these attributes; nothing mounted in it shows on the host.
fn directory(path: &str, set: u64, context: &str) -> Result<OwnedFd, RootfsError> {
    if !context.is_empty() {
        return Err(RootfsError::Context { context: context.to_owned() });
    }
    let failed = |source| RootfsError::OpenLayer { layer: path.into(), source };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags).map_err(failed)?;
    let attr = MountAttr { set, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), c"", Depth::One, attr).map_err(RootfsError::Attributes)?;
    Ok(tree)
}

/// Cuts this process's (fresh) mount namespace off from the host's.
pub(super) fn make_private() -> Result<(), RootfsError> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(RootfsError::Private)
}

/// Makes `root` the root of this process's private mount namespace.
pub(super) fn enter(root: &OwnedFd) -> Result<(), RootfsError> {
    rustix::mount::move_mount(
        root.as_fd(),
        "",
        rustix::fs::CWD,
        "/",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(RootfsError::Attach)?;
    rustix::process::fchdir(root).map_err(RootfsError::Enter)?;
    // pivot_root(".", ".") stacks the old root on top of the new one, at the same place,
    // so that it needs no directory inside the image.
    rustix::process::pivot_root(".", ".").map_err(RootfsError::Pivot)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(RootfsError::Detach)?;
    rustix::process::chdir("/").map_err(RootfsError::Enter)
}
