//! The node's own life: restarts of kubelet and orlop, with pods that must not notice.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::workloads::{wait_available, web};
use super::{AGNHOST, AGNHOST_2, Check, pod, shell};
use crate::cluster::NODE;
use crate::cluster::components::METRICS;
use crate::cluster::kubectl::{Kubectl, PATIENCE};

/// How long the node's condition may still be that of before a restart.
const SETTLING: Duration = Duration::from_secs(5);

pub(super) const CHECKS: [Check; 5] = [
    ("kubelet restart", kubelet_restart),
    ("orlop restart", orlop_restart),
    ("orlop killed six times during a rolling update", killed_under_load),
    ("the kubelet asks for lists by streams", streamed_lists),
    ("evented PLEG", events),
];

/// Sends a signal to a component, and waits until process 1 has started it again and
/// the node is ready.
pub(super) fn restart(kubectl: &Kubectl, component: &str, how: &str) -> Result<()> {
    signal(kubectl, component, how)?;
    sleep(SETTLING);
    wait_node(kubectl, "True")
}

/// Waits until the node's condition Ready is so.
pub(super) fn wait_node(kubectl: &Kubectl, ready: &str) -> Result<()> {
    kubectl.wait_field("node", NODE, ".status.conditions[?(@.type==\"Ready\")].status", ready)
}

/// Sends a signal to a component; process 1 starts it again.
fn signal(kubectl: &Kubectl, component: &str, signal: &str) -> Result<()> {
    let file = kubectl.path(&format!("run/{component}.pid"));
    let before = std::fs::read_to_string(&file)?;
    // One that ends by itself, as a kubelet without a runtime does, may just have done so.
    kubectl.inside("kill").arg(signal).arg(&before).output()?;
    kubectl.until(PATIENCE, || {
        if std::fs::read_to_string(&file)? == before {
            bail!("{component} is not started again")
        }
        Ok(())
    })
}

/// Restarts the kubelet with another configuration, and again with its own.
pub(super) fn with_kubelet(
    kubectl: &Kubectl,
    change: impl FnOnce(&mut Value),
    check: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let file = kubectl.path("kubelet.json");
    let before = std::fs::read_to_string(&file)?;
    let mut configuration: Value = serde_json::from_str(&before)?;
    change(&mut configuration);
    std::fs::write(&file, configuration.to_string())?;
    let checked = signal(kubectl, "kubelet", "-TERM").and_then(|()| {
        sleep(SETTLING);
        check()
    });
    std::fs::write(&file, before)?;
    restart(kubectl, "kubelet", "-TERM")?;
    checked
}

/// Restarts orlop with another configuration, and again with its own.
pub(super) fn with_orlop(
    kubectl: &Kubectl,
    change: impl FnOnce(&str) -> String,
    check: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let file = kubectl.path("orlop.toml");
    let before = std::fs::read_to_string(&file)?;
    std::fs::write(&file, change(&before))?;
    let checked = restart(kubectl, "orlop", "-TERM").and_then(|()| check());
    std::fs::write(&file, before)?;
    restart(kubectl, "orlop", "-TERM")?;
    checked
}

/// Restart counts and addresses by pod.
fn pods(kubectl: &Kubectl) -> Result<BTreeMap<String, String>> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[*].restartCount} {.status.containerStatuses[*].containerID}{\"\\n\"}{end}";
    let text = kubectl.run(&["get", "pods", "-o", path])?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
        .collect())
}

fn unnoticed(kubectl: &Kubectl, component: &str, how: &str) -> Result<()> {
    kubectl.create(&web(3))?;
    wait_available(kubectl, 3, PATIENCE)?;
    let before = pods(kubectl)?;
    restart(kubectl, component, how)?;
    kubectl.create(&pod("after", json!({ "containers": [shell("main", "exec sleep 3600")] })))?;
    kubectl.wait_ready("after")?;
    wait_available(kubectl, 3, PATIENCE)?;
    let mut after = pods(kubectl)?;
    after.remove("after");
    ensure!(after == before, "pods before: {before:?}, after: {after:?}");
    Ok(())
}

