//! One group: the same path in every hierarchy. Create, join, list, remove.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use super::file::{self, FileError};
use super::hierarchies::{Controller, Hierarchies, Hierarchy, Version};
use super::path::CgroupPath;

#[cfg(test)]
mod tests;

/// Why a group could not be created, joined, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A directory could not be made.
    #[error("create the cgroup {}", .directory.display())]
    Create {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A new v1 cpuset group could not take over the processors and memory nodes of its parent.
    #[error("give the cgroup {} the cpuset of its parent", .directory.display())]
    InheritCpuset {
        /// The directory.
        directory: PathBuf,
        /// The file that failed.
        #[source]
        source: FileError,
    },
    /// A process could not enter.
    #[error("add a process to a cgroup")]
    Add {
        /// The file that failed; the value is the process, 0 the caller.
        #[source]
        source: FileError,
    },
    /// The directory could not be opened.
    #[error("open the cgroup {}", .directory.display())]
    Open {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// What the group holds could not be read.
    #[error("read the state of a cgroup")]
    Inspect {
        /// The file that failed.
        #[source]
        source: FileError,
    },
    /// The groups below could not be listed.
    #[error("list the cgroups below {}", .directory.display())]
    ListBelow {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A directory could not be removed in time.
    #[error("remove the cgroup {}", .directory.display())]
    Remove {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said; "busy" while a process is in it.
        #[source]
        source: Errno,
    },
}

/// Which hierarchies a process is in already when it adds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// None.
    None,
    /// The unified one, because the process was made by `CLONE_INTO_CGROUP`.
    Unified,
}

/// A group. Making one of these touches nothing on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: CgroupPath,
}

impl Cgroup {
    /// The group at `path`, which may not exist.
    #[must_use]
    pub fn open(hierarchies: &Hierarchies, path: CgroupPath) -> Self {
        Self { hierarchies: hierarchies.clone(), path }
    }

    /// Where the group is in every hierarchy.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// The hierarchies of the host.
    #[must_use]
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// The directory of the group in each hierarchy, by the name under which that hierarchy
    /// is mounted.
    #[must_use]
    pub fn named_directories(&self) -> Vec<(String, PathBuf)> {
        let name = |mount: &Path| mount.file_name().map(|name| name.to_string_lossy().into_owned());
        self.directories()
            .filter_map(|(hierarchy, directory)| Some((name(&hierarchy.mount)?, directory)))
            .collect()
    }

