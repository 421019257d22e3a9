//! Device nodes of a container and the rules for its device cgroup.
//!
//! Nodes are made relative to a descriptor of the container's root; every parent directory is
//! resolved inside that root, so no link in an image or a volume leads out of it
//! (CVE-2024-45310). In a user namespace `mknod(2)` is refused; [`create`] then says
//! [`DeviceError::Create`] with `EPERM` ([`DeviceError::is_refused`]) and the init sequence binds
//! the host's node instead.
//!
//! Specification: <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#devices>

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

#[cfg(test)]
mod tests;

/// Why a device node could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The path has no name, or `..` in it.
    #[error("{} is not a path of a device", .path.display())]
    InvalidPath {
        /// The refused path.
        path: PathBuf,
    },
    /// Numbers that no device has.
    #[error("{} has no possible device number {major}:{minor}", .path.display())]
    InvalidNumber {
        /// The node.
        path: PathBuf,
        /// The major number asked for.
        major: i64,
        /// The minor number asked for.
        minor: i64,
    },
    /// The parent directory could not be made or opened inside the root.
    #[error("open the directory of {} inside the container's root", .path.display())]
    OpenParent {
        /// The node.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// `mknod(2)` failed.
    #[error("make the device node {}", .path.display())]
    Create {
        /// The node.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// An owner that the kernel reads as "no change".
    #[error("{} cannot belong to {uid}:{gid}", .path.display())]
    InvalidOwner {
        /// The node.
        path: PathBuf,
        /// The user id asked for.
        uid: u32,
        /// The group id asked for.
        gid: u32,
    },
    /// Something else has this name already.
    #[error("{} exists and is not the device that was asked for", .path.display())]
    Occupied {
        /// The node.
        path: PathBuf,
    },
    /// The owner could not be set.
    #[error("set the owner of {}", .path.display())]
    SetOwner {
        /// The node.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

impl DeviceError {
    /// Whether this process may not make device nodes at all, so that the host's node has to be
    /// bound in their place.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Create { source: Errno::PERM, .. })
    }
}

/// One device node of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it is, absolute in the container.
    pub path: PathBuf,
    /// Character device, block device or FIFO.
    pub kind: FileType,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner, in the ids of this process.
    pub uid: u32,
    /// Group, in the ids of this process.
    pub gid: u32,
}

/// Where in the container a default device is, with its numbers.
const DEFAULT_NODES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container finds in `/dev`: name and target. `/dev/console` is a bind of the
/// container's own terminal and only exists with one.
pub const DEFAULT_LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// The nodes of a container: the default ones, then those of `linux.devices`. A node of the spec
/// takes the place of a default one at the same path.
///
/// # Errors
/// [`DeviceError::InvalidPath`], [`DeviceError::InvalidNumber`] and
/// [`DeviceError::InvalidOwner`] for a device of the spec.
pub fn nodes(devices: &[LinuxDevice]) -> Result<Vec<Node>, DeviceError> {
    let own = devices.iter().map(node).collect::<Result<Vec<_>, _>>()?;
    let defaults = DEFAULT_NODES
        .iter()
        .map(|(path, major, minor)| Node {
            path: PathBuf::from(path),
            kind: FileType::CharacterDevice,
            major: *major,
            minor: *minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .filter(|default| own.iter().all(|node| node.path != default.path));
    Ok(defaults.chain(own.iter().cloned()).collect())
}

fn node(device: &LinuxDevice) -> Result<Node, DeviceError> {
    let path = device.path().clone();
    split(&path)?;
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::A => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
    };
    let (Ok(major), Ok(minor)) = (u32::try_from(device.major()), u32::try_from(device.minor()))
    else {
        return Err(DeviceError::InvalidNumber {
            path,
            major: device.major(),
            minor: device.minor(),
        });
    };
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if uid == u32::MAX || gid == u32::MAX {
        return Err(DeviceError::InvalidOwner { path, uid, gid });
    }
    let mode = device.file_mode().unwrap_or(0o666) & 0o777;
    Ok(Node { path, kind, major, minor, mode, uid, gid })
}

/// Makes a node below `root`, with missing parent directories.
///
/// A node that is already there with the same kind and numbers is taken over: it gets the owner
/// and keeps its mode. The umask of the process is zero for a moment: call it in a process with
/// one thread.
///
/// # Errors
/// The step that failed; [`DeviceError::is_refused`] tells that a bind is needed instead.
///
/// # References
/// - [mknodat(2)](https://man7.org/linux/man-pages/man2/mknod.2.html)
/// - [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html)
pub fn create(root: BorrowedFd<'_>, node: &Node) -> Result<(), DeviceError> {
    let (directories, name) = split(&node.path)?;
    let parent = open_parent(root, &directories)
        .map_err(|source| DeviceError::OpenParent { path: node.path.clone(), source })?;
    let number = match node.kind {
        FileType::Fifo => 0,
        _ => fs::makedev(node.major, node.minor),
    };
    let umask = rustix::process::umask(Mode::empty());
    let made = fs::mknodat(&parent, &name, node.kind, Mode::from_raw_mode(node.mode), number);
    rustix::process::umask(umask);
    match made {
        Ok(()) => {}
        Err(Errno::EXIST) if is_same(&parent, &name, node, number) => {}
        Err(Errno::EXIST) => return Err(DeviceError::Occupied { path: node.path.clone() }),
        Err(source) => return Err(DeviceError::Create { path: node.path.clone(), source }),
    }
    own(&parent, &name, node)
        .map_err(|source| DeviceError::SetOwner { path: node.path.clone(), source })
}

/// Splits a path into its directories and its name; refuses `..`, and nothing at all.
fn split(path: &Path) -> Result<(Vec<OsString>, OsString), DeviceError> {
    let refuse = || DeviceError::InvalidPath { path: path.to_path_buf() };
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_os_string()),
            Component::ParentDir | Component::Prefix(_) => return Err(refuse()),
        }
    }
    let name = parts.pop().ok_or_else(refuse)?;
    Ok((parts, name))
}

