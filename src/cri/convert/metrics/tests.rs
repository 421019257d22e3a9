//! The tables as a whole, and a container and a pod that use some of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sandbox::cgroup as kernel;
use serde_json::json;

use super::*;
use crate::pods::record::{ContainerRecord, ContainerRequest, ImageUsed, PodRecord, PodRequest};
use crate::pods::view::ContainerState;
use crate::pods::{BlockIo, Filesystem, Processes, WritableLayer};

/// What validation suites and dashboards expect of a runtime.
const EXPECTED: &str = "
    container_blkio_device_usage_total container_cpu_cfs_periods_total
    container_cpu_cfs_throttled_periods_total container_cpu_cfs_throttled_seconds_total
    container_cpu_system_seconds_total container_cpu_usage_seconds_total
    container_cpu_user_seconds_total container_file_descriptors container_fs_inodes_free
    container_fs_inodes_total container_fs_limit_bytes container_fs_reads_bytes_total
    container_fs_reads_total container_fs_usage_bytes container_fs_writes_bytes_total
    container_fs_writes_total container_hugetlb_max_usage_bytes container_hugetlb_usage_bytes
    container_last_seen container_memory_cache container_memory_failcnt
    container_memory_failures_total container_memory_kernel_usage container_memory_mapped_file
    container_memory_max_usage_bytes container_memory_rss container_memory_swap
    container_memory_usage_bytes container_memory_working_set_bytes
    container_network_receive_bytes_total container_network_receive_errors_total
    container_network_receive_packets_dropped_total container_network_receive_packets_total
    container_network_transmit_bytes_total container_network_transmit_errors_total
    container_network_transmit_packets_dropped_total container_network_transmit_packets_total
    container_oom_events_total container_pressure_cpu_stalled_seconds_total
    container_pressure_cpu_waiting_seconds_total container_pressure_io_stalled_seconds_total
    container_pressure_io_waiting_seconds_total container_pressure_memory_stalled_seconds_total
    container_pressure_memory_waiting_seconds_total container_processes container_sockets
    container_spec_cpu_period container_spec_cpu_quota container_spec_cpu_shares
    container_spec_memory_limit_bytes container_spec_memory_reservation_limit_bytes
    container_spec_memory_swap_limit_bytes container_start_time_seconds container_threads
    container_threads_max container_ulimits_soft";

fn pod_view() -> PodView {
    let metadata = v1::PodSandboxMetadata {
        name: "web-0".into(),
        namespace: "shop".into(),
        ..Default::default()
    };
    let record = json!({
        "version": 1, "boot_id": "b", "created_at_ns": 17_000_000_000_u64,
        "state": {"Ready": {"held": [], "shim": {"pid": 7, "start_ticks": 8}}},
    });
    PodView {
        id: "p0".into(),
        at_ns: 23,
        request: Arc::new(PodRequest {
            config: v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() },
            runtime_handler: String::new(),
        }),
        record: PodRecord::decode(record.to_string().as_bytes()).unwrap(),
        containers: BTreeMap::new(),
    }
}

/// A best-effort container with a limit on the processor.
fn container_view() -> ContainerView {
    let mut config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "server".into(), attempt: 0 }),
        ..Default::default()
    };
    let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
    (resources.cpu_shares, resources.cpu_quota) = (2, 20_000);
    let image = ImageUsed { name: "docker.io/library/busybox:1".into(), ..Default::default() };
    let mut record = ContainerRecord::new(5, image, "/pods/c0".into(), 15);
    record.state = ContainerState::Running { started_at_ns: 19_999_999_999 };
    ContainerView {
        id: "c0".into(),
        pod: "p0".into(),
        request: Arc::new(ContainerRequest { config }),
        record,
        pid: Some(9),
    }
}

fn group(path: &str) -> GroupUsage {
    let pressure = kernel::Pressure {
        some: kernel::PressureLine { total_us: 3_000_000, ..Default::default() },
        full: kernel::PressureLine { total_us: 2_999_999, ..Default::default() },
    };
    let io = BlockIo { major: 8, minor: 1, read_bytes: 10, written_bytes: 20, reads: 1, writes: 2 };
    let pages = kernel::HugetlbStats { page_size: "2MB".into(), ..Default::default() };
    GroupUsage {
        path: path.to_owned(),
        read_at_ns: 1,
        cpu_nano_cores: None,
        stats: kernel::Stats {
            cpu: Some(kernel::CpuStats {
                usage_ns: 61_900_000_000,
                detail: Some(kernel::CpuDetail::default()),
            }),
            memory: Some(kernel::MemoryStats {
                usage_bytes: 4096,
                page_faults: kernel::Faults { all: 7, major: 1 },
                detail: Some(kernel::MemoryDetail::default()),
                ..Default::default()
            }),
            pids: Some(kernel::PidsStats { current: 3, limit: None }),
            io: Some(kernel::IoStats { devices: vec![io] }),
            hugetlb: vec![pages],
            cpu_pressure: Some(pressure),
            memory_pressure: Some(pressure),
            io_pressure: Some(pressure),
        },
    }
}

