//! `/sys/fs/cgroup` inside a container.
//!
//! On cgroup v2 it is a new mount in the container's cgroup namespace. On v1 it is a
//! tmpfs with one directory per hierarchy, each showing only the container's own group:
//! the root of a hierarchy, where `release_agent` lives, is never there.
//!
//! # References
//! - [OCI runtime spec, cgroup mounts](https://github.com/opencontainers/runtime-spec/blob/main/runtime-linux.md)

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use super::mounts::{MountError, Prepared, move_to};
use super::target::{self, TargetKind};
use crate::cgroup::{self, Cgroup};
use crate::sys::mount::{Depth, MountAttr, mount_setattr};

/// The step of mounting cgroups that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CgroupMountError {
    #[error("open the cgroup {}", .0.display())]
    Open(PathBuf, #[source] Errno),
    #[error("make a {kind} file system for cgroups")]
    FileSystem { kind: &'static str, source: Errno },
    #[error("find or make {}", .0.display())]
    Target(PathBuf, #[source] Errno),
    #[error("set the attributes of {}", .0.display())]
    Attributes(PathBuf, #[source] std::io::Error),
    #[error(transparent)]
    Attach(#[from] MountError),
}

/// What is to be seen: the whole unified tree, or v1 hierarchies by name.
pub(super) enum CgroupMounts {
    Unified,
    Hierarchies(Vec<(String, OwnedFd)>),
}

/// Opens the container's groups, if the spec has a cgroup mount.
pub(super) fn open(spec: &Spec, group: &Cgroup) -> Result<Option<CgroupMounts>, CgroupMountError> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    if !mounts.iter().any(|mount| mount.typ().as_deref() == Some("cgroup")) {
        return Ok(None);
    }
    if group.hierarchies().mode() == cgroup::Mode::V2 {
        return Ok(Some(CgroupMounts::Unified));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let open_one = |(name, path): (String, PathBuf)| {
        rustix::mount::open_tree(CWD, &path, flags)
            .map(|tree| (name, tree))
            .map_err(|errno| CgroupMountError::Open(path, errno))
    };
    let trees = group.named_directories().into_iter().map(open_one).collect::<Result<_, _>>()?;
    Ok(Some(CgroupMounts::Hierarchies(trees)))
}

impl CgroupMounts {
    /// Attaches them where `mount` says, with its attributes.
    pub(super) fn attach(&self, mount: &Prepared) -> Result<(), CgroupMountError> {
        let destination = mount.destination();
        let target = open_target(destination, TargetKind::Directory)?;
        let attr = mount.attributes();
        match self {
            Self::Unified => {
                let tree = file_system("cgroup2", &[], attr)?;
                Ok(move_to(tree.as_fd(), &target, destination)?)
            }
            Self::Hierarchies(trees) => {
                let tmpfs = file_system("tmpfs", &[("mode", "755"), ("size", "64k")], 0)?;
                move_to(tmpfs.as_fd(), &target, destination)?;
                for (name, tree) in trees {
                    let path = destination.join(name);
                    rustix::fs::mkdirat(&tmpfs, name.as_str(), Mode::from_raw_mode(0o755))
                        .map_err(|errno| CgroupMountError::Target(path.clone(), errno))?;
                    let attr = MountAttr {
                        set: attr,
                        propagation: libc::MS_PRIVATE,
                        ..MountAttr::default()
                    };
                    mount_setattr(tree.as_fd(), c"", Depth::One, attr)
                        .map_err(|error| CgroupMountError::Attributes(path.clone(), error))?;
                    let target = open_target(&path, TargetKind::Directory)?;
                    move_to(tree.as_fd(), &target, &path)?;
                }
                let attr = MountAttr { set: attr, ..MountAttr::default() };
                mount_setattr(tmpfs.as_fd(), c"", Depth::One, attr)
                    .map_err(|error| CgroupMountError::Attributes(destination.to_owned(), error))
            }
        }
    }
}

fn open_target(path: &Path, kind: TargetKind) -> Result<OwnedFd, CgroupMountError> {
    target::open_or_make(path, kind)
        .map_err(|errno| CgroupMountError::Target(path.to_owned(), errno))
}

fn file_system(
    kind: &'static str,
    settings: &[(&str, &str)],
    attr: u64,
) -> Result<OwnedFd, CgroupMountError> {
    let failed = |source| CgroupMountError::FileSystem { kind, source };
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    for (key, value) in settings {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value).map_err(failed)?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).map_err(failed)?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(u32::try_from(attr).unwrap_or_default()),
    )
    .map_err(failed)
}
