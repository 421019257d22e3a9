//! Controllers' pods: deployments, jobs, rolling updates, static pods, runtime classes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{AGNHOST, AGNHOST_2, Check, pod, shell, with};
use crate::cluster::NODE;
use crate::cluster::kubectl::{Kubectl, PATIENCE};

pub(super) const CHECKS: [Check; 7] = [
    ("deployment and endpoints", deployment),
    ("job to completion", job),
    ("rolling update", rolling_update),
    ("static pod", static_pod),
    ("runtime class", runtime_class),
    ("node drain", drain),
    ("110 pods", hundred_and_ten),
];

/// A deployment of a web server and a service for it.
pub(super) fn web(replicas: u32) -> Value {
    let container = json!({ "name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
        "readinessProbe": { "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1 } });
    let template = json!({ "metadata": { "labels": { "app": "web" } }, "spec": {
        "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "dnsPolicy": "Default",
        "containers": [container] } });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": "web" } }, "template": template } },
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": {
            "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] } },
    ] })
}

/// Waits until so many replicas of `web` are available and no other is left.
pub(super) fn wait_available(kubectl: &Kubectl, replicas: u32, patience: Duration) -> Result<()> {
    kubectl.until(patience, || {
        let status = kubectl.field("deployment", "web", ".status")?;
        let status: Value = serde_json::from_str(&status)?;
        let is =
            |field: &str| status.get(field).and_then(Value::as_u64) == Some(u64::from(replicas));
        if is("availableReplicas") && is("updatedReplicas") && is("replicas") {
            return Ok(());
        }
        bail!("the deployment's status is {status}")
    })
}

fn deployment(kubectl: &Kubectl) -> Result<()> {
    kubectl.create(&web(3))?;
    wait_available(kubectl, 3, PATIENCE)?;
    let endpoints = || -> Result<Vec<String>> {
        let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
        let text = kubectl.run(&[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=web",
            "-o",
            path,
        ])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let addresses = kubectl.until(PATIENCE, || {
        let found = endpoints()?;
        if found.len() == 3 { Ok(found) } else { bail!("endpoints: {found:?}") }
    })?;
    let mut names = std::collections::BTreeSet::new();
    for address in addresses {
        names.insert(kubectl.http(&address, 8080, "/hostname")?);
    }
    ensure!(names.len() == 3, "three endpoints answered with the names {names:?}");
    Ok(())
}

fn job(kubectl: &Kubectl) -> Result<()> {
    let template = json!({ "spec": { "restartPolicy": "Never", "dnsPolicy": "Default",
        "containers": [shell("count", "echo done by $HOSTNAME")] } });
    kubectl.create(
        &json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "count" },
        "spec": { "completions": 4, "parallelism": 2, "template": template } }),
    )?;
    kubectl.wait_field("job", "count", ".status.succeeded", "4")?;
    let log = kubectl.run(&["logs", "-l", "job-name=count"])?;
    ensure!(log.matches("done by count-").count() == 4, "the logs of the job are {log:?}");
    Ok(())
}

fn rolling_update(kubectl: &Kubectl) -> Result<()> {
    kubectl.create(&web(4))?;
    wait_available(kubectl, 4, PATIENCE)?;
    kubectl.run(&["set", "image", "deployment/web", &format!("web={AGNHOST_2}")])?;
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    wait_available(kubectl, 4, PATIENCE)?;
    kubectl.until(PATIENCE, || {
        let path = "jsonpath={.items[*].spec.containers[0].image}";
        let images = kubectl.run(&["get", "pods", "-l", "app=web", "-o", path])?;
        ensure!(!images.contains(AGNHOST), "images after the update: {images}");
        Ok(())
    })
}

fn static_pod(kubectl: &Kubectl) -> Result<()> {
    let mut object =
        pod("static", json!({ "containers": [shell("main", "echo static; exec sleep 3600")] }));
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("namespace".into(), json!("default"));
    }
    let manifest = kubectl.path("manifests/static.json");
    fs::write(&manifest, object.to_string())?;
    let kubectl = kubectl.in_namespace("default");
    let name = format!("static-{NODE}");
    kubectl.until(PATIENCE, || kubectl.field("pod", &name, ".metadata.name"))?;
    kubectl.wait_ready(&name)?;
    fs::remove_file(&manifest)?;
    kubectl.until(PATIENCE, || match kubectl.field("pod", &name, ".metadata.name") {
        Ok(_) => bail!("the pod is still there"),
        Err(_) => Ok(()),
    })
}

fn runtime_class(kubectl: &Kubectl) -> Result<()> {
    kubectl.create(&json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": "crun" }, "handler": "crun" }))?;
    let main = shell("main", "cat /proc/self/status; exec sleep 3600");
    kubectl.create(&pod("second", json!({ "runtimeClassName": "crun", "containers": [main] })))?;
    kubectl.wait_ready("second")?;
    ensure!(kubectl.exec("second", "echo in; exit 0")? == "in\n");
    kubectl.create(&json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": "missing" }, "handler": "no-such-handler" }))?;
    let main = shell("main", "true");
    kubectl
        .create(&pod("third", json!({ "runtimeClassName": "missing", "containers": [main] })))?;
    kubectl.wait_output(
        &["get", "events", "--field-selector", "involvedObject.name=third"],
        "no-such-handler",
    )?;
    Ok(())
}

fn drain(kubectl: &Kubectl) -> Result<()> {
    kubectl.create(&web(3))?;
    wait_available(kubectl, 3, PATIENCE)?;
    let drained = kubectl.run(&[
        "drain",
        NODE,
        "--force",
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--pod-selector=app=web",
        "--timeout=60s",
    ]);
    let pods = kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "--field-selector",
        "status.phase=Running",
        "-o",
        "name",
    ]);
    kubectl.run(&["uncordon", NODE])?;
    drained.context("drain")?;
    let pods = pods?;
    ensure!(pods.is_empty(), "pods run on the drained node: {pods}");
    wait_available(kubectl, 3, PATIENCE)
}

fn hundred_and_ten(kubectl: &Kubectl) -> Result<()> {
    let mut many = web(110);
    if let Some(probe) = many.pointer_mut("/items/0/spec/template/spec/containers/0") {
        *probe = with(shell("web", "exec sleep 3600"), json!({}));
    }
    kubectl.create(&many)?;
    wait_available(kubectl, 110, Duration::from_secs(240))
}
