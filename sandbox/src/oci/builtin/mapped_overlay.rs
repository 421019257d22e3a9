//! The root of a container in a user namespace: an overlay whose layers and writable
//! directory are mounted with the ids of that namespace, so that what is root's on disk is
//! root's inside.
//!
//! Overlayfs wants directories that are mounted somewhere. They are, in a mount namespace that
//! nobody shares and that this process leaves soon after; the overlay keeps its own copies of
//! these mounts. It also creates with the ids of whoever made it, which must be ids of the
//! namespace.
//!
//! # References
//! - [idmappings](https://docs.kernel.org/filesystems/idmappings.html)

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Gid, Uid};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::process::{Signal, WaitOptions};
use rustix::thread::UnshareFlags;

use super::channel::{self, Channel, News};
use super::rootfs::{self, RootfsError};
use super::user_namespace::UserNamespace;
use crate::protocol::Rootfs;
use crate::sys::mount::{Depth, map_ids};
use crate::sys::spawn::{self, Cloned};

/// How long a child may take to make an overlay, in seconds.
const CHILD_SECONDS: i64 = 10;

/// The step of having a child make the overlay that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChildError {
    #[error("talk to the process that makes the root overlay")]
    Channel(#[source] std::io::Error),
    #[error("clone a process to make the root overlay")]
    Clone(#[source] std::io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("the process that makes the root overlay did not in {CHILD_SECONDS} s")]
    Silent,
}

/// Makes the overlay, attached to nothing; read-only if nothing is writable in it. Gives this
/// process the ids of the namespace's root. `attach_at` is hidden from now on.
pub(super) fn overlay(
    rootfs: &Rootfs,
    user_namespace: &UserNamespace,
    attach_at: &Path,
) -> Result<OwnedFd, RootfsError> {
    let mapped = |layer: &Path| mapped(layer, attach_at, user_namespace);
    let layers: Vec<OwnedFd> =
        rootfs.lower.iter().map(|layer| mapped(Path::new(layer))).collect::<Result<_, _>>()?;
    let lower = layers.iter().map(|layer| name(layer, Path::new(""))).collect();
    let context = rootfs.context.clone();
    take_ids(user_namespace.root()).map_err(RootfsError::Ids)?;
    if rootfs.upper.is_empty() {
        return rootfs::overlay(&Rootfs { lower, context, ..Rootfs::default() });
    }
    // Overlayfs wants both in one mount.
    let writable = Path::new(&rootfs.upper).parent().unwrap_or(Path::new("/"));
    let inside = |path: &str| Path::new(path).strip_prefix(writable).map(Path::to_path_buf);
    let (Ok(upper), Ok(work)) = (inside(&rootfs.upper), inside(&rootfs.work)) else {
        let (upper, work) = (rootfs.upper.clone(), rootfs.work.clone());
        return Err(RootfsError::Apart { upper, work });
    };
    let writable = mapped(writable)?;
    let (upper, work) = (name(&writable, &upper), name(&writable, &work));
    rootfs::overlay(&Rootfs { lower, upper, work, context })
}

/// The overlay made by a child, whose mount namespace takes the layers. The child opens no
/// file but the layers' and ends at once.
pub(super) fn overlay_by_child(
    rootfs: &Rootfs,
    user_namespace: &UserNamespace,
    attach_at: &Path,
) -> Result<OwnedFd, ChildError> {
    let (channel, theirs) = channel::pair().map_err(ChildError::Channel)?;
    match spawn::clone_child(UnshareFlags::NEWNS, None).map_err(ChildError::Clone)? {
        Cloned::Child => {
            let made =
                rootfs::make_private().and_then(|()| overlay(rootfs, user_namespace, attach_at));
            match made {
                // The overlay goes with the shim if that is gone.
                Ok(root) => drop(theirs.ready(Some(root))),
                Err(error) => theirs.failed(&error),
            }
            spawn::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(theirs);
            let heard = hear(&channel);
            // It ended, or is of no use any more.
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            heard
        }
    }
}

fn hear(channel: &Channel) -> Result<OwnedFd, ChildError> {
    let deadline = Timespec { tv_sec: CHILD_SECONDS, tv_nsec: 0 };
    let mut ready = [PollFd::new(channel, PollFlags::IN)];
    rustix::event::poll(&mut ready, Some(&deadline))
        .map_err(|errno| ChildError::Channel(errno.into()))?;
    match channel.receive().map_err(ChildError::Channel)? {
        Some(News::Ready(Some(root))) => Ok(root),
        Some(News::Failed(message)) => Err(ChildError::Failed(message)),
        Some(News::Ready(None) | News::Closed) | None => Err(ChildError::Silent),
    }
}

/// Becomes this user and group in effect, with all capabilities.
fn take_ids((uid, gid): (u32, u32)) -> Result<(), Errno> {
    use rustix::thread::{self, CapabilitiesSecureBits as Bits};
    thread::set_capabilities_secure_bits(Bits::NO_SETUID_FIXUP)?;
    thread::set_thread_res_gid(Gid::ROOT, Gid::from_raw(gid), Gid::ROOT)?;
    thread::set_thread_res_uid(Uid::ROOT, Uid::from_raw(uid), Uid::ROOT)
}

/// A copy of the mount that holds `directory`, from there on, with mapped ids. It has to be
/// mounted somewhere, and may lie over others: it is named by its descriptor alone.
fn mapped(
    directory: &Path,
    attach_at: &Path,
    user_namespace: &UserNamespace,
) -> Result<OwnedFd, RootfsError> {
    let layer = || directory.to_owned();
    let tree = rustix::mount::open_tree(
        CWD,
        directory,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .map_err(|source| RootfsError::OpenLayer { layer: layer(), source })?;
    map_ids(tree.as_fd(), Depth::One, user_namespace.as_fd())
        .map_err(|source| RootfsError::MapIds { layer: layer(), source })?;
    rustix::mount::move_mount(
        tree.as_fd(),
        "",
        CWD,
        attach_at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|source| RootfsError::AttachLayer { layer: layer(), source })?;
    Ok(tree)
}

fn name(directory: &OwnedFd, inside: &Path) -> String {
    let name = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    name.join(inside).to_string_lossy().trim_end_matches('/').to_owned()
}
