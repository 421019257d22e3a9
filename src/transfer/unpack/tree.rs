//! The directory that a layer is extracted into, and the only ways to change it.
//!
//! Invariants:
//! - Everything happens relative to a directory descriptor, one name at a time, and a name is
//!   never a link that the kernel would follow: `openat2` is told to stay beneath and to follow
//!   nothing. Links inside the layer are followed here, in text, with the layer's root as `/`,
//!   so there is no `..`, absolute name or link that leads out.
//! - Directories that have to be made on the way to a named entry are remembered as implied.
//!
//! References: <https://man7.org/linux/man-pages/man2/openat2.2.html>,
//! <https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories>

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags, fchmod, fsetxattr, mkdirat,
    mknodat, openat2, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use super::archive::Timestamp;
use super::extract::ExtractError;

/// As many links on one path as the kernel follows.
const LINKS_MAX: usize = 40;
const IMPLIED_MODE: Mode = Mode::from_raw_mode(0o755);
const OPAQUE: (&str, &[u8]) = ("trusted.overlay.opaque", b"y");

/// The directory that an entry goes into, and the entry's name in it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) name: OsString,
    /// Relative to the layer's root, without links.
    pub(super) path: PathBuf,
}

/// Whether directories that are missing on the way are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Refuse,
}

/// A layer's directory while it is written.
#[derive(Debug)]
pub(super) struct Tree {
    root: Arc<OwnedFd>,
    pub(super) implied: BTreeSet<PathBuf>,
    /// Times of named directories; set at the end, because making entries changes them.
    times: BTreeMap<PathBuf, Timestamp>,
    whiteouts: HashSet<PathBuf>,
    /// The last parent that was looked up, by its name in the archive.
    last: Option<(Vec<OsString>, Arc<OwnedFd>, PathBuf)>,
    pub(super) created: u64,
    /// Whether something that the archive made before was taken away again.
    pub(super) replaced: bool,
}

/// What is already at a place.
pub(super) enum Existing {
    Nothing,
    Whiteout,
    Directory,
    Other,
}

impl Tree {
    pub(super) fn new(root: File) -> Self {
        Self {
            root: Arc::new(root.into()),
            implied: BTreeSet::from([PathBuf::new()]),
            times: BTreeMap::new(),
            whiteouts: HashSet::new(),
            last: None,
            created: 1,
            replaced: false,
        }
    }

