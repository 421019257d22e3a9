//! Changing the limits of a container: what holds afterwards, and what is to be written.
//!
//! As CRI has it, zero and empty mean "as it is", and entries of maps and lists are merged
//! with those there are. Two things are not in the message's comments:
//!
//! - A new memory limit without a word about swap leaves the amount of swap as it is, so
//!   that a container without swap does not get some, and none is refused because an old
//!   total is below the new limit.
//! - The score for the out-of-memory killer is one of processes, which took it over from
//!   each other. Once they run it stays, and a request that says otherwise is no error: the
//!   kubelet sends the one it computes from the new memory request.

use cri_api::v1;
use oci_spec::runtime::LinuxResources;

use super::{Node, ResourceError, SwapLimit, Unlisted, oom_score, resources_with};

/// A change of limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What holds once it is made.
    pub after: v1::LinuxContainerResources,
    /// What is to be written.
    pub write: LinuxResources,
}

/// Whether the container's program was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It was not.
    Waiting,
    /// It was.
    Started,
}

/// The limits that hold when the container is made as asked: with what the node adds to
/// them and what it cannot give.
///
/// # Errors
/// [`ResourceError`] for the score.
pub fn effective(
    request: &v1::LinuxContainerResources,
    node: &Node,
) -> Result<v1::LinuxContainerResources, ResourceError> {
    let mut effective = request.clone();
    effective.memory_swap_limit_in_bytes = super::swap_limit(request, node.swap);
    effective.oom_score_adj = oom_score(request, node)?.into();
    Ok(effective)
}

/// What `asked` makes of the limits that hold.
///
/// # Errors
/// [`ResourceError`] for the first limit that cannot be set on this node.
pub fn change(
    current: &v1::LinuxContainerResources,
    asked: &v1::LinuxContainerResources,
    node: &Node,
    progress: Progress,
) -> Result<Change, ResourceError> {
    let mut after = merged(current, asked);
    after.memory_swap_limit_in_bytes = swap(current, asked, node.swap);
    after.oom_score_adj = match (progress, asked.oom_score_adj) {
        (Progress::Started, _) | (Progress::Waiting, 0) => current.oom_score_adj,
        (Progress::Waiting, _) => oom_score(asked, node)?.into(),
    };
    let mut delta = asked.clone();
    delta.memory_swap_limit_in_bytes = after.memory_swap_limit_in_bytes;
    if delta.memory_swap_limit_in_bytes == current.memory_swap_limit_in_bytes
        && asked.memory_limit_in_bytes == 0
    {
        delta.memory_swap_limit_in_bytes = 0;
    } else {
        // The two limits mean something together only.
        delta.memory_limit_in_bytes = after.memory_limit_in_bytes;
    }
    let write = resources_with(&delta, node, Unlisted::Keep)?;
    Ok(Change { after, write })
}

fn merged(
    current: &v1::LinuxContainerResources,
    asked: &v1::LinuxContainerResources,
) -> v1::LinuxContainerResources {
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: &String, old: &String| if new.is_empty() { old } else { new }.clone();
    let mut hugepage_limits = current.hugepage_limits.clone();
    for new in &asked.hugepage_limits {
        hugepage_limits.retain(|old| old.page_size != new.page_size);
        hugepage_limits.push(new.clone());
    }
    let mut unified = current.unified.clone();
    unified.extend(asked.unified.clone());
    v1::LinuxContainerResources {
        cpu_period: number(asked.cpu_period, current.cpu_period),
        cpu_quota: number(asked.cpu_quota, current.cpu_quota),
        cpu_shares: number(asked.cpu_shares, current.cpu_shares),
        memory_limit_in_bytes: number(asked.memory_limit_in_bytes, current.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: current.memory_swap_limit_in_bytes,
        oom_score_adj: current.oom_score_adj,
        cpuset_cpus: text(&asked.cpuset_cpus, &current.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems, &current.cpuset_mems),
        hugepage_limits,
        unified,
    }
}

/// The limit on memory and swap together, afterwards.
fn swap(
    current: &v1::LinuxContainerResources,
    asked: &v1::LinuxContainerResources,
    accounting: SwapLimit,
) -> i64 {
    if accounting == SwapLimit::Absent {
        return 0;
    }
    let (memory, both) = (current.memory_limit_in_bytes, current.memory_swap_limit_in_bytes);
    match (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes) {
        (0, 0) => both,
        (-1, 0) if both != 0 => -1,
        (new, 0) if memory > 0 && both >= memory && new > 0 => new.saturating_add(both - memory),
        (_, 0) if both == -1 => -1,
        (0, _) => asked.memory_swap_limit_in_bytes,
        _ => super::swap_limit(asked, accounting),
    }
}

#[cfg(test)]
mod tests;
