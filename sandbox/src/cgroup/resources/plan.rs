//! Which values go where: the resources of a spec as steps of writes. Reads files, writes none.

use oci_spec::runtime::LinuxResources;

use super::{ResourceError, v1, v2};
use crate::cgroup::file;
use crate::cgroup::group::Cgroup;
use crate::cgroup::hierarchies::{Controller, Hierarchies, Version};

/// Values that bind each other, in the order that is likely right.
pub(super) type Step = Vec<Write>;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// Whose file it is; `None` for a core file of the unified hierarchy.
    pub(super) controller: Option<Controller>,
    /// Names of the file; the first that exists is meant.
    pub(super) files: Vec<String>,
    /// The value.
    pub(super) value: String,
    /// What it means when no such file exists.
    pub(super) if_missing: IfMissing,
    /// How the old value is written back.
    pub(super) undo: Undo,
}

/// What it means when a file does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// The value cannot be kept.
    Fail,
    /// The value is what holds without the file.
    Skip,
}

/// How the old value of a file is written back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undo {
    /// As it was read.
    Content,
    /// Always this.
    Fixed(String),
    /// The line that begins with `key`, or `absent` when there was none.
    Line {
        /// The device or other key at the beginning of the line.
        key: String,
        /// What the absence of a line means.
        absent: String,
    },
}

impl Undo {
    /// The value to write back, given what the file holds now.
    pub(super) fn value(&self, present: &str) -> String {
        match self {
            Self::Content => present.trim_end().to_owned(),
            Self::Fixed(value) => value.clone(),
            Self::Line { key, absent } => present
                .lines()
                .find(|line| line.split_whitespace().next() == Some(key))
                .unwrap_or(absent)
                .to_owned(),
        }
    }
}

impl Write {
    /// A value that must be kept, in a file that holds one value.
    pub(super) fn new(controller: Controller, file: &str, value: impl ToString) -> Self {
        Self {
            controller: Some(controller),
            files: vec![file.to_owned()],
            value: value.to_string(),
            if_missing: IfMissing::Fail,
            undo: Undo::Content,
        }
    }

    /// Another name that the file has on some kernels.
    pub(super) fn or_file(mut self, file: &str) -> Self {
        self.files.push(file.to_owned());
        self
    }

    /// The value may go unwritten if `skip`.
    pub(super) fn skip_if(mut self, skip: SkipIf) -> Self {
        if skip == SkipIf::NothingLost {
            self.if_missing = IfMissing::Skip;
        }
        self
    }

    /// The file has a line per key.
    pub(super) fn line(mut self, key: &str, absent: impl ToString) -> Self {
        self.undo = Undo::Line { key: key.to_owned(), absent: absent.to_string() };
        self
    }
}

/// Whether a value says what holds anyway on a host without the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkipIf {
    /// It does not: its absence is an error.
    SomethingLost,
    /// It does.
    NothingLost,
}

impl SkipIf {
    pub(super) const fn when(nothing_lost: bool) -> Self {
        if nothing_lost { Self::NothingLost } else { Self::SomethingLost }
    }
}

/// All steps for the resources of a spec, device rules apart.
pub(super) fn steps(
    resources: &LinuxResources,
    group: &Cgroup,
) -> Result<Vec<Step>, ResourceError> {
    let present = |controller: Controller, name: &str| {
        let (_, directory) = group.directory(controller)?;
        file::read(&directory.join(name)).ok()
    };
    of(resources, group.hierarchies(), &present)
}

/// The present content of a file of a controller.
pub(super) type Present<'a> = dyn Fn(Controller, &str) -> Option<String> + 'a;

pub(super) fn of(
    resources: &LinuxResources,
    hierarchies: &Hierarchies,
    present: &Present<'_>,
) -> Result<Vec<Step>, ResourceError> {
    // A controller that is not there fails at its first value, under the name of that host.
    let fallback = hierarchies.unified().map_or(Version::V1, |one| {
        if one.controllers.is_empty() { Version::V1 } else { Version::V2 }
    });
    let version = |controller| hierarchies.version(controller).unwrap_or(fallback);
    let mut steps = Vec::new();
    if let Some(memory) = resources.memory() {
        steps.extend(match version(Controller::Memory) {
            Version::V1 => v1::memory(memory),
            Version::V2 => v2::memory(memory)?,
        });
    }
    if let Some(cpu) = resources.cpu() {
        steps.extend(match version(Controller::Cpu) {
            Version::V1 => v1::cpu(cpu),
            Version::V2 => v2::cpu(cpu, present)?,
        });
        // The files have the same names in both versions.
        steps.extend(cpuset(cpu.cpus(), "cpuset.cpus"));
        steps.extend(cpuset(cpu.mems(), "cpuset.mems"));
    }
    if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|one| *one != 0)
    {
        let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
        let skip = SkipIf::when(limit < 0);
        steps.push(vec![Write::new(Controller::Pids, "pids.max", value).skip_if(skip)]);
    }
    if let Some(block) = resources.block_io() {
        steps.extend(match version(Controller::Blkio) {
            Version::V1 => v1::block_io(block),
            Version::V2 => v2::block_io(block, present),
        });
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        steps.extend(match version(Controller::Hugetlb) {
            Version::V1 => v1::hugetlb(limit)?,
            Version::V2 => v2::hugetlb(limit)?,
        });
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        steps.extend(rdma(device, limit.hca_handles(), limit.hca_objects()));
    }
    if let Some(network) = resources.network() {
        steps.extend(v1::network(network));
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (key, value) in unified {
        steps.push(vec![v2::unified(key, value, hierarchies)?]);
    }
    Ok(steps)
}

fn cpuset(list: &Option<String>, file: &str) -> Option<Step> {
    let list = list.as_deref().filter(|list| !list.is_empty())?;
    Some(vec![Write::new(Controller::Cpuset, file, list)])
}

fn rdma(device: &str, handles: Option<u32>, objects: Option<u32>) -> Option<Step> {
    let limits: Vec<String> = [("hca_handle", handles), ("hca_object", objects)]
        .into_iter()
        .filter_map(|(name, limit)| limit.map(|limit| format!("{name}={limit}")))
        .collect();
    let absent = format!("{device} hca_handle=max hca_object=max");
    let value = format!("{device} {}", limits.join(" "));
    (!limits.is_empty())
        .then(|| vec![Write::new(Controller::Rdma, "rdma.max", value).line(device, absent)])
}
