//! What SELinux needs of a pod besides labels in specs: a level that no other pod has, and
//! labels on files of the host that are shared with it.
//!
//! Files are relabelled when the kubelet says so and nowhere else: never by the place at which
//! they appear in the container (CVE-2021-43816), and never what the system needs to run. No
//! symbolic link is followed below the volume.
//!
//! # References
//! - [SELinux relabelling in Kubernetes](https://kubernetes.io/docs/concepts/storage/selinux/)

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, Dir, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

/// Categories of a policy with multi-category security.
const CATEGORIES: u32 = 1024;

/// Pairs of two different categories, told apart by the first and by how far the second is.
const PAIRS: u32 = CATEGORIES * (CATEGORIES / 2 - 1);

/// The extended attribute that is the label.
const ATTRIBUTE: &CStr = c"security.selinux";

/// Deepest directory that is gone through: each takes a descriptor. Longer paths have no name.
const DEPTH: usize = 1024;

/// Longest label that is compared before it is written.
const LABEL_LIMIT: usize = 4096;

/// Directories that are not volumes; those below `/home`, `/run`, `/srv` and `/var/lib` may be.
const OF_THE_SYSTEM: [&str; 22] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt",
    "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib",
    "/var/log",
];

/// Why files of the host do not have a pod's label.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    /// They are needed by others.
    #[error("{} belongs to the system and keeps its SELinux labels", .0.display())]
    OfTheSystem(PathBuf),
    /// A file.
    #[error("give {} the SELinux label {label}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What it is to have.
        label: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// The levels of this node's pods.
#[derive(Debug)]
pub(super) struct Levels(AtomicU32);

impl Levels {
    /// Begins anywhere, so that the files of an earlier boot's pods are not the new ones'.
    pub(super) fn new(seed: u32) -> Self {
        Self(AtomicU32::new(seed % PAIRS))
    }

    /// A level that is not taken, and that nobody else is given meanwhile.
    pub(super) fn fresh(&self, is_taken: impl Fn(&str) -> bool) -> String {
        loop {
            let level = pair(self.0.fetch_add(1, Ordering::Relaxed));
            if !is_taken(&level) {
                return level;
            }
        }
    }
}

fn pair(number: u32) -> String {
    let number = number % PAIRS;
    let first = number % CATEGORIES;
    let second = (first + 1 + number / CATEGORIES) % CATEGORIES;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

/// Labels a file, or a directory with all that is in it. File systems without labels are left
/// alone, and so are files that go away meanwhile. Blocks.
///
/// # Errors
/// [`RelabelError`]; some files may have the label.
pub(super) fn relabel(path: &Path, label: &str) -> Result<(), RelabelError> {
    let real = path.canonicalize().map_err(|source| failed(path, label, source))?;
    if OF_THE_SYSTEM.iter().any(|place| Path::new(place) == real) || real.starts_with("/usr") {
        return Err(RelabelError::OfTheSystem(real));
    }
    set(&real, label).map_err(|errno| failed(&real, label, errno.into()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, &real, flags, Mode::empty()) {
        Ok(directory) => relabel_below(directory, &real, label),
        Err(Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(failed(&real, label, errno.into())),
    }
}

/// A directory that is gone through. Its path is for messages: names are looked up in the open
/// directory, whatever it is called by now.
struct Level {
    path: PathBuf,
    directory: OwnedFd,
    entries: Dir,
}

impl Level {
    fn new(path: PathBuf, directory: OwnedFd) -> Result<Self, Errno> {
        let entries = Dir::read_from(&directory)?;
        Ok(Self { path, directory, entries })
    }
}

fn relabel_below(top: OwnedFd, path: &Path, label: &str) -> Result<(), RelabelError> {
    let errno = |path: &Path, errno: Errno| failed(path, label, errno.into());
    let level = Level::new(path.to_owned(), top).map_err(|e| errno(path, e))?;
    let mut levels = vec![level];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            levels.pop();
            continue;
        };
        let entry = entry.map_err(|e| errno(&level.path, e))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
        match relabel_entry(level.directory.as_fd(), name, label) {
            Ok(Some(_)) if levels.len() == DEPTH => return Err(errno(&path, Errno::NAMETOOLONG)),
            Ok(Some(inner)) => {
                levels.push(Level::new(path.clone(), inner).map_err(|e| errno(&path, e))?);
            }
            Ok(None) => {}
            Err(e) => return Err(errno(&path, e)),
        }
    }
    Ok(())
}

/// Returns what is to be gone through as well.
fn relabel_entry(
    directory: BorrowedFd<'_>,
    name: &CStr,
    label: &str,
) -> Result<Option<OwnedFd>, Errno> {
    let place = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    match set(&place.join(OsStr::from_bytes(name.to_bytes())), label) {
        Err(Errno::NOENT) => return Ok(None),
        labelled => labelled?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(inner) => Ok(Some(inner)),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Writes only what is not there: a volume that has its labels costs reading them.
fn set(path: &Path, label: &str) -> Result<(), Errno> {
    let mut now = [0; LABEL_LIMIT];
    if let Ok(length) = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut now)
        && now
            .get(..length)
            .is_some_and(|now| now.strip_suffix(b"\0").unwrap_or(now) == label.as_bytes())
    {
        return Ok(());
    }
    let value = [label.as_bytes(), b"\0"].concat();
    match rustix::fs::lsetxattr(path, ATTRIBUTE, &value, XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        set => set,
    }
}

fn failed(path: &Path, label: &str, source: std::io::Error) -> RelabelError {
    RelabelError::File { path: path.to_owned(), label: label.to_owned(), source }
}

#[cfg(test)]
mod tests;
