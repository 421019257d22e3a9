//! The components of the cluster: their configuration files and command lines.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::{ADDRESS, CGROUP, Cluster, KUBELET, NODE};
use crate::node::binary;

/// Addresses of services and of pods.
const SERVICES: &str = "10.213.252.0/24";
const PODS: &str = "10.213.253.0/24";

/// How little space on its disk makes the kubelet evict.
const LOW: &str = "512Mi";
/// The same in bytes.
pub(super) const LOW_BYTES: u64 = 512 << 20;

/// Where orlop's own metrics are.
pub(super) const METRICS: &str = "127.0.0.1:9797";

/// The order of starting; each is started again when it ends, as systemd would do.
pub(super) const NAMES: [&str; 6] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "orlop", "kubelet"];

/// A runtime that does not say what it can do, as older ones do not.
const PLAIN_CRUN: &str = "#!/bin/sh\n[ \"$1\" = features ] && exit 1\nexec CRUN \"$@\"\n";

/// Writes what the components read when they start.
pub(super) fn write_configurations(cluster: &Cluster) -> Result<()> {
    fs::write(cluster.path("orlop.toml"), orlop(cluster))?;
    fs::write(cluster.path("kubelet.json"), serde_json::to_vec_pretty(&kubelet(cluster))?)?;
    if let Some(crun) = crate::programs::oci_runtime("crun") {
        let plain = cluster.path("plain-crun");
        fs::write(&plain, PLAIN_CRUN.replace("CRUN", &crun.display().to_string()))?;
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(cluster.path("resolv.conf"), "nameserver 127.0.0.1\n")?;
    let conflist = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
        { "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
          "ipam": { "type": "host-local", "dataDir": cluster.path("ipam"),
                    "ranges": [[{ "subnet": PODS }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ]});
    let file = cluster.path("cni/10-pods.conflist");
    fs::write(file, serde_json::to_vec_pretty(&conflist)?)?;
    Ok(())
}

fn orlop(cluster: &Cluster) -> String {
    let mut text = format!(
        "[registry]\nhosts_dir = \"{}\"\n\n[network]\nconf_dir = \"{}\"\nplugin_dirs = [\"{}\"]\n\
         when_unconfigured = \"wait\"\n\n\
         [metrics]\nlisten = \"{METRICS}\"\n\n[pods]\ncgroup_parent = \"/{CGROUP}/orlop\"\ncdi_dirs = [\"{}\"]\n",
        cluster.path("hosts").display(),
        cluster.path("cni").display(),
        crate::cni::PLUGINS,
        cluster.path("cdi").display(),
    );
    if let Some(criu) = crate::programs::criu() {
        text += &format!("criu = \"{}\"\n", criu.display());
    }
    if let Some(crun) = crate::programs::oci_runtime("crun") {
        text += &format!("\n[runtimes.crun]\npath = \"{}\"\n", crun.display());
        let plain = cluster.path("plain-crun");
        text += &format!("\n[runtimes.plain]\npath = \"{}\"\n", plain.display());
    }
    text
}

fn kubelet(cluster: &Cluster) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": true },
                            "x509": { "clientCAFile": cluster.path("pki/ca.crt") } },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": cluster.path("pki/kubelet-server.crt"),
        "tlsPrivateKeyFile": cluster.path("pki/kubelet-server.key"),
        "containerRuntimeEndpoint": format!("unix://{}", cluster.path("orlop.sock").display()),
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{CGROUP}"), "failCgroupV1": false,
        "failSwapOn": false, "makeIPTablesUtilChains": false, "maxPods": 150,
        "podLogsDir": cluster.disk().join("pods"), "staticPodPath": cluster.path("manifests"),
        "volumePluginDir": cluster.path("volume-plugins"), "resolvConf": cluster.path("resolv.conf"),
        "serializeImagePulls": false, "registryPullQPS": 0, "kubeAPIQPS": 200, "kubeAPIBurst": 400,
        "containerLogMaxSize": "64Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
        "evictionHard": { "memory.available": "50Mi", "nodefs.available": LOW, "imagefs.available": LOW },
        "evictionPressureTransitionPeriod": "5s",
        "imageMinimumGCAge": "5s", "imageGCHighThresholdPercent": 99, "imageGCLowThresholdPercent": 98,
        "nodeStatusUpdateFrequency": "2s", "syncFrequency": "10s",
        "featureGates": { "CRIListStreaming": true },
    })
}

/// The command line of a component.
pub(super) fn command(cluster: &Cluster, name: &str) -> Result<Command> {
    let mut command = match name {
        "orlop" => Command::new(binary()?),
        _ => Command::new(cluster.program(name)),
    };
    let path = |name: &str| cluster.path(name).display().to_string();
    let arguments: Vec<String> = match name {
        "etcd" => vec![
            format!("--data-dir={}", path("etcd")),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--unsafe-no-fsync".into(),
        ],
        "kube-apiserver" => vec![
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--advertise-address={ADDRESS}"),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", path("pki/accounts.pub")),
            format!("--service-account-signing-key-file={}", path("pki/accounts.key")),
            format!("--client-ca-file={}", path("pki/ca.crt")),
            format!("--tls-cert-file={}", path("pki/apiserver.crt")),
            format!("--tls-private-key-file={}", path("pki/apiserver.key")),
            format!("--kubelet-certificate-authority={}", path("pki/ca.crt")),
            format!("--kubelet-client-certificate={}", path("pki/admin.crt")),
            format!("--kubelet-client-key={}", path("pki/admin.key")),
        ],
        "kube-controller-manager" => vec![
            format!("--kubeconfig={}", path("pki/controller-manager.conf")),
            format!("--service-account-private-key-file={}", path("pki/accounts.key")),
            format!("--root-ca-file={}", path("pki/ca.crt")),
            "--leader-elect=false".into(),
            "--use-service-account-credentials".into(),
            "--node-monitor-grace-period=40s".into(),
        ],
        "kube-scheduler" => vec![
            format!("--kubeconfig={}", path("pki/scheduler.conf")),
            "--leader-elect=false".into(),
        ],
        "orlop" => vec![
            "daemon".into(),
            format!("--config={}", path("orlop.toml")),
            format!("--root={}", path("disk/root")),
            format!("--state={}", path("state")),
            format!("--listen={}", path("orlop.sock")),
        ],
        _ => vec![
            format!("--config={}", path("kubelet.json")),
            format!("--kubeconfig={}", path("pki/kubelet.conf")),
            format!("--root-dir={KUBELET}"),
            format!("--cert-dir={}", path("pki")),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={ADDRESS}"),
        ],
    };
    command.args(arguments).current_dir(Path::new("/"));
    Ok(command)
}