fn metrics() -> Vec<v1::PodSandboxMetrics> {
    let usage = ContainerUsage {
        group: group("/pods/c0"),
        writable: Some(WritableLayer {
            measured_at_ns: 1,
            usage: Default::default(),
            directory: "/".into(),
        }),
        detail: Some(ContainerDetail {
            processes: Processes { count: 2, descriptors: 8, sockets: 1 },
            oom_kills: 0,
            open_files_soft: Some(1024),
        }),
    };
    let usage = PodUsage {
        group: group("/pods"),
        processes: 2,
        network: Some(vec![Interface { name: "eth0".into(), ..Default::default() }]),
        containers: vec![(Arc::new(container_view()), usage)],
    };
    let mut node = Metrics::default();
    node.pods.push((Arc::new(pod_view()), usage));
    node.filesystem =
        Some(Filesystem { device: "/dev/vda1".into(), bytes: 100, inodes: 10, inodes_free: 5 });
    pods(node).collect()
}

fn values(metrics: &[v1::Metric], name: &str) -> Vec<(Vec<String>, u64)> {
    let named = metrics.iter().filter(|metric| metric.name == name);
    let own = named.map(|metric| {
        let labels = metric.label_values.iter().skip(BASE_LABELS.len()).cloned();
        (labels.collect(), metric.value.map(|value| value.value).unwrap())
    });
    own.collect()
}

#[test]
fn all_families_and_each_once() {
    let names: Vec<String> = descriptors().into_iter().map(|one| one.name).collect();
    let sorted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(sorted.len(), names.len(), "each once");
    assert_eq!(sorted, EXPECTED.split_whitespace().collect());
    assert!(descriptors().iter().all(|one| !one.help.is_empty()));
}

#[test]
fn every_metric_has_the_labels_of_its_descriptor() {
    let pods = metrics();
    let container = &pods[0].container_metrics[0];
    let described: BTreeMap<String, usize> =
        descriptors().into_iter().map(|one| (one.name, one.label_keys.len())).collect();
    let mut found = BTreeSet::new();
    for metric in pods[0].metrics.iter().chain(&container.metrics) {
        assert_eq!(described.get(&metric.name), Some(&metric.label_values.len()), "{metric:?}");
        assert_eq!(metric.timestamp, 0, "live");
        found.insert(metric.name.as_str());
    }
    assert_eq!(found.len(), described.len(), "every family has a value here");
}

#[test]
fn who_is_meant() {
    let pods = metrics();
    let container = &pods[0].container_metrics[0];
    let base = |metrics: &[v1::Metric]| metrics[0].label_values[..BASE_LABELS.len()].to_vec();
    let image = "docker.io/library/busybox:1";
    assert_eq!(base(&container.metrics), ["server", "/pods/c0", image, "c0", "shop", "web-0"]);
    assert_eq!(base(&pods[0].metrics), ["", "/pods", "", "", "shop", "web-0"]);
    assert_eq!((container.container_id.as_str(), pods[0].pod_sandbox_id.as_str()), ("c0", "p0"));
}

#[test]
fn values_mean_what_they_mean_in_cadvisor() {
    let pods = metrics();
    let container = &pods[0].container_metrics[0].metrics;
    let of = |name: &str| values(container, name);
    let plain = |value: u64| vec![(vec![], value)];
    let labelled = |labels: &[&str], value: u64| {
        (labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>(), value)
    };
    assert_eq!(of("container_spec_cpu_shares"), plain(2));
    assert_eq!(of("container_spec_cpu_period"), plain(100_000));
    assert_eq!(of("container_spec_cpu_quota"), plain(20_000));
    assert_eq!(of("container_spec_memory_limit_bytes"), plain(0), "none");
    assert_eq!(of("container_threads_max"), plain(0), "none");
    assert_eq!(of("container_start_time_seconds"), plain(19));
    assert_eq!(of("container_memory_max_usage_bytes"), plain(4096), "at least what it is now");
    assert_eq!(of("container_pressure_cpu_stalled_seconds_total"), plain(2));
    assert_eq!(of("container_pressure_cpu_waiting_seconds_total"), plain(3));
    assert_eq!(of("container_cpu_usage_seconds_total"), [labelled(&["total"], 61)]);
    assert_eq!(of("container_ulimits_soft"), [labelled(&["max_open_files"], 1024)]);
    assert_eq!(of("container_fs_limit_bytes"), [labelled(&["/dev/vda1"], 100)]);
    assert_eq!(
        of("container_fs_reads_total"),
        [labelled(&["8:1"], 1), labelled(&["/dev/vda1"], 0)],
        "the partition's own device has a row"
    );
    assert_eq!(
        of("container_blkio_device_usage_total"),
        [labelled(&["8:1", "8", "1", "Read"], 10), labelled(&["8:1", "8", "1", "Write"], 20)]
    );
    assert_eq!(
        of("container_memory_failures_total"),
        [
            labelled(&["pgfault", "container"], 7),
            labelled(&["pgmajfault", "container"], 1),
            labelled(&["pgfault", "hierarchy"], 7),
            labelled(&["pgmajfault", "hierarchy"], 1),
        ]
    );
    let name = "container_network_receive_bytes_total";
    assert_eq!(of(name), [], "traffic is the pod's");
    assert_eq!(values(&pods[0].metrics, name), [labelled(&["eth0"], 0)]);
}