fn kubelet_restart(kubectl: &Kubectl) -> Result<()> {
    unnoticed(kubectl, "kubelet", "-TERM")
}

fn orlop_restart(kubectl: &Kubectl) -> Result<()> {
    unnoticed(kubectl, "orlop", "-TERM")
}

fn killed_under_load(kubectl: &Kubectl) -> Result<()> {
    kubectl.create(&web(6))?;
    wait_available(kubectl, 6, 2 * PATIENCE)?;
    kubectl.run(&["set", "image", "deployment/web", &format!("web={AGNHOST_2}")])?;
    for round in 0..6 {
        sleep(Duration::from_millis(700 + 130 * round));
        signal(kubectl, "orlop", "-KILL")?;
    }
    wait_available(kubectl, 6, 3 * PATIENCE)?;
    let pods = kubectl.until(PATIENCE, || {
        let pods = pods(kubectl)?;
        if pods.len() == 6 { Ok(pods) } else { bail!("pods: {pods:?}") }
    })?;
    let mut addresses = std::collections::BTreeSet::new();
    for (name, rest) in &pods {
        let mut words = rest.split(' ');
        addresses.insert(words.next().unwrap_or_default().to_owned());
        // A container whose CreateContainer was answered and whose start was not even asked for
        // when orlop died is made anew by the kubelet, which counts that.
        let ended = kubectl.field("pod", name, ".status.containerStatuses[0].lastState")?;
        ensure!(!ended.contains("terminated"), "{name} was restarted: {rest}: {ended}");
    }
    ensure!(addresses.len() == 6, "addresses: {addresses:?}");
    let images =
        kubectl.run(&["get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}"])?;
    ensure!(!images.contains(AGNHOST), "images after the update: {images}");
    Ok(())
}

/// The kubelet asks for lists by streams: by orlop's own count of what was called.
fn streamed_lists(kubectl: &Kubectl) -> Result<()> {
    let before = calls(kubectl)?;
    sleep(Duration::from_secs(10));
    let after = calls(kubectl)?;
    let more = |method: &str| {
        let method = format!("method=\"{method}\"");
        let name = "orlop_cri_request_duration_seconds_count";
        sum(&after, name, &method) - sum(&before, name, &method)
    };
    let pairs = [("StreamPodSandboxes", "ListPodSandbox"), ("StreamContainers", "ListContainers")];
    for (stream, list) in pairs {
        ensure!(more(stream) >= 1.0, "{stream} was not called");
        ensure!(more(list) == 0.0, "{list} was called {} times", more(list));
    }
    Ok(())
}

/// The kubelet hears of pods by events, and never loses their stream.
fn events(kubectl: &Kubectl) -> Result<()> {
    let gate = |configuration: &mut Value| {
        configuration["featureGates"]["EventedPLEG"] = json!(true);
    };
    with_kubelet(kubectl, gate, || {
        for round in 0..3 {
            let ran = json!({ "restartPolicy": "Never", "containers": [shell("main", "exit 0")] });
            let name = format!("heard-{round}");
            kubectl.create(&pod(&name, ran))?;
            kubectl.wait_field("pod", &name, ".status.phase", "Succeeded")?;
        }
        let path = format!("/api/v1/nodes/{NODE}/proxy/metrics");
        let said = kubectl.run(&["get", "--raw", &path])?;
        let streams = sum(&said, "kubelet_evented_pleg_connection_success_count", "");
        let errors = sum(&said, "kubelet_evented_pleg_connection_error_count", "");
        ensure!((streams, errors) == (1.0, 0.0), "{streams} streams, {errors} errors");
        let heard = sum(&said, "kubelet_evented_pleg_connection_latency_seconds_count", "");
        ensure!(heard >= 9.0, "the kubelet heard {heard} events");
        Ok(())
    })
}

/// orlop's own metrics.
fn calls(kubectl: &Kubectl) -> Result<String> {
    let (host, port) = METRICS.split_once(':').unwrap_or_default();
    kubectl.http(host, port.parse()?, "/metrics")
}

/// The sum of the lines of a family whose labels contain `label`.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
