//! The one call of the mount API that `rustix` does not have: `mount_setattr`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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
    let mut flags = libc::AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if depth == Depth::Tree {
        flags |= libc::AT_RECURSIVE;
    }
    let attr = libc::mount_attr {
        attr_set: attr.set,
        attr_clr: attr.clear,
        propagation: attr.propagation,
        userns_fd: 0,
    };
    // SAFETY: `path` is NUL-terminated, `attr` is a valid mount_attr of the size passed,
    // both outlive the call; `dir` is an open descriptor.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
