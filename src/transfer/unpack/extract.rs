//! Archive entries into files: one function for each kind, and the attributes they share.
//!
//! Owner, mode, attributes and times are set in this order: changing the owner clears setuid
//! bits and capabilities. Attributes that mean something to overlayfs are left out, so that a
//! layer cannot pretend to be what only the extractor may write. A hard link gets none of
//! them: the file that it leads to has its own.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/layer.md>

use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, lsetxattr, makedev, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::archive::{Archive, ArchiveError, Entry, Kind, Piece};
use super::record::Recorder;
use super::tree::{Existing, Missing, Place, Tree, display, make_opaque, proc_path, timestamps};
use crate::snapshots::{LayerContents, Usage};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Names with this prefix are notes to the file system that the layer was made on.
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Only the extractor says what overlayfs is to think of a file.
const RESERVED_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const USER_XATTR: &[u8] = b"user.";
/// Space is counted in these.
const DISK_BLOCK_BYTES: u64 = 4096;

/// An entry cannot be made. Paths are as in the archive.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive cannot be read on.
    #[error("cannot read the next entry")]
    Archive(#[from] ArchiveError),
    /// The name has a `..` or a zero byte, or is a whiteout of nothing.
    #[error("entry name {0:?} is not allowed in a layer")]
    Name(String),
    /// A directory on the way cannot be reached or made.
    #[error("cannot reach the directory of {path:?}")]
    Parent {
        /// The entry.
        path: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// The entry's file cannot be made.
    #[error("cannot make {path:?}")]
    Create {
        /// The entry.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A hard link leads to nothing in this layer.
    #[error("hard link {path:?} leads to {target:?}, which this layer does not have")]
    LinkTarget {
        /// The entry.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// The content does not come, or is not that of an archive.
    #[error("cannot read the content of {path:?}")]
    Read {
        /// The entry.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The content cannot be written, often because the disk is full.
    #[error("cannot write {path:?}")]
    Write {
        /// The entry.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A user, group or device number is out of range.
    #[error("{what} of {path:?} is out of range: {number}")]
    OutOfRange {
        /// What the number is.
        what: &'static str,
        /// The entry.
        path: String,
        /// The number.
        number: u64,
    },
    /// Owner, mode, times or an extended attribute cannot be set.
    #[error("cannot set the {attribute} of {path:?}")]
    Attributes {
        /// What cannot be set.
        attribute: &'static str,
        /// The entry.
        path: String,
        /// The cause.
        #[source]
        source: Errno,
    },
}

/// Extracts a whole archive into the directory `root`.
pub(super) fn extract<R: BufRead>(
    archive: &mut Archive<Recorder<R>>,
    root: File,
) -> Result<LayerContents, ExtractError> {
    let mut extractor = Extractor { tree: Tree::new(root), bytes: 0 };
    while let Some(entry) = archive.next_entry()? {
        extractor.entry(&entry, archive)?;
        if extractor.tree.replaced {
            archive.source_mut().give_up();
        }
    }
    extractor.tree.set_times()?;
    let usage = Usage { bytes: extractor.bytes, inodes: extractor.tree.created };
    Ok(LayerContents { usage, implied: extractor.tree.implied.into_iter().collect() })
}

struct Extractor {
    tree: Tree,
    bytes: u64,
}

impl Extractor {
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<Recorder<R>>,
    ) -> Result<(), ExtractError> {
        let trimmed = without_slashes(&entry.path);
        let name = trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.mark(trimmed, name);
        }
        let Some(place) = self.tree.place(&entry.path, Missing::Create)? else {
            return self.root(entry);
        };
        match &entry.kind {
            Kind::Directory => self.directory(entry, place),
            Kind::Regular { bytes } => {
                archive.source_mut().begin_content();
                self.regular(entry, &place, |file| write_content(archive, file))?;
                let whole = Piece { offset: 0, bytes: *bytes };
                let pieces = if *bytes == 0 { &[][..] } else { &[whole][..] };
                archive.source_mut().end_content(&place.path, *bytes, pieces);
                Ok(())
            }
            Kind::Sparse { bytes, pieces } => {
                archive.source_mut().begin_content();
                self.regular(entry, &place, |file| write_pieces(archive, file, *bytes, pieces))?;
                archive.source_mut().end_content(&place.path, *bytes, pieces);
                Ok(())
            }
            Kind::HardLink { target } => self.hard_link(entry, &place, target),
            Kind::Symlink { .. }
            | Kind::CharDevice { .. }
            | Kind::BlockDevice { .. }
            | Kind::Fifo => self.special(entry, &place),
        }
    }

    /// A whiteout, an opaque marker, or a note that means nothing here.
    fn mark(&mut self, path: &[u8], name: &[u8]) -> Result<(), ExtractError> {
        let parent = path.get(..path.len() - name.len()).unwrap_or_default();
        let failed =
            |source: Errno| ExtractError::Create { path: display(path), source: source.into() };
        if name == OPAQUE_MARKER {
            let (directory, _) = self.tree.directory(parent)?;
            return make_opaque(directory.as_fd()).map_err(failed);
        }
        if name.starts_with(META_PREFIX) {
            return Ok(());
        }
        let hidden = name.get(WHITEOUT_PREFIX.len()..).unwrap_or_default();
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ExtractError::Name(display(path)));
        }
        match self.tree.place(&[parent, hidden].concat(), Missing::Create)? {
            Some(place) => self.tree.whiteout(&place).map_err(failed),
            None => Ok(()),
        }
    }

    /// The layer's root directory is there; the archive only says what it looks like.
    fn root(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        if entry.kind != Kind::Directory {
            return Err(ExtractError::Name(display(&entry.path)));
        }
        let root = self.tree.root();
        attributes(entry, root.as_fd())?;
        self.tree.implied.remove(&PathBuf::new());
        self.tree.set_time_at_end(PathBuf::new(), entry.mtime);
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, place: Place) -> Result<(), ExtractError> {
        let directory =
            self.tree.make_directory(&place).map_err(|source| creating(entry, source))?;
        attributes(entry, directory.as_fd())?;
        self.bytes += DISK_BLOCK_BYTES;
        self.tree.set_time_at_end(place.path, entry.mtime);
        Ok(())
    }

    fn regular(
        &mut self,
        entry: &Entry,
        place: &Place,
        write: impl FnOnce(&mut File) -> Result<(), CopyError>,
    ) -> Result<(), ExtractError> {
        self.tree.clear(place).map_err(|source| creating(entry, source))?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: OwnedFd = openat(&place.directory, &place.name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| creating(entry, errno.into()))?;
        let mut file = File::from(file);
        write(&mut file).map_err(|error| error.of(entry))?;
        attributes(entry, file.as_fd())?;
        futimens(&file, &timestamps(entry.mtime))
            .map_err(|source| setting("times", entry, source))?;
        self.tree.created += 1;
        let written = match &entry.kind {
            Kind::Regular { bytes } => *bytes,
            Kind::Sparse { pieces, .. } => pieces.iter().map(|piece| piece.bytes).sum(),
            _ => 0,
        };
        self.bytes += written.next_multiple_of(DISK_BLOCK_BYTES);
        Ok(())
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        place: &Place,
        target: &[u8],
    ) -> Result<(), ExtractError> {
        let missing =
            || ExtractError::LinkTarget { path: display(&entry.path), target: display(target) };
        let found = match self.tree.place(target, Missing::Refuse) {
            Ok(Some(found)) if !self.tree.is_whiteout(&found) => found,
            Ok(_) | Err(ExtractError::Parent { source: Errno::NOENT, .. }) => return Err(missing()),
            Err(error) => return Err(error),
        };
        if found.path == place.path {
            let existing = self.tree.existing(place);
            return match existing.map_err(|source| creating(entry, source.into()))? {
                Existing::Nothing => Err(missing()),
                _ => Ok(()),
            };
        }
        // A link into what is about to be replaced would lose its target.
        if found.path.starts_with(&place.path) {
            return Err(missing());
        }
        self.tree.clear(place).map_err(|source| creating(entry, source))?;
        match linkat(&found.directory, &found.name, &place.directory, &place.name, AtFlags::empty())
        {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(missing()),
            Err(errno) => Err(creating(entry, errno.into())),
        }
    }

    /// What has no content: links, devices, fifos. None of them is ever opened.
    fn special(&mut self, entry: &Entry, place: &Place) -> Result<(), ExtractError> {
        self.tree.clear(place).map_err(|source| creating(entry, source))?;
        let (directory, name) = (&place.directory, &place.name);
        let mode = Mode::from_raw_mode(entry.mode);
        let node = |kind, device| mknodat(directory, name, kind, mode, device);
        let made = match &entry.kind {
            Kind::Symlink { target } => {
                symlinkat(std::ffi::OsStr::from_bytes(target), directory, name)
            }
            Kind::CharDevice { major, minor } => {
                node(FileType::CharacterDevice, device(entry, *major, *minor)?)
            }
            Kind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, device(entry, *major, *minor)?)
            }
            _ => node(FileType::Fifo, 0),
        };
        made.map_err(|errno| creating(entry, errno.into()))?;
        self.tree.created += 1;
        self.special_attributes(entry, place)
    }

    fn special_attributes(&self, entry: &Entry, place: &Place) -> Result<(), ExtractError> {
        let (directory, name) = (&place.directory, &place.name);
        let (uid, gid) = owner(entry)?;
        chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|source| setting("owner", entry, source))?;
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            // It was made a moment ago and is not a link, so nothing is followed.
            chmodat(directory, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(|source| setting("mode", entry, source))?;
        }
        for (key, value) in xattrs(entry) {
            let set = lsetxattr(proc_path(place), key, value, XattrFlags::empty());
            tolerate_xattr(set, entry, key)?;
        }
        utimensat(directory, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|source| setting("times", entry, source))
    }
}

