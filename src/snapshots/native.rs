//! Whole trees in place of overlays, for where overlayfs is not to be had. (Layers in the store keep
//! its whiteouts, devices with the number 0, which any file system takes but overlayfs itself.)
//!
//! A stack of layers is copied into one directory, lowest first: a later layer's files take the
//! place of earlier ones, and its whiteouts and opaque directories take them away. The way back
//! is what a tree has that another had not, in the form of overlayfs's writable directory, so
//! that whatever reads those reads this. A copy shares blocks where the file system can.
//!
//! Invariant: a container may change its tree meanwhile, so a directory is entered by its name in
//! one that is open, a link is never followed, and a file is read only once it is known for one.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _, lchown, symlink,
};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat,
    utimensat,
};

use super::PRIVATE_DIRECTORY;
use super::stack::{is_opaque, xattrs};

/// Deeper trees are refused: each level is a descriptor and a call.
const DEPTH_MAX: usize = 512;
const PRIVATE_FILE: u32 = 0o600;

/// An open directory.
struct Dir(File);

/// Where files with several names were copied to, by where they come from.
type Links = HashMap<(u64, u64), PathBuf>;

/// Copies a stack of layers (top first) into the directory `to`, which is there and empty.
pub(super) fn merge(layers: &[PathBuf], to: &Path) -> io::Result<()> {
    let target = Dir::open(to)?;
    for layer in layers.iter().rev() {
        let source = Dir::open(layer)?;
        apply(&source, &target, to, &mut Links::new(), 0)?;
        copy_attributes(&fs::symlink_metadata(layer)?, layer, to)?;
    }
    Ok(())
}

/// Puts into the empty directory `to` what `after` has that `before` has not, and marks for what
/// it has no more.
pub(super) fn changes(before: &Path, after: &Path, to: &Path) -> io::Result<()> {
    let (old, new, target) = (Dir::open(before)?, Dir::open(after)?, Dir::open(to)?);
    compare(&old, &new, &target, to, &mut Links::new(), 0)?;
    copy_attributes(&new.0.metadata()?, after, to)
}

impl Dir {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        options.read(true).custom_flags(flags.bits().cast_signed());
        options.open(path).map(Self)
    }

    /// A name of it that leads nowhere else.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    fn at(&self, name: &OsString) -> PathBuf {
        self.path().join(name)
    }

    fn enter(&self, name: &OsString) -> io::Result<Self> {
        Self::open(&self.at(name))
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        fs::read_dir(self.path())?.map(|entry| Ok(entry?.file_name())).collect()
    }

    /// What has this name; `None` where nothing has.
    fn look(&self, name: &OsString) -> io::Result<Option<Metadata>> {
        match fs::symlink_metadata(self.at(name)) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a directory that nobody else can enter yet.
    fn make(&self, name: &OsString) -> io::Result<Self> {
        fs::DirBuilder::new().mode(PRIVATE_DIRECTORY).create(self.at(name))?;
        self.enter(name)
    }

    fn remove(&self, name: &OsString, found: &Metadata) -> io::Result<()> {
        let path = self.at(name);
        if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }
}

/// Lays one layer over what is there.
fn apply(from: &Dir, to: &Dir, to_path: &Path, links: &mut Links, depth: usize) -> io::Result<()> {
    check_depth(depth)?;
    for name in from.names()? {
        let Some(found) = from.look(&name)? else { continue };
        let present = to.look(&name)?;
        let (source, path) = (from.at(&name), to_path.join(&name));
        if !found.is_dir() || !present.as_ref().is_some_and(Metadata::is_dir) || is_opaque(&source)?
        {
            if let Some(present) = &present {
                to.remove(&name, present)?;
            }
            if !is_whiteout(&found) && !found.is_dir() {
                copy(&source, &found, &path, links)?;
            }
            if !found.is_dir() {
                continue;
            }
            to.make(&name)?;
        }
        apply(&from.enter(&name)?, &to.enter(&name)?, &path, links, depth + 1)?;
        copy_attributes(&found, &source, &path)?;
    }
    Ok(())
}

