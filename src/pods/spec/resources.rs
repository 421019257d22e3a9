//! Limits of a container: cpu, memory, huge pages, out-of-memory score.
//!
//! # References
//! - [OCI runtime-spec, control groups](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups)
//! - [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html)

use std::collections::BTreeMap;

use cri_api::v1;
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::{CgroupVersion, Node, SwapLimit};

/// Changing limits.
mod change;

pub use change::{Change, Progress, change, effective};

/// The range of `/proc/<pid>/oom_score_adj`.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;

/// Limits that cannot be set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResourceError {
    /// A number without a meaning.
    #[error("{field} is {value}, which is not allowed")]
    Number {
        /// The field of the request.
        field: &'static str,
        /// As given.
        value: i64,
    },
    /// Memory and swap together cannot be less than memory alone.
    #[error("memory_swap_limit_in_bytes {swap} is below memory_limit_in_bytes {limit}")]
    SwapBelowMemory {
        /// The limit of both.
        swap: i64,
        /// The limit of memory.
        limit: i64,
    },
    /// A list of cpus or memory nodes that the kernel would not parse.
    #[error("{field} {value:?} is not a list of numbers and ranges")]
    Set {
        /// The field of the request.
        field: &'static str,
        /// As given.
        value: String,
    },
    /// A huge page size the node does not have.
    #[error("huge pages of {size:?} do not exist on this node")]
    HugePage {
        /// As given.
        size: String,
    },
    /// A key of `unified` that is no file of a cgroup.
    #[error("unified key {key:?} is not the name of a cgroup file")]
    UnifiedKey {
        /// As given.
        key: String,
    },
    /// A value of `unified` with a NUL.
    #[error("the value of unified key {key:?} has NUL in it")]
    UnifiedValue {
        /// The key.
        key: String,
    },
    /// `unified` speaks of cgroup v2.
    #[error("unified resources need cgroup v2, which this node does not use")]
    UnifiedOnV1,
}

/// What a size of huge pages gets that a request does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unlisted {
    /// None, if it lists any.
    Zero,
    /// What it has.
    Keep,
}

/// The limits of the request in OCI's words. Zero and empty mean "not set". The rules for
/// devices are added by the caller.
///
/// # Errors
/// [`ResourceError`] for the first limit that cannot be set on this node.
pub fn resources(
    request: &v1::LinuxContainerResources,
    node: &Node,
) -> Result<LinuxResources, ResourceError> {
    resources_with(request, node, Unlisted::Zero)
}

fn resources_with(
    request: &v1::LinuxContainerResources,
    node: &Node,
    unlisted: Unlisted,
) -> Result<LinuxResources, ResourceError> {
    let mut resources = LinuxResources::default();
    resources
        .set_devices(None)
        .set_cpu(cpu(request)?)
        .set_memory(memory(request, node.swap)?)
        .set_hugepage_limits(huge_pages(request, &node.hugepage_sizes, unlisted)?)
        .set_unified(unified(request, node.cgroups)?);
    Ok(resources)
}

/// The score, not below what this node's runtime may set.
pub(super) fn oom_score_adj(
    container: &v1::ContainerConfig,
    node: &Node,
) -> Result<Option<i32>, ResourceError> {
    let resources = container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    resources.map(|resources| oom_score(resources, node)).transpose()
}

fn oom_score(resources: &v1::LinuxContainerResources, node: &Node) -> Result<i32, ResourceError> {
    let value = resources.oom_score_adj;
    let refused = ResourceError::Number { field: "oom_score_adj", value };
    let wanted = match i32::try_from(value) {
        Ok(wanted) if OOM_SCORE_ADJ.contains(&value) => wanted,
        _ => return Err(refused),
    };
    Ok(wanted.max(node.oom_score_adj_floor.unwrap_or(wanted)))
}