/// Opens the directory, making what is missing; each step is resolved from the root again, so a
/// link with an absolute target stays inside.
fn open_parent(root: BorrowedFd<'_>, directories: &[OsString]) -> Result<OwnedFd, Errno> {
    let mut path = PathBuf::from(".");
    let mut opened = open_inside(root, &path)?;
    for directory in directories {
        match fs::mkdirat(&opened, directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        path.push(directory);
        opened = open_inside(root, &path)?;
    }
    Ok(opened)
}

fn open_inside(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

fn is_same(parent: &OwnedFd, name: &OsString, node: &Node, number: fs::Dev) -> bool {
    fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == node.kind
            && (node.kind == FileType::Fifo || stat.st_rdev == number)
    })
}

/// Sets the owner where it is not yet the right one, never through a link.
fn own(parent: &OwnedFd, name: &OsString, node: &Node) -> Result<(), Errno> {
    let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (stat.st_uid, stat.st_gid) == (node.uid, node.gid) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// The rules for the device cgroup: those of the spec, then the default ones that every container
/// has, whatever the spec denies.
#[must_use]
pub fn cgroup_rules(spec: &[LinuxDeviceCgroup]) -> Vec<LinuxDeviceCgroup> {
    spec.iter().cloned().chain(default_rules()).collect()
}

/// Making any node (but not opening it), the default nodes, terminals.
#[must_use]
pub fn default_rules() -> Vec<LinuxDeviceCgroup> {
    const C: LinuxDeviceType = LinuxDeviceType::C;
    let make = [(C, None, None, "m"), (LinuxDeviceType::B, None, None, "m")];
    let nodes = DEFAULT_NODES.map(|(_, major, minor)| (C, Some(major), Some(minor), "rwm"));
    let terminals = [(C, Some(136), None, "rwm"), (C, Some(5), Some(2), "rwm")];
    make.into_iter()
        .chain(nodes)
        .chain(terminals)
        .map(|(kind, major, minor, access)| {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true)
                .set_typ(Some(kind))
                .set_major(major.map(i64::from))
                .set_minor(minor.map(i64::from))
                .set_access(Some(access.to_owned()));
            rule
        })
        .collect()
}
