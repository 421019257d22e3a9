//! Limits in records: a type of our own, since the message may change with CRI.

use std::collections::BTreeMap;

use cri_api::v1;
use serde::{Deserialize, Serialize};

/// The limits of a container in CRI's units; zero and empty mean "none".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds per period; -1: no limit.
    pub cpu_quota: i64,
    /// Relative weight, as in cgroup v1.
    pub cpu_shares: i64,
    /// Bytes; -1: no limit.
    pub memory_limit: i64,
    /// Memory and swap together, bytes; -1: no limit.
    pub memory_swap_limit: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// A list like `0-2,7`.
    pub cpuset_cpus: String,
    /// A list of memory nodes.
    pub cpuset_mems: String,
    /// Bytes by page size (`2MB`).
    pub hugepages: BTreeMap<String, u64>,
    /// Values by file of cgroup v2.
    pub unified: BTreeMap<String, String>,
}

/// What the kubelet last said of a pod's cgroup, which is the kubelet's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodResources {
    /// What its containers may use.
    pub resources: Option<Resources>,
    /// What the sandbox itself may use on top.
    pub overhead: Option<Resources>,
}

impl From<&v1::LinuxContainerResources> for Resources {
    fn from(request: &v1::LinuxContainerResources) -> Self {
        let hugepages = request.hugepage_limits.iter();
        Self {
            cpu_period: request.cpu_period,
            cpu_quota: request.cpu_quota,
            cpu_shares: request.cpu_shares,
            memory_limit: request.memory_limit_in_bytes,
            memory_swap_limit: request.memory_swap_limit_in_bytes,
            oom_score_adj: request.oom_score_adj,
            cpuset_cpus: request.cpuset_cpus.clone(),
            cpuset_mems: request.cpuset_mems.clone(),
            hugepages: hugepages.map(|one| (one.page_size.clone(), one.limit)).collect(),
            unified: request.unified.clone().into_iter().collect(),
        }
    }
}

impl From<&Resources> for v1::LinuxContainerResources {
    fn from(stored: &Resources) -> Self {
        let hugepages = stored.hugepages.iter();
        Self {
            cpu_period: stored.cpu_period,
            cpu_quota: stored.cpu_quota,
            cpu_shares: stored.cpu_shares,
            memory_limit_in_bytes: stored.memory_limit,
            memory_swap_limit_in_bytes: stored.memory_swap_limit,
            oom_score_adj: stored.oom_score_adj,
            cpuset_cpus: stored.cpuset_cpus.clone(),
            cpuset_mems: stored.cpuset_mems.clone(),
            hugepage_limits: hugepages
                .map(|(size, limit)| v1::HugepageLimit { page_size: size.clone(), limit: *limit })
                .collect(),
            unified: stored.unified.clone().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_in_a_record() {
        let request = v1::LinuxContainerResources {
            cpu_period: 1,
            cpu_quota: -1,
            cpu_shares: 3,
            memory_limit_in_bytes: 4,
            memory_swap_limit_in_bytes: 5,
            oom_score_adj: -6,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 7 }],
            unified: [("memory.high".to_owned(), "8".to_owned())].into(),
        };
        let json = serde_json::to_string(&Resources::from(&request)).unwrap();
        let stored: Resources = serde_json::from_str(&json).unwrap();
        assert_eq!(v1::LinuxContainerResources::from(&stored), request);
        assert_eq!(serde_json::from_str::<Resources>("{}").unwrap(), Resources::default());
    }
}