    pub(super) fn root(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.root)
    }

    /// Finds where an entry goes; `None` is the root itself.
    pub(super) fn place(
        &mut self,
        archive_path: &[u8],
        missing: Missing,
    ) -> Result<Option<Place>, ExtractError> {
        let mut names = components(archive_path)?;
        let Some(name) = names.pop() else { return Ok(None) };
        let (directory, parent) = self.parent(names, archive_path, missing)?;
        let path = parent.join(&name);
        Ok(Some(Place { directory, name, path }))
    }

    /// The directory with this name in the archive, made if it is missing.
    pub(super) fn directory(
        &mut self,
        archive_path: &[u8],
    ) -> Result<(Arc<OwnedFd>, PathBuf), ExtractError> {
        let names = components(archive_path)?;
        self.parent(names, archive_path, Missing::Create)
    }

    fn parent(
        &mut self,
        names: Vec<OsString>,
        archive_path: &[u8],
        missing: Missing,
    ) -> Result<(Arc<OwnedFd>, PathBuf), ExtractError> {
        if let Some((last, directory, path)) = &self.last
            && *last == names
        {
            return Ok((Arc::clone(directory), path.clone()));
        }
        let (directory, path) = self
            .walk(&names, missing)
            .map_err(|source| ExtractError::Parent { path: display(archive_path), source })?;
        self.last = Some((names, Arc::clone(&directory), path.clone()));
        Ok((directory, path))
    }

    fn walk(
        &mut self,
        names: &[OsString],
        missing: Missing,
    ) -> Result<(Arc<OwnedFd>, PathBuf), Errno> {
        let mut pending: VecDeque<OsString> = names.iter().cloned().collect();
        let (mut directory, mut path) = (Arc::clone(&self.root), PathBuf::new());
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                path.pop();
                directory = self.open(&path)?;
                continue;
            }
            match open_directory(directory.as_fd(), Path::new(&name)) {
                Ok(next) => {
                    directory = Arc::new(next);
                    path.push(name);
                }
                Err(Errno::NOENT) if missing == Missing::Create => {
                    path.push(&name);
                    directory = Arc::new(self.imply(&directory, &name, &path)?);
                }
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    if self.whiteouts.contains(&path.join(&name)) && missing == Missing::Create {
                        path.push(&name);
                        directory = Arc::new(self.reveal(&directory, &name, &path)?);
                        continue;
                    }
                    let target = link_target(directory.as_fd(), &name)?;
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    if target.is_absolute() {
                        (directory, path) = (Arc::clone(&self.root), PathBuf::new());
                    }
                    prepend(&mut pending, &target);
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok((directory, path))
    }

    fn open(&self, path: &Path) -> Result<Arc<OwnedFd>, Errno> {
        if path.as_os_str().is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        open_directory(self.root.as_fd(), path).map(Arc::new)
    }

    /// Makes a directory that the archive does not name.
    fn imply(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, Errno> {
        mkdirat(parent, name, IMPLIED_MODE)?;
        let directory = open_directory(parent.as_fd(), Path::new(name))?;
        fchmod(&directory, IMPLIED_MODE)?;
        self.created += 1;
        self.implied.insert(path.to_owned());
        Ok(directory)
    }

    /// Puts an implied directory where this layer deletes something of the layers below: what
    /// is below stays deleted.
    fn reveal(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, Errno> {
        unlinkat(parent, name, AtFlags::empty())?;
        self.created -= 1;
        self.whiteouts.remove(path);
        let directory = self.imply(parent, name, path)?;
        make_opaque(directory.as_fd())?;
        Ok(directory)
    }

    pub(super) fn existing(&self, place: &Place) -> Result<Existing, Errno> {
        match statat(&place.directory, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Existing::Nothing),
            Err(errno) => Err(errno),
            Ok(_) if self.whiteouts.contains(&place.path) => Ok(Existing::Whiteout),
            Ok(stat) if is_directory(&stat) => Ok(Existing::Directory),
            Ok(_) => Ok(Existing::Other),
        }
    }

    /// Removes what is at a place, with all that is in it.
    pub(super) fn clear(&mut self, place: &Place) -> io::Result<()> {
        match self.existing(place)? {
            Existing::Nothing => return Ok(()),
            Existing::Whiteout => {
                unlinkat(&place.directory, &place.name, AtFlags::empty())?;
                self.created -= 1;
            }
            Existing::Other => {
                self.replaced = true;
                unlinkat(&place.directory, &place.name, AtFlags::empty())?;
            }
            Existing::Directory => {
                self.replaced = true;
                fs::remove_dir_all(proc_path(place))?;
            }
        }
        self.whiteouts.retain(|path| !path.starts_with(&place.path));
        self.implied.retain(|path| !path.starts_with(&place.path));
        self.times.retain(|path, _| !path.starts_with(&place.path));
        self.last = None;
        Ok(())
    }

    /// Makes the directory that an entry names, or takes the one that is there.
    pub(super) fn make_directory(&mut self, place: &Place) -> io::Result<OwnedFd> {
        let existing = self.existing(place)?;
        if !matches!(existing, Existing::Directory) {
            self.clear(place)?;
            mkdirat(&place.directory, &place.name, IMPLIED_MODE)?;
            self.created += 1;
        }
        let directory = open_directory(place.directory.as_fd(), Path::new(&place.name))?;
        if matches!(existing, Existing::Whiteout) {
            make_opaque(directory.as_fd())?;
        }
        self.implied.remove(&place.path);
        Ok(directory)
    }

    /// Deletes something of the layers below. What this layer itself has there stays, as the
    /// specification says; a directory then hides the one below.
    pub(super) fn whiteout(&mut self, place: &Place) -> Result<(), Errno> {
        match self.existing(place)? {
            Existing::Whiteout | Existing::Other => {}
            Existing::Directory => {
                make_opaque(
                    open_directory(place.directory.as_fd(), Path::new(&place.name))?.as_fd(),
                )?;
            }
            Existing::Nothing => {
                let device = FileType::CharacterDevice;
                mknodat(&place.directory, &place.name, device, Mode::empty(), 0)?;
                self.whiteouts.insert(place.path.clone());
                self.created += 1;
            }
        }
        Ok(())
    }

    pub(super) fn is_whiteout(&self, place: &Place) -> bool {
        self.whiteouts.contains(&place.path)
    }

    pub(super) fn set_time_at_end(&mut self, path: PathBuf, time: Timestamp) {
        self.times.insert(path, time);
    }

    /// Sets the times of directories, now that nothing changes in them any more.
    pub(super) fn set_times(&self) -> Result<(), ExtractError> {
        for (path, time) in &self.times {
            self.open(path)
                .and_then(|directory| rustix::fs::futimens(&directory, &timestamps(*time)))
                .map_err(|source| ExtractError::Attributes {
                    attribute: "times",
                    path: path.display().to_string(),
                    source,
                })?;
        }
        Ok(())
    }
}

/// Says that nothing of the layers below shows in a directory.
pub(super) fn make_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    fsetxattr(directory, OPAQUE.0, OPAQUE.1, XattrFlags::empty())
}

pub(super) fn timestamps(time: Timestamp) -> rustix::fs::Timestamps {
    let time = rustix::fs::Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    rustix::fs::Timestamps { last_access: time, last_modification: time }
}

/// A path for the few calls that know no descriptors. The last name is never followed by
/// them, and everything before it is the descriptor.
pub(super) fn proc_path(place: &Place) -> PathBuf {
    let directory = format!("/proc/self/fd/{}", place.directory.as_raw_fd());
    Path::new(&directory).join(&place.name)
}

/// For messages.
pub(super) fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn open_directory(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        match openat2(parent, path, flags, Mode::empty(), resolve) {
            // Somebody renamed something somewhere; beneath us nobody does.
            Err(Errno::AGAIN | Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

fn link_target(directory: BorrowedFd<'_>, name: &OsStr) -> Result<PathBuf, Errno> {
    match readlinkat(directory, name, Vec::new()) {
        Ok(target) => Ok(PathBuf::from(OsString::from_vec(target.into_bytes()))),
        Err(Errno::INVAL) => Err(Errno::NOTDIR),
        Err(errno) => Err(errno),
    }
}

/// Puts a link's target in front of what is still to be walked.
fn prepend(pending: &mut VecDeque<OsString>, target: &Path) {
    for component in target.components().rev() {
        match component {
            std::path::Component::Normal(name) => pending.push_front(name.to_owned()),
            std::path::Component::ParentDir => pending.push_front("..".into()),
            _ => {}
        }
    }
}

/// The names of a path in the archive. A leading slash means nothing; going up is refused.
fn components(path: &[u8]) -> Result<Vec<OsString>, ExtractError> {
    let bad = || ExtractError::Name(display(path));
    if path.contains(&0) {
        return Err(bad());
    }
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(|name| match name {
            b".." => Err(bad()),
            name => Ok(OsStr::from_bytes(name).to_owned()),
        })
        .collect()
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}
