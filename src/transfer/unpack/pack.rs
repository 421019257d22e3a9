//! What a container has written, as a layer: the writable directory of a snapshot as an archive.
//!
//! The way back of `extract`: overlayfs's device 0/0 becomes a whiteout, its opaque mark a
//! marker file, and nothing else that means something to overlayfs goes along. The same tree
//! gives the same bytes: entries come in the order of their names. Invariant: a container may
//! change the tree meanwhile, so every file is opened beneath the root and no link is followed.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/layer.md>

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, flistxattr, major, minor,
    openat2, readlinkat, statat,
};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

const WHITEOUT_PREFIX: &str = ".wh.";
const OPAQUE_MARKER: &str = ".wh..wh..opq";
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const RESERVED: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const XATTR_PREFIX: &str = "SCHILY.xattr.";
const XATTR_MAX: usize = 64 << 10;

/// A directory cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something in it cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Relative to the directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file became shorter while it was read.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// A renamed directory whose content is still in a layer below.
    #[error("{} was renamed by overlayfs, which no layer can say", .0.display())]
    Redirected(PathBuf),
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// Writes the tree below `root` as an archive. Blocks.
///
/// # Errors
/// [`PackError`]; the archive is not complete then.
pub(in crate::transfer) fn pack(root: File, to: impl Write) -> Result<(), PackError> {
    let mut packer =
        Packer { root: root.into(), archive: Builder::new(to), linked: HashMap::new() };
    packer.directory(Path::new(""))?;
    packer.archive.finish().map_err(PackError::Write)
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

struct Packer<W: Write> {
    root: OwnedFd,
    archive: Builder<W>,
    /// Files with several links, by inode, and the first name.
    linked: HashMap<u64, PathBuf>,
}

impl<W: Write> Packer<W> {
    /// A directory, then what is in it, name by name.
    fn directory(&mut self, path: &Path) -> Result<(), PackError> {
        let mut pending = vec![path.to_owned()];
        while let Some(path) = pending.pop() {
            let failed =
                |source: Errno| PackError::Read { path: path.clone(), source: source.into() };
            let directory = self.open(&path, OFlags::DIRECTORY).map_err(failed)?;
            let stat = rustix::fs::fstat(&directory).map_err(failed)?;
            let xattrs = xattrs(directory.as_fd()).map_err(failed)?;
            if xattrs.iter().any(|(name, _)| name == REDIRECT) {
                return Err(PackError::Redirected(path));
            }
            let shown = if path.as_os_str().is_empty() { Path::new("./") } else { &path };
            self.append(shown, &stat, EntryType::Directory, &xattrs, 0, io::empty())?;
            if xattrs.iter().any(|(name, value)| name == OPAQUE && value == b"y") {
                self.marker(&path.join(OPAQUE_MARKER), &stat)?;
            }
            let mut names = names(&directory).map_err(failed)?;
            names.sort_unstable();
            let mut below = Vec::new();
            for name in names {
                let path = path.join(&name);
                match statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if kind(&stat) == FileType::Directory => below.push(path),
                    Ok(stat) => self.leaf(&directory, &name, &path, &stat)?,
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(PackError::Read { path, source: errno.into() }),
                }
            }
            pending.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
    ) -> Result<(), PackError> {
        let failed =
            |source: Errno| PackError::Read { path: path.to_owned(), source: source.into() };
        let kind = kind(stat);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            let mut whiteout = OsString::from(WHITEOUT_PREFIX);
            whiteout.push(name);
            return self.marker(&path.with_file_name(whiteout), stat);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&stat.st_ino).cloned() {
                let mut header = header(stat, EntryType::Link);
                let appended = self.archive.append_link(&mut header, path, first);
                return appended.map_err(PackError::Write);
            }
            self.linked.insert(stat.st_ino, path.to_owned());
        }
        match kind {
            FileType::RegularFile => {
                let file = File::from(self.open(path, OFlags::NONBLOCK).map_err(failed)?);
                let stat = rustix::fs::fstat(&file).map_err(failed)?;
                let xattrs = xattrs(file.as_fd()).map_err(failed)?;
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                let mut content = Exactly { file, left: size };
                let appended =
                    self.append(path, &stat, EntryType::Regular, &xattrs, size, &mut content);
                if content.left > 0 { Err(PackError::Changed(path.to_owned())) } else { appended }
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).map_err(failed)?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                let mut header = header(stat, EntryType::Symlink);
                self.archive.append_link(&mut header, path, target).map_err(PackError::Write)
            }
            FileType::Fifo => self.append(path, stat, EntryType::Fifo, &[], 0, io::empty()),
            FileType::CharacterDevice => {
                self.append(path, stat, EntryType::Char, &[], 0, io::empty())
            }
            FileType::BlockDevice => self.append(path, stat, EntryType::Block, &[], 0, io::empty()),
            // A socket means nothing without the process that listens.
            _ => Ok(()),
        }
    }

    fn append(
        &mut self,
        path: &Path,
        stat: &Stat,
        entry: EntryType,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        size: u64,
        content: impl Read,
    ) -> Result<(), PackError> {
        let kept =
            xattrs.iter().filter(|(name, _)| !RESERVED.iter().any(|it| name.starts_with(it)));
        let named: Vec<(String, &[u8])> = kept
            .map(|(name, value)| {
                (format!("{XATTR_PREFIX}{}", String::from_utf8_lossy(name)), value.as_slice())
            })
            .collect();
        if !named.is_empty() {
            let records = named.iter().map(|(name, value)| (name.as_str(), *value));
            self.archive.append_pax_extensions(records).map_err(PackError::Write)?;
        }
        let mut header = header(stat, entry);
        header.set_size(size);
        self.archive.append_data(&mut header, path, content).map_err(PackError::Write)
    }

    /// A file whose name says everything.
    fn marker(&mut self, path: &Path, like: &Stat) -> Result<(), PackError> {
        let mut header = header(like, EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.archive.append_data(&mut header, path, io::empty()).map_err(PackError::Write)
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        loop {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                outcome => return outcome,
            }
        }
    }
}

/// A file that must have all its bytes.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = Read::by_ref(&mut self.file).take(self.left).read(buffer)?;
        self.left -= read as u64;
        if read == 0 && self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}

fn header(stat: &Stat, entry: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
    header.set_size(0);
    if matches!(entry, EntryType::Char | EntryType::Block) {
        // The format is GNU's, which has both fields.
        let _has_fields = header.set_device_major(major(stat.st_rdev));
        let _has_fields = header.set_device_minor(minor(stat.st_rdev));
    }
    header
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let entries = Dir::read_from(directory)?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()));
    let names = names.collect::<Result<Vec<_>, _>>()?.into_iter();
    Ok(names.filter(|name| name != b"." && name != b"..").map(OsString::from_vec).collect())
}

/// All extended attributes, in the order of their names.
fn xattrs(file: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    let mut buffer = vec![0; XATTR_MAX];
    let length = match flistxattr(file, buffer.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    let names = buffer.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == 0);
    let mut found = Xattrs::new();
    for name in names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        let mut value = vec![0; XATTR_MAX];
        match fgetxattr(file, name, value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno),
        }
        found.push((name.to_bytes().to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}
