//! cgroups: v1, v2 and hybrid hosts behind one type.
//!
//! [`Hierarchies`] is what the host mounts, detected once. A [`Cgroup`] is one path in all of
//! them. Names are a function of the container's id, so creating and removing are idempotent and
//! need no memory. Where a controller is mounted decides which files are written: v2 when the
//! unified hierarchy has it, else its v1 hierarchy. A cgroup2 hierarchy without controllers
//! (hybrid hosts) still gets the group, for `cgroup.kill`, freezing and `cgroup.events`.
//!
//! Paths are given: by the cgroupfs driver, or below a scope that systemd has delegated, where
//! everything is the same.
//!
//! Order of use for a container: [`Cgroup::create`], [`Cgroup::apply`], then the first process
//! enters by `CLONE_INTO_CGROUP` with [`Cgroup::unified_directory`] or by [`Cgroup::add_self`]
//! before it makes its cgroup namespace; at the end [`Cgroup::kill_all`], [`Cgroup::oom_kills`] and
//! [`Cgroup::oom_level`], [`Cgroup::remove`].
//!
//! Specifications: <https://docs.kernel.org/admin-guide/cgroup-v2.html>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/index.html>,
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups>

/// Device rules: their meaning, the v1 files, the v2 program.
mod devices;
/// One file of a cgroup.
mod file;
/// Stopping all processes of a group, and letting them go on.
mod freezer;
/// The group itself: create, join, list, remove.
mod group;
/// What the host mounts.
mod hierarchies;
/// Killing all processes of a group.
mod kill;
/// Want of memory, and in which group.
mod oom;
/// Paths of groups.
mod path;
/// OCI resources to files and values, and writing them.
mod resources;
/// What a group has used.
mod stats;

pub use devices::DeviceRuleError;
pub use file::FileError;
pub use freezer::FreezeError;
pub use group::{Cgroup, CgroupError, Entered};
pub use hierarchies::{Controller, DetectError, Hierarchies, Mode, Version};
pub use oom::{OomBaseline, OomLevel};
pub use path::{CgroupPath, InvalidCgroupPath};
pub use resources::{OomGroup, Replaced, ResourceError};
pub use stats::{
    BlockIo, CpuDetail, CpuStats, Detail, Faults, HugetlbStats, IoStats, MemoryDetail, MemoryStats,
    PidsStats, Pressure, PressureLine, Stats,
};