    /// Whether the group exists in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories().any(|(_, directory)| directory.exists())
    }

    /// Makes the group, and its parents, in every hierarchy.
    ///
    /// A v1 cpuset is copied down from the parent. On v2 every controller of the root is enabled
    /// in the parents; one that a parent refuses is missing later, when a value needs it.
    ///
    /// # Errors
    /// The directory that could not be made.
    ///
    /// # Crash safety
    /// Idempotent: a group that exists in some hierarchies is completed.
    pub fn create(&self) -> Result<(), CgroupError> {
        self.directories().try_for_each(|(hierarchy, directory)| {
            make_directory(&directory)
                .map_err(|source| CgroupError::Create { directory: directory.clone(), source })?;
            match hierarchy.version {
                Version::V1 if hierarchy.controllers.contains(&Controller::Cpuset) => {
                    inherit_cpuset(&hierarchy.mount, &directory)
                }
                Version::V1 => Ok(()),
                Version::V2 => {
                    enable_controllers(hierarchy, &directory);
                    Ok(())
                }
            }
        })
    }

    /// Moves a process, with all its threads, into the group in every hierarchy.
    ///
    /// # Errors
    /// [`CgroupError::Add`]; the process may then be in some hierarchies of the group.
    pub fn add(&self, pid: Pid) -> Result<(), CgroupError> {
        let process = pid.to_string();
        self.directories()
            .try_for_each(|(_, directory)| file::write(&directory.join("cgroup.procs"), &process))
            .map_err(|source| CgroupError::Add { source })
    }

    /// Moves the calling process, which must have one thread, into the group: one write per
    /// hierarchy, none for the unified one when the process was cloned into it.
    ///
    /// In v1 the thread moves, not its process, which is the same for one thread and spares it
    /// the kernel's lock on every process's threads: a wait for a grace period of RCU, 5 to 20 ms
    /// (since Linux 5.16).
    ///
    /// # Errors
    /// [`CgroupError::Add`]; the process may then be in some hierarchies of the group.
    pub fn add_self(&self, entered: Entered) -> Result<(), CgroupError> {
        self.directories()
            .filter_map(|(hierarchy, directory)| match (hierarchy.version, entered) {
                (Version::V1, _) => Some(directory.join("tasks")),
                (Version::V2, Entered::None) => Some(directory.join("cgroup.procs")),
                (Version::V2, Entered::Unified) => None,
            })
            .try_for_each(|file| file::write(&file, "0"))
            .map_err(|source| CgroupError::Add { source })
    }

    /// The directory of the group in the unified hierarchy, for `CLONE_INTO_CGROUP`; `None` on a
    /// host that has no unified hierarchy.
    ///
    /// # Errors
    /// [`CgroupError::Open`] when it has one and the group is not there.
    ///
    /// # References
    /// - [clone3(2)](https://man7.org/linux/man-pages/man2/clone3.2.html)
    pub fn unified_directory(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(directory) = self.unified() else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&directory, flags, FileMode::empty()) {
            Ok(opened) => Ok(Some(opened)),
            Err(source) => Err(CgroupError::Open { directory, source }),
        }
    }

    /// As [`Cgroup::unified_directory`], for a process that is to run beside `pid`, one of this
    /// group's: the directory that `pid` is in, if that is the group or below it.
    ///
    /// A group that has handed controllers to groups of its own takes no process any more (a
    /// container that runs systemd does that); its init has then moved below.
    ///
    /// # Errors
    /// [`CgroupError::Inspect`] when the kernel does not tell where `pid` is, and those of
    /// [`Cgroup::unified_directory`].
    pub fn unified_directory_beside(&self, pid: Pid) -> Result<Option<OwnedFd>, CgroupError> {
        let text = file::read(Path::new(&format!("/proc/{pid}/cgroup")))
            .map_err(|source| CgroupError::Inspect { source })?;
        let below = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .and_then(|path| CgroupPath::parse(path).ok())
            .filter(|path| path.is_below(&self.path));
        match below {
            Some(path) => Self::open(&self.hierarchies, path).unified_directory(),
            None => self.unified_directory(),
        }
    }

    /// The processes in the group and in groups below it, in no order; none when it is gone.
    ///
    /// # Errors
    /// When the kernel's list cannot be read.
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let Some(directory) = self.census() else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for one in tree(&directory)? {
            let text = file::read_if_there(&one.join("cgroup.procs"))
                .map_err(|source| CgroupError::Inspect { source })?;
            let pids = text.iter().flat_map(|text| text.lines());
            all.extend(pids.filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw));
        }
        Ok(all)
    }

    /// Whether a living process is in the group or below it; zombies do not count where the
    /// unified hierarchy can tell.
    ///
    /// # Errors
    /// When the kernel's files cannot be read.
    pub fn populated(&self) -> Result<bool, CgroupError> {
        let Some(directory) = self.unified() else {
            return self.processes().map(|all| !all.is_empty());
        };
        let text = file::read_if_there(&directory.join("cgroup.events"))
            .map_err(|source| CgroupError::Inspect { source })?;
        Ok(text.is_some_and(|text| text.lines().any(|line| line == "populated 1")))
    }

    /// Removes the group, and the groups below it, from every hierarchy.
    ///
    /// A group is busy for a moment after its last process was killed, so a busy directory is
    /// tried again until `patience` is over.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] for the directory that stays, [`CgroupError::ListBelow`].
    ///
    /// # Crash safety
    /// Idempotent: a group that is gone, wholly or in part, is no error.
    pub fn remove(&self, patience: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + patience;
        self.directories().try_for_each(|(_, directory)| {
            tree(&directory)?.iter().try_for_each(|one| remove_directory(one, deadline))
        })
    }

    /// Removes the groups above this one that are empty, up to but not including `ancestor`.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] for another reason than a group that is in use.
    pub fn remove_empty_parents(&self, ancestor: &CgroupPath) -> Result<(), CgroupError> {
        for hierarchy in self.hierarchies.all() {
            let mut next = self.path.parent();
            while let Some(path) = next.filter(|path| path.is_below(ancestor)) {
                let directory = hierarchy.mount.join(path.relative());
                match rustix::fs::rmdir(&directory) {
                    Ok(()) | Err(Errno::NOENT) => next = path.parent(),
                    Err(Errno::BUSY | Errno::NOTEMPTY) => break,
                    Err(source) => return Err(CgroupError::Remove { directory, source }),
                }
            }
        }
        Ok(())
    }

    /// The group's directory for a controller, and its interface.
    pub(super) fn directory(&self, controller: Controller) -> Option<(Version, PathBuf)> {
        let place = self.hierarchies.place(controller)?;
        Some((place.version, place.mount.join(self.path.relative())))
    }

    /// The group's directory in the unified hierarchy.
    pub(super) fn unified(&self) -> Option<PathBuf> {
        self.hierarchies.unified().map(|one| one.mount.join(self.path.relative()))
    }

    /// The directory that knows all processes: the unified one, else the first that is there.
    pub(super) fn census(&self) -> Option<PathBuf> {
        let first = || self.directories().map(|(_, directory)| directory).find(|one| one.exists());
        self.unified().filter(|directory| directory.exists()).or_else(first)
    }

    fn directories(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.hierarchies.all().iter().map(|one| (one, one.mount.join(self.path.relative())))
    }
}

