//! What a container uses, in CRI's words.

use cri_api::v1;

use crate::pods::{ContainerUsage, view::ContainerView};

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// The statistics of one container.
#[must_use]
pub fn container(view: &ContainerView, usage: &ContainerUsage) -> v1::ContainerStats {
    let config = &view.request.config;
    let timestamp = usage.read_at_ns;
    let cgroup = &usage.cgroup;
    let cpu = cgroup.cpu.map(|cpu| v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(cpu.usage_ns),
        usage_nano_cores: usage.cpu_nano_cores.and_then(value),
        psi: None,
    });
    let memory = cgroup.memory.map(|memory| v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set_bytes),
        available_bytes: memory
            .limit_bytes
            .and_then(|limit| value(limit.saturating_sub(memory.working_set_bytes))),
        usage_bytes: value(memory.usage_bytes),
        rss_bytes: value(memory.rss_bytes),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: None,
    });
    let swap = cgroup.memory.map(|memory| v1::SwapUsage {
        timestamp,
        swap_available_bytes: None,
        swap_usage_bytes: value(memory.swap_bytes),
    });
    let mountpoint = usage.writable_directory.to_string_lossy().into_owned();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: view.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu,
        memory,
        writable_layer: Some(v1::FilesystemUsage {
            timestamp,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
            used_bytes: value(usage.writable.bytes),
            inodes_used: value(usage.writable.inodes),
        }),
        swap,
        io: None,
    }
}