/// Owner, mode and extended attributes of a file or directory.
fn attributes(entry: &Entry, file: BorrowedFd<'_>) -> Result<(), ExtractError> {
    let (uid, gid) = owner(entry)?;
    fchown(file, Some(uid), Some(gid)).map_err(|source| setting("owner", entry, source))?;
    fchmod(file, Mode::from_raw_mode(entry.mode))
        .map_err(|source| setting("mode", entry, source))?;
    for (key, value) in xattrs(entry) {
        tolerate_xattr(fsetxattr(file, key, value, XattrFlags::empty()), entry, key)?;
    }
    Ok(())
}

fn xattrs(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    let is_free = |key: &[u8]| !RESERVED_XATTRS.iter().any(|reserved| key.starts_with(reserved));
    entry
        .xattrs
        .iter()
        .map(|(key, value)| (key.as_slice(), value.as_slice()))
        .filter(move |(key, _)| is_free(key))
}

/// A file system, or a kind of file, that cannot hold an attribute is no reason to refuse an
/// image.
fn tolerate_xattr(set: Result<(), Errno>, entry: &Entry, key: &[u8]) -> Result<(), ExtractError> {
    let holds_user =
        matches!(entry.kind, Kind::Regular { .. } | Kind::Sparse { .. } | Kind::Directory);
    match set {
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::PERM) if !holds_user && key.starts_with(USER_XATTR) => Ok(()),
        set => set.map_err(|source| setting("extended attributes", entry, source)),
    }
}

