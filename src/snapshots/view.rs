//! Views: stacks of layers as detached, read-only mounts, and reading files in them.
//!
//! The mount is attached nowhere: it is reached through its descriptor only and vanishes with
//! it. Device files in it are dead, and nothing in it gains privileges.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, open_tree,
};
use sandbox::sys::mount::{Depth, MountAttr, mount_setattr};

use super::{Driver, LayerLease, Scratch, Snapshots, native, stack};
use crate::metadata::Digest;

/// Overlayfs wants this many lower directories when there is no upper one.
const LEAST_LOWER: usize = 2;
/// What every view is.
const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV);
/// Openat2 may refuse for a moment while a rename or mount goes on elsewhere.
const RESOLVE_ATTEMPTS: usize = 64;

/// A detached, read-only mount of a stack of layers. Its layers stay on disk while it lives.
#[derive(Debug)]
pub struct View {
    mount: OwnedFd,
    /// Where the mount is of a copy.
    _copy: Option<Scratch>,
    /// Behind the mount, so that they are given back after it.
    _layers: Vec<LayerLease>,
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// A view cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// A layer is not, or no longer, on disk.
    #[error("layer {0} of the view is not unpacked")]
    LayerMissing(Digest),
    /// The layers cannot be copied.
    #[error("cannot copy the layers of the view")]
    Copy(#[source] io::Error),
    /// The copy cannot be mounted.
    #[error("cannot mount a copy of the layers")]
    Directory(#[source] io::Error),
    /// The file system context cannot be opened, which is so without `CAP_SYS_ADMIN`.
    #[error("cannot open an overlay file system")]
    Open(#[source] Errno),
    /// A layer is refused.
    #[error("cannot add the layer {} to an overlay", path.display())]
    AddLayer {
        /// The layer's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// The stack is refused as a whole.
    #[error("cannot mount {layers} layers as an overlay")]
    Mount {
        /// How many there are.
        layers: usize,
        /// The cause.
        #[source]
        source: Errno,
    },
}

/// A file in a root directory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The path cannot be followed, or the file not be opened.
    #[error("cannot open {} in the image", path.display())]
    Open {
        /// The path as asked for.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// It is a directory, a device or something else that is not read as a file.
    #[error("{} in the image is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// It is longer than its reader allows.
    #[error("{} in the image is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The path as asked for.
        path: PathBuf,
        /// What the reader allows.
        limit: u64,
    },
    /// Its bytes cannot be read.
    #[error("cannot read {} in the image", path.display())]
    Read {
        /// The path as asked for.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Snapshots {
    /// Mounts these layers (lowest first) read-only and attached nowhere. Blocks.
    ///
    /// # Errors
    /// [`ViewError`].
    ///
    /// # References
    /// <https://docs.kernel.org/filesystems/overlayfs.html#multiple-lower-layers>; `lowerdir+`
    /// needs Linux 6.7.
    pub fn view(&self, diff_ids: &[Digest]) -> Result<View, ViewError> {
        let (numbers, layers) = {
            let mut state = self.0.state();
            let numbers = stack::numbers(&state, diff_ids).map_err(ViewError::LayerMissing)?;
            let used =
                state.layers.values_mut().filter(|layer| numbers.contains(&layer.row.number));
            let leases = used.map(|layer| LayerLease::take(&self.0, layer)).collect();
            (numbers, leases)
        };
        let (mount, copy) = match self.0.driver {
            Driver::Overlay => (mount_overlay(&self.0.lower_paths(&numbers, LEAST_LOWER))?, None),
            Driver::Native => {
                let scratch = self.scratch().map_err(ViewError::Copy)?;
                let path = scratch.path();
                native::merge(&self.0.lower_paths(&numbers, 0), &path).map_err(ViewError::Copy)?;
                (mount_directory(&path).map_err(ViewError::Directory)?, Some(scratch))
            }
        };
        Ok(View { mount, _copy: copy, _layers: layers })
    }
}

fn mount_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags)?;
    let set = u64::from(ATTRIBUTES.bits());
    // No mount on the host shows in it, and none in it shows on the host.
    let propagation = u64::from(MountPropagationFlags::PRIVATE.bits());
    let attr = MountAttr { set, propagation, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), c"", Depth::One, attr)?;
    Ok(tree)
}

fn mount_overlay(lower: &[PathBuf]) -> Result<OwnedFd, ViewError> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(ViewError::Open)?;
    for path in lower {
        fsconfig_set_string(&context, "lowerdir+", path)
            .map_err(|source| ViewError::AddLayer { path: path.clone(), source })?;
    }
    let failed = |source| ViewError::Mount { layers: lower.len(), source };
    fsconfig_create(&context).map_err(failed)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, ATTRIBUTES).map_err(failed)
}

/// Reads a regular file of at most `limit` bytes inside `root`. Links are followed as if `root`
/// were `/`; they cannot lead out of it. `None` when there is no such file. Blocks.
///
/// # Errors
/// [`ReadError`].
///
/// # References
/// <https://man7.org/linux/man-pages/man2/openat2.2.html>
pub fn read_in_root(
    root: impl AsFd,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>, ReadError> {
    let failed = |source| ReadError::Open { path: path.to_owned(), source };
    let file = match open_in_root(root.as_fd(), path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        // A fifo without a writer does not block us; a dead device or a socket ends here.
        Err(Errno::NXIO | Errno::ACCESS) => return Err(ReadError::NotRegular(path.to_owned())),
        Err(errno) => return Err(failed(errno)),
    };
    let status = fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(ReadError::NotRegular(path.to_owned()));
    }
    let mut content = Vec::new();
    File::from(file)
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|source| ReadError::Read { path: path.to_owned(), source })?;
    if content.len() as u64 > limit {
        return Err(ReadError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(Some(content))
}

/// Whether there is anything at `path` inside `root`, links followed as if `root` were `/`.
/// Blocks.
#[must_use]
pub fn has_path(root: impl AsFd, path: &Path) -> bool {
    open_in_root_as(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC).is_ok()
}

fn open_in_root(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    open_in_root_as(root, path, flags)
}

fn open_in_root_as(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let mut attempts = RESOLVE_ATTEMPTS;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempts > 0 => attempts -= 1,
            outcome => return outcome,
        }
    }
}
