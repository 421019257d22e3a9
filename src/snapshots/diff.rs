//! What a container wrote, as an archive in the format of image layers.
//!
//! Overlayfs's ways to delete something of a layer below become those of the specification,
//! so that what extracts layers extracts this.
//!
//! # References
//! - [Layers](https://github.com/opencontainers/image-spec/blob/main/layer.md)
//! - [overlayfs](https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories)

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::{Driver, Scratch, SnapshotKey, Snapshots, native};

/// What overlayfs remembers of its own begins with this.
const OVERLAY: &str = "trusted.overlay.";

/// A directory with this hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// What overlayfs keeps elsewhere cannot be copied from here.
const ELSEWHERE: [&str; 2] = ["trusted.overlay.metacopy", "trusted.overlay.redirect"];

/// How extended attributes are named in an archive.
const PAX_XATTR: &str = "SCHILY.xattr.";

/// As many bytes as the kernel gives at most.
const XATTR_MAX: usize = 64 << 10;

/// A diff cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// There is no such snapshot.
    #[error("there is no snapshot {0}")]
    Missing(SnapshotKey),
    /// What was written cannot be told from what was there.
    #[error("compare a snapshot with its layers")]
    Compare(#[source] io::Error),
    /// A file cannot be read, or the archive not be written.
    #[error("copy {}", path.display())]
    Copy {
        /// Where it is in the container.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Snapshots {
    /// Writes an archive of the writable directory of an active snapshot. Nobody should write
    /// to it meanwhile. Blocks.
    ///
    /// # Errors
    /// [`DiffError`].
    pub fn write_diff(&self, key: &SnapshotKey, to: impl Write) -> Result<(), DiffError> {
        let written = self.written(key).map_err(DiffError::Compare)?;
        let written = written.ok_or_else(|| DiffError::Missing(key.clone()))?;
        write_diff(written.path(), to)
    }

    /// What was written into an active snapshot, as overlayfs has it; `None` when there is no
    /// such snapshot. Blocks.
    ///
    /// # Errors
    /// What the file system says.
    pub fn written(&self, key: &SnapshotKey) -> io::Result<Option<Written>> {
        let Some(layers) = self.0.state().active.get(key).map(|active| active.layers.clone())
        else {
            return Ok(None);
        };
        let upper = self.0.upper_path(key);
        if self.0.driver == Driver::Overlay {
            return Ok(Some(Written { path: upper, _copy: None }));
        }
        let (before, changes) = (self.scratch()?, self.scratch()?);
        native::merge(&self.0.lower_paths(&layers, 0), &before.path())?;
        native::changes(&before.path(), &upper, &changes.path())?;
        Ok(Some(Written { path: changes.path(), _copy: Some(changes) }))
    }
}

/// A directory of what was written into a snapshot.
#[derive(Debug)]
pub struct Written {
    path: PathBuf,
    _copy: Option<Scratch>,
}

impl Written {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_diff(upper: &Path, to: impl Write) -> Result<(), DiffError> {
    let failed = |source| DiffError::Copy { path: PathBuf::from("/"), source };
    let root = File::open(upper).map_err(failed)?;
    let mut diff = Diff { archive: tar::Builder::new(to), root, linked: HashMap::new() };
    diff.add_tree()?;
    diff.archive.into_inner().map_err(failed)?.flush().map_err(failed)
}

struct Diff<W: Write> {
    archive: tar::Builder<W>,
    root: File,
    /// Names of files that have several, by their inode.
    linked: HashMap<u64, PathBuf>,
}

impl<W: Write> Diff<W> {
    fn add_tree(&mut self) -> Result<(), DiffError> {
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let inside = self
                .add(&path)
                .map_err(|source| DiffError::Copy { path: Path::new("/").join(&path), source })?;
            pending.extend(inside.into_iter().rev().map(|name| path.join(name)));
        }
        Ok(())
    }

    /// What is at a path, itself. No link is followed: others than the container may be able
    /// to put one there, by its root in `/proc`.
    fn find(&self, path: &Path) -> io::Result<Found> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file: File =
            rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?.into();
        let metadata = file.metadata()?;
        Ok(Found { file, metadata })
    }

    /// Adds what is at a path; returns the names in it if it is a directory.
    fn add(&mut self, path: &Path) -> io::Result<Vec<OsString>> {
        let found = self.find(path)?;
        let (metadata, kind) = (&found.metadata, found.metadata.file_type());
        if kind.is_char_device() && metadata.rdev() == 0 {
            let mut name = OsString::from(".wh.");
            name.push(path.file_name().unwrap_or_default());
            self.add_marker(&path.with_file_name(name))?;
            return Ok(vec![]);
        }
        if kind.is_socket() {
            // Of no use without its listener, which makes it anew.
            return Ok(vec![]);
        }
        let attributes = found.attributes()?;
        let mut header = found.header()?;
        if metadata.nlink() > 1 && !kind.is_dir() {
            if let Some(first) = self.linked.get(&metadata.ino()) {
                header.set_entry_type(EntryType::Link);
                self.archive.append_link(&mut header, path, first)?;
                return Ok(vec![]);
            }
            self.linked.insert(metadata.ino(), path.to_owned());
        }
        let pax = attributes.iter().filter(|(name, _)| !name.starts_with(OVERLAY));
        let pax: Vec<_> = pax.map(|(name, value)| (format!("{PAX_XATTR}{name}"), value)).collect();
        if !pax.is_empty() {
            let pax = pax.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            self.archive.append_pax_extensions(pax)?;
        }
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        if kind.is_file() {
            header.set_size(metadata.len());
            self.archive.append_data(&mut header, name, found.content()?)?;
        } else if kind.is_symlink() {
            let target = rustix::fs::readlinkat(&found.file, "", Vec::new())?;
            let target = OsStr::from_bytes(target.to_bytes());
            self.archive.append_link(&mut header, name, target)?;
        } else {
            self.archive.append_data(&mut header, name, io::empty())?;
        }
        if !kind.is_dir() {
            return Ok(vec![]);
        }
        if attributes.iter().any(|(name, value)| name == OPAQUE && value == b"y") {
            self.add_marker(&path.join(".wh..wh..opq"))?;
        }
        found.names()
    }

    fn add_marker(&mut self, path: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.archive.append_data(&mut header, path, io::empty())
    }
}

