//! Volumes of every kind that needs no storage driver.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{AGNHOST, Check, pod, shell, with};
use crate::cluster::kubectl::{Kubectl, PATIENCE};

pub(super) const CHECKS: [Check; 2] =
    [("configMap, secret, emptyDir, projected", ordinary), ("image volume with sub-path", image)];

fn ordinary(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["create", "configmap", "settings", "--from-literal=colour=blue"])?;
    kubectl.run(&["create", "secret", "generic", "keys", "--from-literal=key=hush"])?;
    let mounts = json!({ "volumeMounts": [
        { "name": "settings", "mountPath": "/settings" },
        { "name": "settings", "mountPath": "/colour", "subPath": "colour" },
        { "name": "keys", "mountPath": "/keys", "readOnly": true },
        { "name": "disk", "mountPath": "/disk" },
        { "name": "memory", "mountPath": "/memory" },
        { "name": "all", "mountPath": "/all" },
    ], "env": [{ "name": "COLOUR", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "colour" } } }] });
    kubectl.create(&pod("volumes", json!({
        "containers": [with(shell("main", "exec sleep 3600"), mounts)],
        "securityContext": { "fsGroup": 4242 },
        "volumes": [
            { "name": "settings", "configMap": { "name": "settings" } },
            { "name": "keys", "secret": { "secretName": "keys", "defaultMode": 0o440 } },
            { "name": "disk", "emptyDir": {} },
            { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "8Mi" } },
            { "name": "all", "projected": { "sources": [
                { "secret": { "name": "keys" } }, { "configMap": { "name": "settings" } },
                { "downwardAPI": { "items": [{ "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
                { "serviceAccountToken": { "path": "token" } } ] } },
        ],
    })))?;
    kubectl.wait_ready("volumes")?;
    let refused = kubectl.exec("volumes", "echo x > /disk/file; touch /keys/new 2>&1 || true")?;
    ensure!(refused.contains("Read-only file system"), "the secret can be written: {refused:?}");
    let seen = kubectl.exec(
        "volumes",
        "cat /settings/colour /colour /keys/key /all/name /all/key; echo; echo $COLOUR; \
        stat -c %g /disk/file; grep ' /memory ' /proc/mounts; test -s /all/token && echo token",
    )?;
    for wanted in ["bluebluehushvolumeshush\nblue\n4242\n", "tmpfs", "size=8192k", "token"] {
        ensure!(seen.contains(wanted), "no {wanted:?} in {seen:?}");
    }
    kubectl.run(&["patch", "configmap", "settings", "-p", "{\"data\":{\"colour\":\"green\"}}"])?;
    kubectl.until(2 * PATIENCE, || {
        let now = kubectl.exec("volumes", "cat /settings/colour")?;
        ensure!(now == "green", "the volume still says {now:?}");
        Ok(())
    })
}

fn image(kubectl: &Kubectl) -> Result<()> {
    let mounts = json!({ "volumeMounts": [
        { "name": "tools", "mountPath": "/tools" },
        { "name": "tools", "mountPath": "/etc-of-it", "subPath": "etc" },
    ] });
    kubectl.create(&pod("image", json!({
        "containers": [with(shell("main", "exec sleep 3600"), mounts.clone())],
        "volumes": [{ "name": "tools", "image": { "reference": AGNHOST, "pullPolicy": "IfNotPresent" } }],
    })))?;
    kubectl.wait_ready("image")?;
    let seen = kubectl.exec(
        "image",
        "/tools/agnhost --version; grep root: /etc-of-it/passwd; touch /tools/x 2>&1 || true",
    )?;
    for wanted in ["app version", "root:x:0:0", "Read-only file system"] {
        ensure!(seen.contains(wanted), "no {wanted:?} in {seen:?}");
    }
    let wrong = json!({ "volumeMounts": [{ "name": "tools", "mountPath": "/none", "subPath": "no/such/path" }] });
    kubectl.create(&pod(
        "wrong",
        json!({
            "containers": [with(shell("main", "true"), wrong)],
            "volumes": [{ "name": "tools", "image": { "reference": AGNHOST } }],
        }),
    ))?;
    kubectl
        .wait_output(
            &["get", "events", "--field-selector", "involvedObject.name=wrong"],
            "no/such/path",
        )
        .map(drop)
}