/// The highest number means "leave as it is" to the kernel, so it is not an owner.
fn owner(entry: &Entry) -> Result<(Uid, Gid), ExtractError> {
    let checked = |what, number: u64| match u32::try_from(number) {
        Ok(number) if number != u32::MAX => Ok(number),
        Ok(_) | Err(_) => {
            Err(ExtractError::OutOfRange { what, path: display(&entry.path), number })
        }
    };
    let uid = Uid::from_raw(checked("user", entry.uid)?);
    Ok((uid, Gid::from_raw(checked("group", entry.gid)?)))
}

fn device(entry: &Entry, major: u64, minor: u64) -> Result<u64, ExtractError> {
    let checked = |number: u64| {
        let out_of_range = |_too_large| ExtractError::OutOfRange {
            what: "device",
            path: display(&entry.path),
            number,
        };
        u32::try_from(number).map_err(out_of_range)
    };
    Ok(makedev(checked(major)?, checked(minor)?))
}

fn without_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    path.get(..end).unwrap_or_default()
}

/// Which side of a copy failed.
enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl CopyError {
    fn of(self, entry: &Entry) -> ExtractError {
        let path = display(&entry.path);
        match self {
            Self::Read(source) => ExtractError::Read { path, source },
            Self::Write(source) => ExtractError::Write { path, source },
        }
    }
}

fn write_content<R: BufRead>(archive: &mut Archive<R>, file: &mut File) -> Result<(), CopyError> {
    copy(&mut archive.content(), file, u64::MAX)
}

/// Writes the pieces where they belong; what is between them stays a hole.
fn write_pieces<R: BufRead>(
    archive: &mut Archive<R>,
    file: &mut File,
    bytes: u64,
    pieces: &[Piece],
) -> Result<(), CopyError> {
    file.set_len(bytes).map_err(CopyError::Write)?;
    for piece in pieces {
        file.seek(SeekFrom::Start(piece.offset)).map_err(CopyError::Write)?;
        copy(&mut archive.content(), file, piece.bytes)?;
    }
    Ok(())
}

/// Copies up to `limit` bytes straight from the buffer that they were inflated into.
fn copy(content: &mut impl BufRead, file: &mut File, limit: u64) -> Result<(), CopyError> {
    let mut left = limit;
    while left > 0 {
        let buffer = content.fill_buf().map_err(CopyError::Read)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let step = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.write_all(&buffer[..step]).map_err(CopyError::Write)?;
        content.consume(step);
        left -= step as u64;
    }
    Ok(())
}

fn creating(entry: &Entry, source: io::Error) -> ExtractError {
    ExtractError::Create { path: display(&entry.path), source }
}

fn setting(attribute: &'static str, entry: &Entry, source: Errno) -> ExtractError {
    ExtractError::Attributes { attribute, path: display(&entry.path), source }
}
