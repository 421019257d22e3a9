//! Resizing in place, and statistics.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::node::with_kubelet;
use super::{Check, pod, shell, with};
use crate::cluster::NODE;
use crate::cluster::kubectl::{Kubectl, PATIENCE};

/// What a node's monitoring cannot do without.
const FAMILIES: [&str; 5] = [
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
    "container_network_receive_bytes_total",
    "container_fs_usage_bytes",
    "container_spec_cpu_shares",
];

pub(super) const CHECKS: [Check; 3] = [
    ("resize in place", resize),
    ("stats summary", summary),
    ("stats summary and metrics from CRI", summary_from_cri),
];

fn resize(kubectl: &Kubectl) -> Result<()> {
    let limits = |cpu: &str, memory: &str| json!({ "limits": { "cpu": cpu, "memory": memory }, "requests": { "cpu": cpu, "memory": memory } });
    let main =
        with(shell("main", "exec sleep 3600"), json!({ "resources": limits("100m", "64Mi") }));
    kubectl.create(&pod("sized", json!({ "containers": [main] })))?;
    kubectl.wait_ready("sized")?;
    let patch = json!({ "spec": { "containers": [{ "name": "main", "resources": limits("200m", "96Mi") }] } });
    kubectl.run(&["patch", "pod", "sized", "--subresource", "resize", "-p", &patch.to_string()])?;
    let actual = ".status.containerStatuses[0].resources.limits";
    kubectl.wait_field("pod", "sized", &format!("{actual}.memory"), "96Mi")?;
    kubectl.wait_field("pod", "sized", &format!("{actual}.cpu"), "200m")?;
    let seen = kubectl.exec("sized", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true")?;
    ensure!(seen.trim() == (96 << 20).to_string(), "the limit is {seen:?}");
    let restarts = kubectl.field("pod", "sized", ".status.containerStatuses[0].restartCount")?;
    ensure!(restarts == "0", "{restarts} restarts");
    Ok(())
}

fn busy(kubectl: &Kubectl) -> Result<String> {
    kubectl.create(&pod("busy", json!({ "containers": [shell("main", "dd if=/dev/zero of=/data bs=1M count=5 2>/dev/null; while :; do :; done")] })))?;
    kubectl.wait_ready("busy")?;
    kubectl.field("pod", "busy", ".metadata.namespace")
}

/// Without the gate PodAndContainerStatsFromCRI the kubelet finds the cgroups by the
/// containers' ids, and knows nothing of networks.
fn summary(kubectl: &Kubectl) -> Result<()> {
    let namespace = busy(kubectl)?;
    wait_summary(kubectl, &namespace, |_| Ok(()))
}

fn summary_from_cri(kubectl: &Kubectl) -> Result<()> {
    let gate = |configuration: &mut Value| {
        configuration["featureGates"]["PodAndContainerStatsFromCRI"] = json!(true);
    };
    with_kubelet(kubectl, gate, || {
        let namespace = busy(kubectl)?;
        wait_summary(kubectl, &namespace, |pod| {
            let received = pod.pointer("/network/rxBytes").and_then(Value::as_u64);
            ensure!(received.is_some_and(|bytes| bytes > 0), "network: {pod}");
            Ok(())
        })?;
        let path = format!("/api/v1/nodes/{NODE}/proxy/metrics/cadvisor");
        kubectl.until(2 * PATIENCE, || {
            let text = kubectl.run(&["get", "--raw", &path])?;
            let label = format!("namespace=\"{namespace}\"");
            let ours: Vec<_> = text.lines().filter(|line| line.contains(&label)).collect();
            for family in FAMILIES {
                let found = ours.iter().any(|line| line.starts_with(family));
                ensure!(found, "no {family} of the pod in {} lines", ours.len());
            }
            Ok(())
        })
    })
}

fn wait_summary(
    kubectl: &Kubectl,
    namespace: &str,
    more: impl Fn(&Value) -> Result<()>,
) -> Result<()> {
    let path = format!("/api/v1/nodes/{NODE}/proxy/stats/summary");
    kubectl.until(2 * PATIENCE, || {
        let summary: Value = serde_json::from_str(&kubectl.run(&["get", "--raw", &path])?)?;
        let pods = summary.get("pods").and_then(Value::as_array).cloned().unwrap_or_default();
        let ours = |pod: &&Value| {
            pod.pointer("/podRef/namespace").and_then(Value::as_str) == Some(namespace)
        };
        let Some(pod) = pods.iter().find(ours) else { bail!("the summary lacks the pod") };
        let number = |path: &str| pod.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        ensure!(number("/containers/0/cpu/usageNanoCores") > 50_000_000, "cpu: {pod}");
        ensure!(number("/containers/0/memory/workingSetBytes") > 0, "memory: {pod}");
        ensure!(number("/containers/0/rootfs/usedBytes") >= 5 << 20, "root file system: {pod}");
        ensure!(number("/cpu/usageCoreNanoSeconds") > 0, "cpu of the pod: {pod}");
        more(pod)
    })
}