/// Copies what differs between two directories; says whether anything does.
fn compare(
    old: &Dir,
    new: &Dir,
    to: &Dir,
    to_path: &Path,
    links: &mut Links,
    depth: usize,
) -> io::Result<bool> {
    check_depth(depth)?;
    let names = new.names()?;
    let mut changed = false;
    for name in &names {
        let Some(found) = new.look(name)? else { continue };
        let (source, path) = (new.at(name), to_path.join(name));
        let before = old.look(name)?;
        match before.filter(|before| before.is_dir() == found.is_dir()) {
            Some(before) if found.is_dir() => {
                let made = to.make(name)?;
                let inside =
                    compare(&old.enter(name)?, &new.enter(name)?, &made, &path, links, depth + 1)?;
                copy_attributes(&found, &source, &path)?;
                if inside || !looks_alike((&old.at(name), &before), (&source, &found))? {
                    changed = true;
                } else {
                    fs::remove_dir(&path)?;
                }
            }
            Some(before) if is_same((&old.at(name), &before), (&source, &found))? => {}
            _ if found.is_dir() => {
                changed = true;
                let made = to.make(name)?;
                apply(&new.enter(name)?, &made, &path, links, depth + 1)?;
                copy_attributes(&found, &source, &path)?;
            }
            _ => {
                changed = true;
                copy(&source, &found, &path, links)?;
            }
        }
    }
    let names: HashSet<OsString> = names.into_iter().collect();
    for gone in old.names()?.into_iter().filter(|name| !names.contains(name)) {
        changed = true;
        mknodat(CWD, to_path.join(gone), FileType::CharacterDevice, Mode::empty(), 0)?;
    }
    Ok(changed)
}

fn check_depth(depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        let text = format!("directories are more than {DEPTH_MAX} deep in each other");
        return Err(io::Error::other(text));
    }
    Ok(())
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Copies anything but a directory.
fn copy(from: &Path, found: &Metadata, to: &Path, links: &mut Links) -> io::Result<()> {
    let inode = (found.dev(), found.ino());
    if found.nlink() > 1
        && let Some(first) = links.get(&inode)
    {
        return fs::hard_link(first, to);
    }
    let kind = found.file_type();
    if kind.is_file() {
        copy_content(from, to)?;
    } else if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else {
        let kind = FileType::from_raw_mode(found.mode());
        mknodat(CWD, to, kind, Mode::empty(), found.rdev())?;
    }
    copy_attributes(found, from, to)?;
    if found.nlink() > 1 {
        links.insert(inode, to.to_owned());
    }
    Ok(())
}

fn copy_content(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = open_file(from)?;
    let mut target = OpenOptions::new();
    let mut target = target.write(true).create_new(true).mode(PRIVATE_FILE).open(to)?;
    // Shares blocks where the file system can.
    io::copy(&mut source, &mut target).map(drop)
}

/// Opens a regular file; it may have become something else.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no file any more"))
    }
}

/// Owner, mode, extended attributes and times; the order is that in which none undoes another.
fn copy_attributes(found: &Metadata, from: &Path, to: &Path) -> io::Result<()> {
    lchown(to, Some(found.uid()), Some(found.gid()))?;
    if !found.file_type().is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    }
    for (name, value) in xattrs(from)? {
        lsetxattr(to, name.as_slice(), &value, XattrFlags::empty())?;
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether owner, mode, times and extended attributes are the same.
fn looks_alike(
    (one, one_is): (&Path, &Metadata),
    (other, other_is): (&Path, &Metadata),
) -> io::Result<bool> {
    let attributes = |it: &Metadata| {
        let modified = (!it.is_dir()).then(|| (it.mtime(), it.mtime_nsec()));
        (it.mode(), it.uid(), it.gid(), it.rdev(), modified)
    };
    Ok(attributes(one_is) == attributes(other_is) && xattrs(one)? == xattrs(other)?)
}

/// Whether two things that are no directories are the same, to the last byte.
fn is_same(
    (one, one_is): (&Path, &Metadata),
    (other, other_is): (&Path, &Metadata),
) -> io::Result<bool> {
    if one_is.len() != other_is.len() || !looks_alike((one, one_is), (other, other_is))? {
        return Ok(false);
    }
    let kind = one_is.file_type();
    if kind.is_symlink() {
        return Ok(fs::read_link(one)? == fs::read_link(other)?);
    }
    if !kind.is_file() {
        return Ok(true);
    }
    let (mut one, mut other) = (open_file(one)?, open_file(other)?);
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let (read, beside) = (fill(&mut one, &mut left)?, fill(&mut other, &mut right)?);
        if left.get(..read) != right.get(..beside) {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
