//! What a node must have before anything is put on it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::FsOpenFlags;

use super::files::below;

/// The oldest kernel: overlayfs takes layers one by one (`lowerdir+`) since then.
const OLDEST: (u32, u32) = (6, 7);

/// What the kernel must know; one word of each group will do.
const FILE_SYSTEMS: [&[&str]; 2] = [&["overlay"], &["cgroup2", "cgroup"]];

/// Why orlop cannot run on a node.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    /// The kernel is too old.
    #[error("the kernel is Linux {release}; orlop needs {}.{} or newer", OLDEST.0, OLDEST.1)]
    Kernel {
        /// Its release.
        release: String,
    },
    /// A file system is missing.
    #[error("the kernel knows no file system {name}: load its module, or build it in")]
    FileSystem {
        /// Its name.
        name: &'static str,
    },
    /// Something else is process 1.
    #[error("{} is not there: orlop is installed where systemd runs the machine", path.display())]
    NoSystemd {
        /// What systemd makes when it starts.
        path: PathBuf,
    },
    /// The kernel cannot be asked.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// A kernel.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    /// As `uname -r` has it.
    pub(super) release: String,
    /// As `/proc/filesystems` has them.
    pub(super) file_systems: String,
}

impl Kernel {
    /// The one that we run on; a pod's is its node's.
    ///
    /// # Errors
    /// [`Unsupported::Read`].
    pub(super) fn running() -> Result<Self, Unsupported> {
        // Asking for it loads its module, which nobody may have needed before. Whether the
        // kernel knows it then is read below.
        drop(rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC));
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let path = PathBuf::from("/proc/filesystems");
        let file_systems =
            std::fs::read_to_string(&path).map_err(|source| Unsupported::Read { path, source })?;
        Ok(Self { release, file_systems })
    }

    fn is_new_enough(&self) -> bool {
        let mut numbers = self.release.split(|letter: char| !letter.is_ascii_digit());
        let mut number = || numbers.next().and_then(|digits| digits.parse::<u32>().ok());
        let (major, minor) = (number(), number());
        major.zip(minor).is_some_and(|version| version >= OLDEST)
    }

    fn knows(&self, name: &str) -> bool {
        self.file_systems.lines().any(|line| line.split_whitespace().last() == Some(name))
    }
}

/// Whether orlop can run on the node with this kernel and root directory.
///
/// # Errors
/// [`Unsupported`].
pub(super) fn check(kernel: &Kernel, root: &Path) -> Result<(), Unsupported> {
    if !kernel.is_new_enough() {
        return Err(Unsupported::Kernel { release: kernel.release.clone() });
    }
    for group in FILE_SYSTEMS {
        if !group.iter().any(|name| kernel.knows(name)) {
            return Err(Unsupported::FileSystem { name: group[0] });
        }
    }
    let path = below(root, Path::new("/run/systemd/system"));
    if path.is_dir() { Ok(()) } else { Err(Unsupported::NoSystemd { path }) }
}
