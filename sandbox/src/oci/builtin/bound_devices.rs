//! Device nodes of a container in a user namespace, where nobody may make any: they are made
//! on a tmpfs of the host's side, and bound one by one. A detached mount cannot be cloned in
//! part by every kernel (Linux 6.15 can), so the tmpfs is attached for an instant.
//!
//! The nodes that every container has belong to its root. Others keep the owner that they
//! have on the host, which in the user namespace is nobody: what a user may not do with the
//! host's node, the same user may not do with this one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxDevice;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::devices::{self, DeviceError};
use super::mounts::{MountError, move_to};
use super::target::{self, TargetKind};
use super::user_namespace::UserNamespace;

/// The step of binding devices that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    #[error("make a file system for device nodes")]
    FileSystem(#[source] Errno),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("attach the device nodes at {}", .0.display())]
    AttachAll(PathBuf, #[source] Errno),
    #[error("detach the device nodes from {}", .0.display())]
    DetachAll(PathBuf, #[source] Errno),
    #[error("open the device node for {}", .0.display())]
    Open(PathBuf, #[source] Errno),
    #[error("find or make {}", .0.display())]
    Target(PathBuf, #[source] Errno),
    #[error(transparent)]
    Attach(#[from] MountError),
}

/// Nodes, each a detached mount, and their places in the container.
#[derive(Debug)]
pub(super) struct BoundDevices(Vec<(PathBuf, OwnedFd)>);

impl BoundDevices {
    /// Makes the default nodes and those of the spec; before the user namespace is entered, in
    /// a mount namespace that nobody shares. `attach_at` is hidden for an instant; `label` is
    /// the SELinux context of the nodes.
    pub(super) fn make(
        listed: &[LinuxDevice],
        user_namespace: &UserNamespace,
        attach_at: &Path,
        label: Option<&str>,
    ) -> Result<Self, BindError> {
        let tmpfs = tmpfs(label).map_err(BindError::FileSystem)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tmpfs, "", CWD, attach_at, flags)
            .map_err(|errno| BindError::AttachAll(attach_at.to_owned(), errno))?;
        let (root_uid, root_gid) = user_namespace.root();
        let mut nodes = Vec::new();
        for (number, mut node) in devices::nodes(listed)?.into_iter().enumerate() {
            let name = number.to_string();
            let path = std::mem::replace(&mut node.path, Path::new("/").join(&name));
            if listed.iter().all(|device| *device.path() != path) {
                (node.uid, node.gid) = (root_uid, root_gid);
            }
            devices::create(tmpfs.as_fd(), &node)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let bound = rustix::mount::open_tree(&tmpfs, name.as_str(), flags)
                .map_err(|errno| BindError::Open(path.clone(), errno))?;
            nodes.push((path, bound));
        }
        rustix::mount::unmount(attach_at, UnmountFlags::DETACH)
            .map_err(|errno| BindError::DetachAll(attach_at.to_owned(), errno))?;
        Ok(Self(nodes))
    }

    /// Binds them; the process is inside the root.
    pub(super) fn bind(&self) -> Result<(), BindError> {
        for (path, node) in &self.0 {
            let target = target::open_or_make(path, TargetKind::File)
                .map_err(|errno| BindError::Target(path.clone(), errno))?;
            move_to(node.as_fd(), &target, path)?;
        }
        Ok(())
    }
}

fn tmpfs(label: Option<&str>) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "755")?;
    if let Some(label) = label {
        rustix::mount::fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
