//! Devices that a device plugin gives by their CDI names.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Check, pod, shell, with};
use crate::cluster::kubectl::Kubectl;
use crate::cluster::{KUBELET, NODE};

pub(super) const CHECKS: [Check; 1] = [("device plugin with CDI devices", plugin)];

const PLUGIN: &str = "registry.invalid/cluster/sample-device-plugin:1";
const RESOURCE: &str = "example.com/resource";

/// The sample plugin of Kubernetes: two devices, each a file of its id in `/tmp` (which it
/// mounts) and a CDI device with a block device and a variable.
fn plugin(kubectl: &Kubectl) -> Result<()> {
    let mounts = [
        ("plugins", format!("{KUBELET}/device-plugins"), "/var/lib/kubelet/device-plugins"),
        ("cdi", kubectl.path("cdi").display().to_string(), "/var/run/cdi"),
        ("files", "/tmp".to_owned(), "/tmp"),
    ];
    let of_pod = mounts.iter().map(
        |(name, host, _)| json!({ "name": name, "hostPath": { "path": host, "type": "Directory" } }),
    );
    let of_container =
        mounts.iter().map(|(name, _, path)| json!({ "name": name, "mountPath": path }));
    kubectl.create(&pod("plugin", json!({
        "volumes": of_pod.collect::<Vec<_>>(),
        "containers": [{ "name": "main", "image": PLUGIN, "volumeMounts": of_container.collect::<Vec<_>>(),
                         "securityContext": { "privileged": true },
                         "env": [{ "name": "CDI_ENABLED", "value": "1" }] }],
    })))?;
    kubectl.wait_ready("plugin")?;
    let allocatable = ".status.allocatable.example\\.com/resource";
    kubectl.wait_field("node", NODE, allocatable, "2")?;

    let checked = with_device(kubectl);
    for id in ["Dev-1", "Dev-2"] {
        let _never_given = std::fs::remove_file(format!("/tmp/{id}"));
    }
    kubectl.run(&["delete", "pod", "plugin", "--timeout=60s"])?;
    checked
}

fn with_device(kubectl: &Kubectl) -> Result<()> {
    let one = json!({ "resources": { "limits": { RESOURCE: "1" } } });
    let line = "exec sleep 3600";
    kubectl.create(&pod("given", json!({ "containers": [with(shell("main", line), one)] })))?;
    kubectl.wait_ready("given")?;
    let name = kubectl.exec("given", "echo -n $CDI_DEVICE")?;
    ensure!(name.starts_with("CDI-Dev-"), "the variable of the device is {name:?}");
    let seen = kubectl.exec("given", &format!("stat -c '%F %t:%T' /tmp/{name}; ls /tmp"))?;
    ensure!(seen.starts_with("block special file 1:"), "the device: {seen:?}");
    let file = name.trim_start_matches("CDI-");
    ensure!(seen.lines().any(|line| line == file), "no {file} in {seen:?}");
    Ok(())
}
