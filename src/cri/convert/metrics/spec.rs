//! What was asked for, and times.
//!
//! Limits of the processor are those of the request, in the units of cgroup v1 whatever the
//! node has, because v2 keeps a rounded weight; limits of memory are those that the kernel
//! keeps. No limit is 0.

use std::time::{SystemTime, UNIX_EPOCH};

use cri_api::v1;

use super::{Family, Subject, gauge, seconds};
use crate::cri::convert::container;

/// What the kernel takes where nothing was asked for.
const PERIOD_US: u64 = 100_000;
const SHARES: u64 = 1024;

pub(super) const FAMILIES: &[Family] = &[
    gauge("container_last_seen", "Last time a container was seen by the exporter", |_| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(now.as_secs())
    }),
    gauge(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
        |subject| u64::try_from(subject.started_at_ns).ok().map(seconds),
    ),
    gauge("container_spec_cpu_period", "CPU period of the container.", |subject| {
        Some(asked(asked_for(subject)?.cpu_period).unwrap_or(PERIOD_US))
    }),
    gauge("container_spec_cpu_quota", "CPU quota of the container.", |subject| {
        asked(asked_for(subject)?.cpu_quota)
    }),
    gauge("container_spec_cpu_shares", "CPU share of the container.", |subject| {
        Some(asked(asked_for(subject)?.cpu_shares).unwrap_or(SHARES))
    }),
    gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", |subject| {
        Some(subject.group.stats.memory?.limit_bytes.unwrap_or(0))
    }),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Memory swap limit for the container.",
        |subject| Some(subject.group.stats.memory?.swap_limit_bytes.unwrap_or(0)),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container.",
        |subject| {
            let guaranteed = asked_for(subject)?.unified.get("memory.min").map(|text| text.parse());
            Some(guaranteed.and_then(Result::ok).unwrap_or(0))
        },
    ),
];

/// Of a container; a pod asks for nothing itself.
fn asked_for(subject: &Subject<'_>) -> Option<v1::LinuxContainerResources> {
    let (view, _) = subject.container?;
    let resources = container::resources(view).and_then(|resources| resources.linux);
    Some(resources.unwrap_or_default())
}

fn asked(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}