/// How many links a directory of cgroupfs has that has no other in it: each one below has a
/// link to it.
const LINKS_OF_A_LEAF: u64 = 2;

/// A directory and all below it, children before parents; empty when it is gone.
pub(super) fn tree(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let refuse = |source| CgroupError::ListBelow { directory: directory.to_path_buf(), source };
    // Most groups are leaves, and have dozens of files that need not be listed.
    if std::fs::metadata(directory).is_ok_and(|found| found.nlink() == LINKS_OF_A_LEAF) {
        return Ok(vec![directory.to_path_buf()]);
    }
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(refuse(source)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // Somebody else, such as systemd, removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(source) => return Err(refuse(source)),
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(tree(&entry.path())?);
        }
    }
    all.push(directory.to_path_buf());
    Ok(all)
}

fn remove_directory(directory: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let mut pause = Duration::from_micros(500);
    loop {
        match rustix::fs::rmdir(directory) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::INTR) if Instant::now() < deadline => sleep(pause),
            Err(source) => {
                return Err(CgroupError::Remove { directory: directory.to_path_buf(), source });
            }
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// How often a parent may go between its making and its child's.
const RACES_MAX: usize = 8;

/// Makes a directory and its parents. The last pod below a parent takes it along when it
/// goes, which may be the moment between the two steps of making a new pod's.
fn make_directory(directory: &Path) -> io::Result<()> {
    for _ in 0..RACES_MAX {
        match std::fs::create_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made,
        }
    }
    std::fs::create_dir_all(directory)
}

/// A new v1 cpuset group has no processors and takes no process: fills the empty ones on the way
/// down from the root.
fn inherit_cpuset(mount: &Path, directory: &Path) -> Result<(), CgroupError> {
    let mut parents: Vec<&Path> = directory.ancestors().take_while(|one| *one != mount).collect();
    parents.reverse();
    for one in parents {
        for name in ["cpuset.cpus", "cpuset.mems"] {
            copy_down(one, name).map_err(|source| CgroupError::InheritCpuset {
                directory: one.to_path_buf(),
                source,
            })?;
        }
    }
    Ok(())
}

fn copy_down(directory: &Path, name: &str) -> Result<(), FileError> {
    let own = directory.join(name);
    if !file::read(&own)?.trim().is_empty() {
        return Ok(());
    }
    let above = directory.parent().unwrap_or(directory).join(name);
    file::write(&own, file::read(&above)?.trim())
}

/// Enables the controllers of the hierarchy in every group above `directory`.
///
/// What a group refuses (one with processes of its own, a threaded one) is left: [`Cgroup::apply`]
/// then names the file that is missing, if any value needs it.
///
/// [`Cgroup::apply`]: super::Cgroup::apply
fn enable_controllers(hierarchy: &Hierarchy, directory: &Path) {
    let names: Vec<&str> = hierarchy.controllers.iter().filter_map(|one| one.v2_name()).collect();
    let lacks = |directory: &Path| {
        let text = file::read(&directory.join("cgroup.controllers")).unwrap_or_default();
        names.iter().any(|name| !text.split_whitespace().any(|there| there == *name))
    };
    if names.is_empty() || !lacks(directory) {
        return;
    }
    let mut parents: Vec<&Path> =
        directory.ancestors().skip(1).take_while(|one| one.starts_with(&hierarchy.mount)).collect();
    parents.reverse();
    for one in parents {
        let control = one.join("cgroup.subtree_control");
        let all: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
        match file::write(&control, &all.join(" ")) {
            // A group with processes cannot hand down all controllers. It could hand down some,
            // but would become the root of a threaded tree, and the groups below it unusable.
            Ok(()) | Err(FileError::Write { source: Errno::BUSY, .. }) => {}
            Err(_) => {
                for single in &all {
                    let _refused = file::write(&control, single);
                }
            }
        }
    }
}
