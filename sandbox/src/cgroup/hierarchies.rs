//! What the host mounts: v1 hierarchies, the unified hierarchy, or both.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{self, FileError};

/// The kernel's lists, read as text.
mod parse;
#[cfg(test)]
mod tests;

/// Why the hierarchies are not known.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The kernel's list could not be read.
    #[error("read {file}")]
    ReadList {
        /// `/proc/self/mountinfo` or `/proc/self/cgroup`.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The controllers of the unified hierarchy could not be read.
    #[error("list the controllers of the unified hierarchy")]
    ReadControllers {
        /// What failed.
        #[source]
        source: FileError,
    },
    /// A line of [`Hierarchies::lines`] that is none.
    #[error("{line:?} is no hierarchy")]
    NoHierarchy {
        /// The line.
        line: String,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NoneMounted,
}

/// A controller, by the kernel's name; one v1 name (`blkio`) stands for its v2 successor too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are the kernel's names")]
pub enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Pids,
    Blkio,
    Hugetlb,
    Devices,
    Freezer,
    NetCls,
    NetPrio,
    PerfEvent,
    Rdma,
    Misc,
}

impl Controller {
    const ALL: [Self; 14] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Cpuset,
        Self::Memory,
        Self::Pids,
        Self::Blkio,
        Self::Hugetlb,
        Self::Devices,
        Self::Freezer,
        Self::NetCls,
        Self::NetPrio,
        Self::PerfEvent,
        Self::Rdma,
        Self::Misc,
    ];

    /// The name in `/proc/self/cgroup` and in mount options.
    #[must_use]
    pub const fn v1_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Blkio => "blkio",
            Self::Hugetlb => "hugetlb",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::NetCls => "net_cls",
            Self::NetPrio => "net_prio",
            Self::PerfEvent => "perf_event",
            Self::Rdma => "rdma",
            Self::Misc => "misc",
        }
    }

    /// The controller that v2 calls `name`.
    pub(super) fn with_v2_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.v2_name() == Some(name))
    }

    /// The name in `cgroup.controllers`, if v2 has the controller as such.
    #[must_use]
    pub const fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Blkio => Some("io"),
            Self::Cpu
            | Self::Cpuset
            | Self::Memory
            | Self::Pids
            | Self::Hugetlb
            | Self::Rdma
            | Self::Misc => Some(self.v1_name()),
            Self::Cpuacct
            | Self::Devices
            | Self::Freezer
            | Self::NetCls
            | Self::NetPrio
            | Self::PerfEvent => None,
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.v1_name())
    }
}

/// Which interface a controller has on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Files of the controller's own hierarchy.
    V1,
    /// Files of the unified hierarchy.
    V2,
}

/// How the host as a whole is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies and a unified one beside them.
    Hybrid,
    /// Only the unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// Its interface.
    pub(super) version: Version,
    /// The controllers it has; none for a named v1 hierarchy.
    pub(super) controllers: Vec<Controller>,
}

/// Interface, controllers, place; [`parse::line`] is the way back.
impl fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        let names: Vec<&str> = self.controllers.iter().map(|one| one.v1_name()).collect();
        write!(f, "{version} {} {}", names.join(","), self.mount.display())
    }
}

/// All hierarchies of the host. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    all: Arc<[Hierarchy]>,
}

impl Hierarchies {
    /// Reads what is mounted in this mount namespace.
    ///
    /// # Errors
    /// [`DetectError`] when the lists cannot be read or no hierarchy is mounted.
    pub fn detect() -> Result<Self, DetectError> {
        let read = |file: &'static str| {
            std::fs::read_to_string(file).map_err(|source| DetectError::ReadList { file, source })
        };
        let mut all =
            parse::hierarchies(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        for hierarchy in all.iter_mut().filter(|one| one.version == Version::V2) {
            let text = file::read(&hierarchy.mount.join("cgroup.controllers"))
                .map_err(|source| DetectError::ReadControllers { source })?;
            hierarchy.controllers = parse::v2_controllers(&text);
        }
        Self::new(all)
    }

    /// A line for each, for a process that is told: to find out takes a look at every mount
    /// of the machine.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.all.iter().map(ToString::to_string).collect()
    }

    /// What [`Self::lines`] says.
    ///
    /// # Errors
    /// [`DetectError::NoHierarchy`] and [`DetectError::NoneMounted`].
    pub fn told(lines: &[String]) -> Result<Self, DetectError> {
        let hierarchy = |line: &String| {
            parse::line(line).ok_or_else(|| DetectError::NoHierarchy { line: line.clone() })
        };
        Self::new(lines.iter().map(hierarchy).collect::<Result<_, _>>()?)
    }

    pub(super) fn new(all: Vec<Hierarchy>) -> Result<Self, DetectError> {
        if all.is_empty() { Err(DetectError::NoneMounted) } else { Ok(Self { all: all.into() }) }
    }

    /// How the host is set up.
    #[must_use]
    pub fn mode(&self) -> Mode {
        let has = |version| self.all.iter().any(|one| one.version == version);
        match (has(Version::V1), has(Version::V2)) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::V1,
            (false, _) => Mode::V2,
        }
    }

    /// Which interface a controller has, or `None` when this host does not have it.
    ///
    /// On v2 `cpuacct`, `devices` and `freezer` are not controllers, but every group has what
    /// they did; they count as present.
    #[must_use]
    pub fn version(&self, controller: Controller) -> Option<Version> {
        self.place(controller).map(|hierarchy| hierarchy.version)
    }

    /// Whether limits on swap can be kept: tells a maker of specs whether to set one.
    #[must_use]
    pub fn swap_accounting(&self) -> bool {
        self.place(Controller::Memory).is_some_and(|hierarchy| match hierarchy.version {
            Version::V1 => hierarchy.mount.join("memory.memsw.limit_in_bytes").exists(),
            Version::V2 => any_child_has(&hierarchy.mount, "memory.swap.max"),
        })
    }

    /// The unified hierarchy, with controllers or without.
    pub(super) fn unified(&self) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }

    /// Every hierarchy, v1 before v2.
    pub(super) fn all(&self) -> &[Hierarchy] {
        &self.all
    }

    /// The hierarchy that has a controller.
    pub(super) fn place(&self, controller: Controller) -> Option<&Hierarchy> {
        let listed = self.all.iter().find(|one| one.controllers.contains(&controller));
        listed.or_else(|| {
            let built_in = matches!(
                controller,
                Controller::Cpuacct | Controller::Devices | Controller::Freezer
            );
            self.unified().filter(|_| built_in)
        })
    }
}

/// The root of the unified hierarchy has no memory files: ask any group below it.
fn any_child_has(mount: &Path, name: &str) -> bool {
    std::fs::read_dir(mount)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join(name).exists()))
}
