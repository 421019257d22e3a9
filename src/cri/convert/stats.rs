//! What pods and containers use, in CRI's words.
//!
//! What the kernel does not tell is absent, never zero.

use cri_api::v1;

use crate::pods::view::{ContainerView, PodView};
use crate::pods::{
    ContainerUsage, GroupUsage, Interface, PodUsage, Pressure, PressureLine, WritableLayer,
};

/// The interface that the kubelet takes for the pod's own, as it does itself.
const DEFAULT_INTERFACE: &str = "eth0";

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// The statistics of one container.
#[must_use]
pub fn container(view: &ContainerView, usage: &ContainerUsage) -> v1::ContainerStats {
    let config = &view.request.config;
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: view.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: cpu(&usage.group),
        memory: memory(&usage.group),
        writable_layer: usage.writable.as_ref().map(writable_layer),
        swap: swap(&usage.group),
        io: io(&usage.group),
    }
}

/// The statistics of one pod.
#[must_use]
pub fn pod(view: &PodView, usage: &PodUsage) -> v1::PodSandboxStats {
    let config = &view.request.config;
    let timestamp = usage.group.read_at_ns;
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: view.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: cpu(&usage.group),
            memory: memory(&usage.group),
            network: usage.network.as_ref().map(|interfaces| network(timestamp, interfaces)),
            process: Some(v1::ProcessUsage { timestamp, process_count: value(usage.processes) }),
            containers: usage.containers.iter().map(|(view, one)| container(view, one)).collect(),
            io: io(&usage.group),
        }),
        windows: None,
    }
}

fn cpu(group: &GroupUsage) -> Option<v1::CpuUsage> {
    group.stats.cpu.map(|cpu| v1::CpuUsage {
        timestamp: group.read_at_ns,
        usage_core_nano_seconds: value(cpu.usage_ns),
        usage_nano_cores: group.cpu_nano_cores.and_then(value),
        psi: group.stats.cpu_pressure.map(psi),
    })
}

fn memory(group: &GroupUsage) -> Option<v1::MemoryUsage> {
    group.stats.memory.map(|memory| v1::MemoryUsage {
        timestamp: group.read_at_ns,
        working_set_bytes: value(memory.working_set_bytes),
        available_bytes: memory
            .limit_bytes
            .and_then(|limit| value(limit.saturating_sub(memory.working_set_bytes))),
        usage_bytes: value(memory.usage_bytes),
        rss_bytes: value(memory.rss_bytes),
        page_faults: value(memory.page_faults.all),
        major_page_faults: value(memory.page_faults.major),
        psi: group.stats.memory_pressure.map(psi),
    })
}

fn swap(group: &GroupUsage) -> Option<v1::SwapUsage> {
    group.stats.memory.map(|memory| v1::SwapUsage {
        timestamp: group.read_at_ns,
        swap_available_bytes: memory
            .swap_limit_bytes
            .and_then(|limit| value(limit.saturating_sub(memory.swap_bytes))),
        swap_usage_bytes: value(memory.swap_bytes),
    })
}

fn io(group: &GroupUsage) -> Option<v1::IoUsage> {
    let psi = Some(psi(group.stats.io_pressure?));
    Some(v1::IoUsage { timestamp: group.read_at_ns, psi })
}

fn psi(pressure: Pressure) -> v1::PsiStats {
    let line = |line: PressureLine| {
        let PressureLine { avg10, avg60, avg300, total_us } = line;
        Some(v1::PsiData { total: total_us, avg10, avg60, avg300 })
    };
    v1::PsiStats { full: line(pressure.full), some: line(pressure.some) }
}

fn writable_layer(layer: &WritableLayer) -> v1::FilesystemUsage {
    let mountpoint = layer.directory.to_string_lossy().into_owned();
    v1::FilesystemUsage {
        timestamp: layer.measured_at_ns,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
        used_bytes: value(layer.usage.bytes),
        inodes_used: value(layer.usage.inodes),
    }
}

/// The default interface is not among the others.
fn network(timestamp: i64, interfaces: &[Interface]) -> v1::NetworkUsage {
    let default = interfaces
        .iter()
        .find(|interface| interface.name == DEFAULT_INTERFACE)
        .or_else(|| interfaces.first());
    let others = interfaces
        .iter()
        .filter(|one| Some(one.name.as_str()) != default.map(|one| one.name.as_str()));
    v1::NetworkUsage {
        timestamp,
        default_interface: default.map(interface),
        interfaces: others.map(interface).collect(),
    }
}

fn interface(interface: &Interface) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.transmitted.bytes),
        tx_errors: value(interface.transmitted.errors),
    }
}
