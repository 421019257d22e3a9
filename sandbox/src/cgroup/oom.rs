//! Processes that the kernel killed for want of memory, and whose limit was hit.
//!
//! A kill is counted in the group of the process that was killed, the want in the group
//! whose limit was reached: the container's own, or one above it, which its neighbours
//! fill too. Groups above live longer than a container, so their counters are read when it
//! is made, and only growth since then means something.
//!
//! v1 has no such counter (that of limits reached is not kept by newer kernels). There the
//! nearest group counts that has at any time used as much as it may.
//!
//! # References
//! - [memory.events](https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files)
//! - [memory.max_usage_in_bytes](https://docs.kernel.org/admin-guide/cgroup-v1/memory.html)

use std::path::Path;

use super::file;
use super::group::{Cgroup, CgroupError, tree};
use super::hierarchies::{Controller, Version};
use super::path::CgroupPath;
use super::stats::{Detail, keyed};

/// What the kernel charges at once, at most, as long as there is room: 64 pages.
const CHARGED_AT_ONCE: u64 = 64 * 4096;

/// How often each group above one has wanted more than its limit, nearest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OomBaseline(Vec<(CgroupPath, u64)>);

/// Whose lack of memory a process died of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OomLevel {
    /// The group itself reached its limit, of so many bytes if that can still be read.
    Own(Option<u64>),
    /// A group above it did.
    Above(CgroupPath),
    /// No group did: the machine has no more.
    Machine,
}

impl Cgroup {
    /// How many processes of the group, and below it, the kernel has killed for want of memory;
    /// 0 when the group is gone.
    ///
    /// # Errors
    /// When the kernel's files cannot be read.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let Some((version, directory)) = self.directory(Controller::Memory) else { return Ok(0) };
        let count = |directory: &Path, name| {
            let text = file::read_if_there(&directory.join(name))
                .map_err(|source| CgroupError::Inspect { source })?;
            Ok(text.and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0))
        };
        match version {
            // Counts the groups below too.
            Version::V2 => count(&directory, "memory.events"),
            Version::V1 => {
                tree(&directory)?.iter().map(|one| count(one, "memory.oom_control")).sum()
            }
        }
    }

    /// What to compare with when a process of the group is killed.
    #[must_use]
    pub fn oom_baseline(&self) -> OomBaseline {
        let above = std::iter::successors(self.path().parent(), CgroupPath::parent);
        let is_counted = matches!(self.directory(Controller::Memory), Some((Version::V2, _)));
        let count = |path: &CgroupPath| if is_counted { self.wanted_above(path) } else { 0 };
        OomBaseline(above.map(|path| (path.clone(), count(&path))).collect())
    }

    /// Whose limit was reached when a process of this group was killed.
    #[must_use]
    pub fn oom_level(&self, baseline: &OomBaseline) -> OomLevel {
        if self.wanted() > 0 {
            let limit = self
                .memory_stats(Detail::Usage)
                .ok()
                .flatten()
                .and_then(|memory| memory.limit_bytes);
            return OomLevel::Own(limit);
        }
        let grown = baseline.0.iter().find(|(path, before)| self.wanted_above(path) > *before);
        grown.map_or(OomLevel::Machine, |(path, _)| OomLevel::Above(path.clone()))
    }

    /// How often the group, or one below it, has wanted more than its limit.
    fn wanted(&self) -> u64 {
        match self.directory(Controller::Memory) {
            Some((Version::V2, one)) => counter(&one.join("memory.events"), Some("oom")),
            Some((Version::V1, one)) => {
                let all = tree(&one).unwrap_or_default();
                all.iter().any(|one| reached_limit(one)).into()
            }
            None => 0,
        }
    }

    /// How often the group at `path` has wanted more than its limit, the groups below it
    /// left out.
    fn wanted_above(&self, path: &CgroupPath) -> u64 {
        let group = Self::open(self.hierarchies(), path.clone());
        match group.directory(Controller::Memory) {
            Some((Version::V2, one)) => counter(&one.join("memory.events.local"), Some("oom")),
            Some((Version::V1, one)) => reached_limit(&one).into(),
            None => 0,
        }
    }
}

/// Whether a group of v1 has used as much as it may: of memory, or of memory and swap,
/// which is the limit that the kernel looks at first.
fn reached_limit(directory: &Path) -> bool {
    ["memory", "memory.memsw"].iter().any(|kind| {
        let bytes = |file: &str| counter(&directory.join(format!("{kind}.{file}")), None);
        let limit = bytes("limit_in_bytes");
        limit > 0 && bytes("max_usage_in_bytes").saturating_add(CHARGED_AT_ONCE) >= limit
    })
}

/// A number in a file, by its key if it has several; 0 if it is not there.
fn counter(path: &Path, key: Option<&str>) -> u64 {
    let text = file::read_if_there(path).ok().flatten().unwrap_or_default();
    match key {
        Some(key) => keyed(&text, key),
        None => text.trim().parse().ok(),
    }
    .unwrap_or(0)
}

impl std::fmt::Display for OomLevel {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(Some(bytes)) => {
                write!(to, "the container reached its memory limit of {bytes} bytes")
            }
            Self::Own(None) => write!(to, "the container reached its memory limit"),
            Self::Above(path) => write!(
                to,
                "the cgroup {path} above the container, its pod's or one that holds more, \
                 reached its memory limit"
            ),
            Self::Machine => write!(to, "the node ran out of memory"),
        }
    }
}
