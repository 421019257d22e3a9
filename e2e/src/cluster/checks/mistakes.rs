//! A node that is set up wrongly: its conditions and the pods' events say what is missing,
//! and nothing more is needed than to mend that.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::node::{wait_node, with_kubelet};
use super::{Check, pod, shell};
use crate::cluster::NODE;
use crate::cluster::kubectl::{Kubectl, PATIENCE};

pub(super) const CHECKS: [Check; 5] = [
    ("no CNI configuration", no_network),
    ("a CNI plugin is missing", no_plugin),
    ("a wrong endpoint", wrong_endpoint),
    ("orlop is down", orlop_down),
    ("a handler without user namespaces", no_user_namespaces),
];

/// What the node says about why it is not ready.
fn wait_reason(kubectl: &Kubectl, words: &[&str]) -> Result<()> {
    wait_node(kubectl, "False")?;
    kubectl.until(PATIENCE, || {
        let path = ".status.conditions[?(@.type==\"Ready\")].message";
        let message = kubectl.field("node", NODE, path)?;
        for word in words {
            ensure!(message.contains(word), "no {word:?} in the node's message {message:?}");
        }
        Ok(())
    })
}

/// Waits until an event of a pod has these words.
fn wait_event(kubectl: &Kubectl, pod: &str, words: &[&str]) -> Result<()> {
    let selector = format!("involvedObject.name={pod}");
    let path = "jsonpath={.items[*].message}";
    kubectl.until(PATIENCE, || {
        let said = kubectl.run(&["get", "events", "--field-selector", &selector, "-o", path])?;
        for word in words {
            ensure!(said.contains(word), "no {word:?} in the events {said:?}");
        }
        Ok(())
    })
}

fn sleeper(name: &str, more: &Value) -> Value {
    let mut spec = json!({ "containers": [shell("main", "exec sleep 3600")],
                           "tolerations": [{ "operator": "Exists" }] });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    pod(name, spec)
}

/// Replaces the CNI configuration (by none, if `content` is none) while `check` runs.
fn with_network(
    kubectl: &Kubectl,
    content: Option<&str>,
    check: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let file = kubectl.path("cni/10-pods.conflist");
    let before = fs::read(&file)?;
    match content {
        Some(content) => fs::write(&file, content)?,
        None => fs::remove_file(&file)?,
    }
    let checked = check();
    fs::write(&file, before)?;
    checked
}

fn no_network(kubectl: &Kubectl) -> Result<()> {
    let directory = kubectl.path("cni").display().to_string();
    with_network(kubectl, None, || {
        wait_reason(kubectl, &["NetworkPluginNotReady", &directory])?;
        // Who needs no network runs all the same: that is how the network's own pods begin.
        kubectl.create(&sleeper("of-the-host", &json!({ "hostNetwork": true })))?;
        kubectl.wait_ready("of-the-host")
    })?;
    wait_node(kubectl, "True")?;
    kubectl.create(&sleeper("after", &json!({})))?;
    kubectl.wait_ready("after")
}

fn no_plugin(kubectl: &Kubectl) -> Result<()> {
    let conflist =
        json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{ "type": "no-such-plugin" }] });
    with_network(kubectl, Some(&conflist.to_string()), || {
        kubectl.create(&sleeper("waiting", &json!({})))?;
        wait_event(kubectl, "waiting", &["no-such-plugin", crate::cni::PLUGINS])
    })?;
    kubectl.wait_ready("waiting")
}

fn wrong_endpoint(kubectl: &Kubectl) -> Result<()> {
    kubectl.create(&sleeper("before", &json!({})))?;
    kubectl.wait_ready("before")?;
    let id = ".status.containerStatuses[0].containerID";
    let container = kubectl.field("pod", "before", id)?;
    let wrong = |configuration: &mut Value| {
        configuration["containerRuntimeEndpoint"] = json!("unix:///run/no-such-runtime.sock");
    };
    with_kubelet(kubectl, wrong, || {
        kubectl.until(PATIENCE, || {
            let log = fs::read_to_string(kubectl.path("log/kubelet.log"))?;
            ensure!(log.contains("/run/no-such-runtime.sock"), "the kubelet's log lacks the path");
            Ok(())
        })
    })?;
    kubectl.wait_ready("before")?;
    ensure!(kubectl.field("pod", "before", id)? == container, "the container was replaced");
    Ok(())
}

fn orlop_down(kubectl: &Kubectl) -> Result<()> {
    kubectl.create(&sleeper("before", &json!({})))?;
    kubectl.wait_ready("before")?;
    let container = kubectl.field("pod", "before", ".status.containerStatuses[0].containerID")?;
    let hold = kubectl.path("run/orlop.hold");
    fs::write(&hold, "")?;
    let pid = fs::read_to_string(kubectl.path("run/orlop.pid"))?;
    let status = kubectl.inside("kill").arg(pid).status()?;
    ensure!(status.success(), "kill orlop: {status}");
    let said = wait_reason(kubectl, &["container runtime"]);
    fs::remove_file(&hold)?;
    said?;
    wait_node(kubectl, "True")?;
    let now = kubectl.field("pod", "before", ".status.containerStatuses[0].containerID")?;
    ensure!(now == container, "the container was replaced");
    Ok(())
}

/// What a runtime cannot do is said before anything is tried.
fn no_user_namespaces(kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(
        &json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
                 "metadata": { "name": "no-user-namespaces" }, "handler": "plain" })
        .to_string(),
    )?;
    let more = json!({ "hostUsers": false, "runtimeClassName": "no-user-namespaces" });
    kubectl.create(&sleeper("mapped", &more))?;
    wait_event(kubectl, "mapped", &["user namespaces", "plain"])
}
