//! Metrics of pods and containers, and what crictl makes of them and of statistics.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cri_api::v1::{
    ContainerConfig, LinuxContainerResources, ListMetricDescriptorsRequest,
    ListPodSandboxMetricsRequest, Metric, PodSandboxMetrics, StreamPodSandboxMetricsRequest,
};
use e2e::client::{Cri, Pod, container};
use e2e::crictl::Crictl;
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use serde_json::Value;

/// Families that depend on what the machine has: huge pages, pressure information, and
/// devices that count transfers.
const OPTIONAL: [&str; 3] =
    ["container_hugetlb_", "container_pressure_", "container_blkio_device_usage_total"];

const LIMIT: i64 = 64 << 20;

/// A container as validation suites use for metrics.
fn limited(name: &str) -> ContainerConfig {
    let mut config = container(name, DEMO, &["sleep", "1000"]);
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 2,
        memory_limit_in_bytes: LIMIT,
        memory_swap_limit_in_bytes: LIMIT,
        ..Default::default()
    });
    config
}

async fn node() -> Result<(Node, Cri)> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    node.import_demo()?;
    let cri = node.connect().await?;
    Ok((node, cri))
}

/// The names of the descriptors, and the keys of their labels.
async fn described(cri: &mut Cri) -> Result<BTreeMap<String, Vec<String>>> {
    let answer = cri.runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await?;
    let descriptors = answer.into_inner().descriptors.into_iter();
    Ok(descriptors.map(|one| (one.name, one.label_keys)).collect())
}

async fn of_pod(cri: &mut Cri, pod: &Pod) -> Result<PodSandboxMetrics> {
    let answer = cri.runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await?;
    let mut pods = answer.into_inner().pod_metrics.into_iter();
    pods.find(|metrics| metrics.pod_sandbox_id == pod.id).context("the pod has no metrics")
}

fn value(metrics: &[Metric], name: &str) -> Option<u64> {
    metrics.iter().find(|metric| metric.name == name)?.value.map(|value| value.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn root_every_family_has_values() -> Result<()> {
    let (node, mut cri) = node().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &limited("c")).await?;
    let script = "for i in 1 2 3; do echo hi > /file$i; done; sync";
    assert_eq!(cri.exec(&id, &["sh", "-c", script]).await?.exit_code, 0);

    let described = described(&mut cri).await?;
    assert_eq!(described.len(), 56);
    let metrics = of_pod(&mut cri, &pod).await?;
    let [container] = metrics.container_metrics.as_slice() else {
        anyhow::bail!("not one container: {metrics:?}")
    };
    assert_eq!(container.container_id, id);
    let mut missing: BTreeSet<&str> = described.keys().map(String::as_str).collect();
    for metric in metrics.metrics.iter().chain(&container.metrics) {
        let keys = described.get(&metric.name).with_context(|| metric.name.clone())?;
        assert_eq!(keys.len(), metric.label_values.len(), "{metric:?}");
        let labels: BTreeMap<_, _> = keys.iter().zip(&metric.label_values).collect();
        assert_eq!(labels.get(&"pod".to_owned()).map(|pod| pod.as_str()), Some("pod"));
        assert_eq!(labels.get(&"namespace".to_owned()).map(|name| name.as_str()), Some("e2e"));
        missing.remove(metric.name.as_str());
    }
    missing.retain(|name| !OPTIONAL.iter().any(|optional| name.starts_with(optional)));
    assert_eq!(missing, BTreeSet::new());

    let of = |name: &str| value(&container.metrics, name);
    let limit = u64::try_from(LIMIT).ok();
    assert_eq!(of("container_spec_memory_limit_bytes"), limit);
    assert_eq!(of("container_spec_memory_swap_limit_bytes"), Some(0));
    assert_eq!(of("container_spec_cpu_shares"), Some(2), "as asked, whatever the kernel keeps");
    assert_eq!(of("container_spec_cpu_quota"), Some(20_000));
    assert_eq!(of("container_spec_cpu_period"), Some(100_000));
    assert_eq!(of("container_processes"), Some(1));
    assert_eq!(of("container_threads"), Some(1));
    assert_eq!(of("container_file_descriptors"), Some(3));
    assert_eq!(of("container_sockets"), Some(0));
    assert_eq!(of("container_ulimits_soft"), Some(1024));
    assert_eq!(of("container_oom_events_total"), Some(0));
    assert!(of("container_fs_limit_bytes") > Some(100 << 20), "{metrics:?}");
    assert!(of("container_memory_max_usage_bytes") <= limit, "{metrics:?}");
    let status = cri.status(&id).await?;
    let started = u64::try_from(status.started_at / 1_000_000_000)?;
    assert_eq!(of("container_start_time_seconds"), Some(started));
    assert!(of("container_last_seen") >= Some(started));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_metrics_as_a_stream_and_only_of_ready_pods() -> Result<()> {
    let (node, mut cri) = node().await?;
    let ready = cri.run_pod(node.pod("ready"), "").await?;
    let stopped = cri.run_pod(node.pod("stopped"), "").await?;
    cri.launch(&ready, &limited("c")).await?;
    cri.stop_pod(&stopped.id).await?;
    let request = StreamPodSandboxMetricsRequest {};
    let mut stream = cri.runtime.stream_pod_sandbox_metrics(request).await?.into_inner();
    let mut pods = Vec::new();
    while let Some(message) = stream.message().await? {
        pods.extend(message.pod_sandbox_metrics);
    }
    let ids: Vec<_> = pods.iter().map(|pod| pod.pod_sandbox_id.clone()).collect();
    assert_eq!(ids, std::slice::from_ref(&ready.id));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_statistics_and_metrics_by_crictl() -> Result<()> {
    let (node, mut cri) = node().await?;
    let crictl = Crictl::new(&node)?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &limited("c")).await?;
    let short = |id: &str| id.chars().take(13).collect::<String>();

    assert!(crictl.run("stats -s 0")?.contains(&short(&id)));
    assert!(crictl.run("statsp -s 0")?.contains("pod"));
    let stats = crictl.json(&format!("stats -o json {}", short(&id)))?;
    assert_eq!(stats.pointer("/stats/0/attributes/id").and_then(Value::as_str), Some(&*id));
    let stats = crictl.json(&format!("statsp -o json {}", short(&pod.id)))?;
    let interface = stats.pointer("/stats/0/linux/network/defaultInterface/name");
    assert_eq!(interface.and_then(Value::as_str), Some("eth0"), "{stats}");
    let descriptors = crictl.json("metricdescs -o json")?;
    let count = descriptors.pointer("/descriptors").and_then(Value::as_array).map(Vec::len);
    assert_eq!(count, Some(56));
    let metrics = crictl.json("metricsp -o json")?;
    let found = metrics.pointer("/podMetrics/0/containerMetrics/0/containerId");
    assert_eq!(found.and_then(Value::as_str), Some(&*id), "{metrics}");
    Ok(())
}
