//! What a pod may and may not do.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Check, pod, shell, with};
use crate::cluster::kubectl::Kubectl;

pub(super) const CHECKS: [Check; 2] =
    [("securityContext in full", context), ("user namespace", user_namespace)];

fn context(kubectl: &Kubectl) -> Result<()> {
    let confined = with(
        shell("main", "exec sleep 3600"),
        json!({ "securityContext": {
        "runAsUser": 1234, "runAsGroup": 2345, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" } } }),
    );
    let capable = with(
        shell("capable", "exec sleep 3600"),
        json!({ "securityContext": {
        "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] }, "procMount": "Default" } }),
    );
    let privileged = with(
        shell("privileged", "exec sleep 3600"),
        json!({ "securityContext": { "privileged": true } }),
    );
    kubectl.create(&pod("confined", json!({
        "securityContext": { "supplementalGroups": [7777], "fsGroup": 8888, "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "80" }] },
        "hostname": "confined", "containers": [confined, capable, privileged] })))?;
    kubectl.wait_ready("confined")?;
    let seen = |container: &str, line: &str| {
        kubectl.run(&["exec", "confined", "-c", container, "--", "sh", "-c", line])
    };
    let status = seen(
        "main",
        "id; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/1/status; touch /x 2>&1; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    )?;
    for wanted in [
        "uid=1234 gid=2345",
        "7777",
        "8888",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Read-only",
        "\n80\n",
    ] {
        ensure!(status.contains(wanted), "no {wanted:?} in {status:?}");
    }
    let status = seen("capable", "grep CapEff /proc/1/status")?;
    ensure!(status.contains("0000000000001000"), "NET_ADMIN alone is not {status:?}");
    let status = seen(
        "privileged",
        "grep Seccomp: /proc/1/status; ls /dev | wc -l; mount -t tmpfs none /mnt 2>&1 || mkdir -p /m && mount -t tmpfs none /m && echo mounted",
    )?;
    ensure!(status.contains("Seccomp:\t0") && status.contains("mounted"), "privileged: {status:?}");
    let root = with(shell("main", "true"), json!({ "securityContext": { "runAsNonRoot": true } }));
    kubectl.create(&pod("root", json!({ "containers": [root] })))?;
    kubectl.wait_field(
        "pod",
        "root",
        ".status.containerStatuses[0].state.waiting.reason",
        "CreateContainerConfigError",
    )
}

fn user_namespace(kubectl: &Kubectl) -> Result<()> {
    let main = with(
        shell("main", "exec sleep 3600"),
        json!({ "volumeMounts": [{ "name": "disk", "mountPath": "/disk" }] }),
    );
    kubectl.create(&pod("mapped", json!({ "hostUsers": false, "containers": [main], "volumes": [{ "name": "disk", "emptyDir": {} }] })))?;
    kubectl.wait_ready("mapped")?;
    let map = kubectl.exec("mapped", "cat /proc/self/uid_map; id -u; touch /disk/file /root/file; stat -c %u /disk/file /root/file")?;
    let words: Vec<_> = map.split_whitespace().collect();
    ensure!(
        words.first() == Some(&"0") && words.get(1).is_some_and(|host| *host != "0"),
        "the map is {map:?}"
    );
    ensure!(words.get(3..) == Some(&["0", "0", "0"]), "root and its files: {map:?}");
    Ok(())
}
