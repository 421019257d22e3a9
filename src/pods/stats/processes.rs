//! Processes of a container.

use sandbox::cgroup::Cgroup;

/// How many processes are in a group and below it; none if it is gone.
pub(super) fn count(group: &Cgroup) -> u64 {
    group.processes().map_or(0, |all| u64::try_from(all.len()).unwrap_or(u64::MAX))
}