/// A file of any kind, by a descriptor that only names it.
struct Found {
    file: File,
    metadata: Metadata,
}

impl Found {
    /// A name of it that leads nowhere else.
    fn name(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    fn header(&self) -> io::Result<Header> {
        let mut header = Header::new_gnu();
        header.set_metadata(&self.metadata);
        header.set_size(0);
        let device = self.metadata.rdev();
        header.set_device_major(rustix::fs::major(device))?;
        header.set_device_minor(rustix::fs::minor(device))?;
        Ok(header)
    }

    /// As many bytes as it had: should it grow, what was added is left out, and should it
    /// shrink, the archive has zeros there.
    fn content(&self) -> io::Result<impl io::Read> {
        let rest = io::repeat(0);
        Ok(io::Read::take(io::Read::chain(File::open(self.name())?, rest), self.metadata.len()))
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = fs::read_dir(self.name())?;
        let mut names: Vec<_> =
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn attributes(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        let path = self.name();
        let mut names = vec![0_u8; XATTR_MAX];
        let length = match rustix::fs::listxattr(&path, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut found = Vec::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = String::from_utf8_lossy(name).into_owned();
            if ELSEWHERE.contains(&name.as_str()) {
                return Err(io::Error::other("overlayfs keeps a part of it elsewhere"));
            }
            let mut value = vec![0_u8; XATTR_MAX];
            let length = rustix::fs::getxattr(&path, name.as_str(), &mut value[..])?;
            value.truncate(length);
            found.push((name, value));
        }
        Ok(found)
    }
}