fn cpu(request: &v1::LinuxContainerResources) -> Result<Option<LinuxCpu>, ResourceError> {
    // Only the quota has a word for "unlimited".
    if request.cpu_quota < -1 {
        return Err(ResourceError::Number { field: "cpu_quota", value: request.cpu_quota });
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("cpu_shares", request.cpu_shares)?)
        .set_quota(Some(request.cpu_quota).filter(|quota| *quota != 0))
        .set_period(positive("cpu_period", request.cpu_period)?)
        .set_cpus(set("cpuset_cpus", &request.cpuset_cpus)?)
        .set_mems(set("cpuset_mems", &request.cpuset_mems)?);
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

fn memory(
    request: &v1::LinuxContainerResources,
    accounting: SwapLimit,
) -> Result<Option<LinuxMemory>, ResourceError> {
    let (limit, swap) = (request.memory_limit_in_bytes, request.memory_swap_limit_in_bytes);
    for (field, value) in [("memory_limit_in_bytes", limit), ("memory_swap_limit_in_bytes", swap)] {
        if value < -1 {
            return Err(ResourceError::Number { field, value });
        }
    }
    if swap > 0 && swap < limit {
        return Err(ResourceError::SwapBelowMemory { swap, limit });
    }
    let swap = swap_limit(request, accounting);
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(limit).filter(|limit| *limit != 0));
    memory.set_swap(Some(swap).filter(|swap| *swap != 0));
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

/// A limit on memory without a word about swap means: no swap.
fn swap_limit(request: &v1::LinuxContainerResources, accounting: SwapLimit) -> i64 {
    let (limit, swap) = (request.memory_limit_in_bytes, request.memory_swap_limit_in_bytes);
    match accounting {
        SwapLimit::Absent => 0,
        SwapLimit::Available if swap == 0 && limit > 0 => limit,
        SwapLimit::Available => swap,
    }
}

/// A container may use no huge pages but those it asked for: sizes that are not listed get
/// a limit of zero.
fn huge_pages(
    request: &v1::LinuxContainerResources,
    sizes: &[String],
    unlisted: Unlisted,
) -> Result<Option<Vec<LinuxHugepageLimit>>, ResourceError> {
    if request.hugepage_limits.is_empty() {
        return Ok(None);
    }
    let mut limits: BTreeMap<&str, u64> = match unlisted {
        Unlisted::Zero => sizes.iter().map(|size| (size.as_str(), 0)).collect(),
        Unlisted::Keep => BTreeMap::new(),
    };
    for v1::HugepageLimit { page_size, limit } in &request.hugepage_limits {
        if sizes.contains(page_size) {
            limits.insert(page_size, *limit);
        } else if *limit > 0 {
            // The kubelet lists every size it knows with zero; there is nothing to limit.
            return Err(ResourceError::HugePage { size: page_size.clone() });
        }
    }
    let limits = limits.into_iter().map(|(size, limit)| {
        let mut oci = LinuxHugepageLimit::default();
        oci.set_page_size(size.to_owned()).set_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        oci
    });
    Ok(Some(limits.collect()))
}

fn unified(
    request: &v1::LinuxContainerResources,
    cgroups: CgroupVersion,
) -> Result<Option<std::collections::HashMap<String, String>>, ResourceError> {
    if request.unified.is_empty() {
        return Ok(None);
    }
    if cgroups == CgroupVersion::V1 {
        return Err(ResourceError::UnifiedOnV1);
    }
    let file = |key: &str| {
        let (controller, name) = key.split_once('.').unwrap_or_default();
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        // Files named `cgroup.*` move, freeze and kill; they are no limits.
        !controller.is_empty()
            && !name.is_empty()
            && controller != "cgroup"
            && key.bytes().all(word)
    };
    let keys: std::collections::BTreeSet<_> = request.unified.iter().collect();
    for (key, value) in keys {
        if !file(key) {
            return Err(ResourceError::UnifiedKey { key: key.clone() });
        }
        if value.contains('\0') {
            return Err(ResourceError::UnifiedValue { key: key.clone() });
        }
    }
    Ok(Some(request.unified.clone()))
}

fn positive(field: &'static str, value: i64) -> Result<Option<u64>, ResourceError> {
    let number =
        u64::try_from(value).map_err(|_negative| ResourceError::Number { field, value })?;
    Ok(Some(number).filter(|number| *number != 0))
}

fn set(field: &'static str, value: &str) -> Result<Option<String>, ResourceError> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let element = |text: &str| match text.split_once('-') {
        Some((first, last)) => number(first) && number(last),
        None => number(text),
    };
    match value {
        "" => Ok(None),
        list if list.split(',').all(element) => Ok(Some(list.to_owned())),
        other => Err(ResourceError::Set { field, value: other.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
