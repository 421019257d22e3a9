//! The one call of the mount API that `rustix` does not have, `mount_setattr`; and what is
//! mounted.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// What to change on a mount: attributes to set and clear (`MOUNT_ATTR_*`), and its
/// propagation (`MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`; 0 leaves it).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
}

/// Whether a change applies to one mount or to the whole tree under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only the mount itself.
    One,
    /// The mount and everything mounted below it.
    Tree,
}

/// Changes the mount at `path` below `dir`; an empty `path` means `dir` itself.
///
/// # Errors
/// What `mount_setattr` says; with [`Depth::Tree`] nothing is changed on failure.
///
/// # References
/// - [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), Linux 5.12
pub fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    depth: Depth,
    attr: MountAttr,
) -> io::Result<()> {
    let MountAttr { set, clear, propagation } = attr;
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    set_attributes(dir, path, depth, &attr)
}

/// Makes the ids on the detached mount `tree` those of the user namespace: what is user 0 on
/// disk is user 0 in the namespace, and nobody else's.
///
/// # Errors
/// What `mount_setattr` says: `EINVAL` for a file system that cannot be mounted so.
///
/// # References
/// - [idmappings](https://docs.kernel.org/filesystems/idmappings.html)
pub fn map_ids(
    tree: BorrowedFd<'_>,
    depth: Depth,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    set_attributes(tree, c"", depth, &attr)
}

fn set_attributes(
    dir: BorrowedFd<'_>,
    path: &CStr,
    depth: Depth,
    attr: &libc::mount_attr,
) -> io::Result<()> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if depth == Depth::Tree {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `path` is NUL-terminated, `attr` is a valid mount_attr of the size passed,
    // both outlive the call; `dir` is an open descriptor.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A line of a `mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Where it is mounted.
    pub place: String,
    /// The type of its file system.
    pub file_system: String,
}

/// The mounts of a `mountinfo`, in their order.
///
/// # References
/// - [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)
#[must_use]
pub fn mount_points(mountinfo: &str) -> Vec<MountPoint> {
    let points = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let place = unescape(mount.split(' ').nth(4)?);
        let file_system = file_system.split(' ').next()?.to_owned();
        Some(MountPoint { place, file_system })
    });
    points.collect()
}

/// A path of `mountinfo`, where spaces and the like are octal numbers.
fn unescape(path: &str) -> String {
    let mut rest = path;
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let number = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let Some(byte) = number.filter(u8::is_ascii) else {
            out.push('\\');
            rest = after;
            continue;
        };
        out.push(char::from(byte));
        rest = &after[3..];
    }
    out.push_str(rest);
    out
}
