//! `RunPodSandbox`.

use anyhow::Result;
use cri_api::v1::*;
use e2e::client::Pod;

use super::{Scene, Table};

/// One mistake in a pod's configuration.
type Mistake = (&'static str, fn(&mut PodSandboxConfig));

/// One mistake in a pod's security context.
type Insecurity = (&'static str, fn(&mut LinuxSandboxSecurityContext));

const NAMES: &[Mistake] = &[
    ("no metadata", |pod| pod.metadata = None),
    ("no name", |pod| metadata(pod).name.clear()),
    ("no namespace", |pod| metadata(pod).namespace.clear()),
    ("no uid", |pod| metadata(pod).uid.clear()),
    ("NUL in the name", |pod| metadata(pod).name = "a\0b".into()),
    ("newline in the name", |pod| metadata(pod).name = "a\nb".into()),
    ("slash in the name", |pod| metadata(pod).name = "../a/b".into()),
    ("300 bytes of name", |pod| metadata(pod).name = "x".repeat(300)),
    ("odd uid and namespace", |pod| {
        metadata(pod).uid = "../u\n".into();
        metadata(pod).namespace = "/n\0".into();
    }),
    ("NUL in the host name", |pod| pod.hostname = "a\0b".into()),
    ("newline in the host name", |pod| pod.hostname = "a\nb".into()),
    ("slash in the host name", |pod| pod.hostname = "a/b".into()),
    ("300 bytes of host name", |pod| pod.hostname = "x".repeat(300)),
    ("256 KiB of annotations", |pod| {
        pod.annotations.insert("long".into(), "x".repeat(256 << 10));
    }),
    ("5 MiB of annotations", |pod| {
        pod.annotations.insert("long".into(), "x".repeat(5 << 20));
    }),
    ("odd labels and annotations", |pod| {
        pod.labels.insert("a\0/\n".into(), "\0\n/..".into());
        pod.annotations.insert(String::new(), "\0\n".into());
    }),
    ("log directory relative", |pod| pod.log_directory = "logs".into()),
    ("log directory with ..", |pod| pod.log_directory = "/logs/../etc".into()),
    ("NUL in the log directory", |pod| pod.log_directory = "/logs\0".into()),
];

const NETWORK: &[Mistake] = &[
    ("name server no address", |pod| dns(pod).servers = vec!["nameserver".into()]),
    ("newline in a search domain", |pod| dns(pod).searches = vec!["a\nb".into()]),
    ("newline in a DNS option", |pod| dns(pod).options = vec!["a\nb".into()]),
    ("port protocol 99", |pod| port(pod).protocol = 99),
    ("container port 65536", |pod| port(pod).container_port = 65536),
    ("container port -1", |pod| port(pod).container_port = -1),
    ("host port 65536", |pod| port(pod).host_port = 65536),
    ("host address none", |pod| port(pod).host_ip = "localhost".into()),
    ("bandwidth no number", |pod| {
        pod.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "much".into());
    }),
    ("sysctl without a name", |pod| sysctl(pod, "", "1")),
    ("sysctl with ..", |pod| sysctl(pod, "net.../kernel", "1")),
    ("sysctl of the node", |pod| sysctl(pod, "vm.swappiness", "1")),
    ("sysctl value with a blank", |pod| sysctl(pod, "net.ipv4.ip_forward", "1 ")),
    ("sysctl value refused by the kernel", |pod| sysctl(pod, "net.ipv4.ip_forward", "yes")),
    ("sysctl unknown to the kernel", |pod| sysctl(pod, "net.no_such", "1")),
    ("sysctl of the node's network", |pod| {
        options(pod).network = NamespaceMode::Node.into();
        sysctl(pod, "net.ipv4.ip_forward", "1");
    }),
];

const PLACES: &[Mistake] = &[
    ("cgroup parent with ..", |pod| linux(pod).cgroup_parent = "/a/../..".into()),
    ("NUL in the cgroup parent", |pod| linux(pod).cgroup_parent = "/a\0".into()),
    ("newline in the cgroup parent", |pod| linux(pod).cgroup_parent = "/a\nb".into()),
    ("network mode 99", |pod| options(pod).network = 99),
    ("PID mode 99", |pod| options(pod).pid = 99),
    ("IPC mode 99", |pod| options(pod).ipc = 99),
    ("network mode CONTAINER", |pod| options(pod).network = NamespaceMode::Container.into()),
    ("PID mode TARGET", |pod| options(pod).pid = NamespaceMode::Target.into()),
    ("a target", |pod| options(pod).target_id = "c".into()),
    ("user namespace mode 99", |pod| {
        options(pod).userns_options = Some(UserNamespace { mode: 99, ..Default::default() });
    }),
];

const SECURITY: &[Insecurity] = &[
    ("seccomp profile type 99", |security| security.seccomp = profile(99, "")),
    ("AppArmor profile type 99", |security| security.apparmor = profile(99, "")),
    ("supplemental groups policy 99", |security| security.supplemental_groups_policy = 99),
    ("group without user", |security| security.run_as_group = Some(Int64Value { value: 5 })),
];

fn metadata(pod: &mut PodSandboxConfig) -> &mut PodSandboxMetadata {
    pod.metadata.get_or_insert_default()
}

fn dns(pod: &mut PodSandboxConfig) -> &mut DnsConfig {
    pod.dns_config.get_or_insert_default()
}

fn port(pod: &mut PodSandboxConfig) -> &mut PortMapping {
    pod.port_mappings = vec![PortMapping { container_port: 80, ..Default::default() }];
    &mut pod.port_mappings[0]
}

fn linux(pod: &mut PodSandboxConfig) -> &mut LinuxPodSandboxConfig {
    pod.linux.get_or_insert_default()
}

fn sysctl(pod: &mut PodSandboxConfig, name: &str, value: &str) {
    linux(pod).sysctls.insert(name.to_owned(), value.to_owned());
}

fn options(pod: &mut PodSandboxConfig) -> &mut NamespaceOption {
    let security = linux(pod).security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default()
}

/// A profile as requests carry it.
pub(super) fn profile(kind: i32, reference: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind, localhost_ref: reference.to_owned() })
}

pub(super) async fn mistakes(scene: &mut Scene, table: &mut Table) -> Result<()> {
    let runtime = &mut scene.cri.runtime;
    let none = RunPodSandboxRequest::default();
    table.add("RunPodSandbox", "no configuration", runtime.run_pod_sandbox(none).await);
    let config = scene.node.pod("handler");
    table.add("RunPodSandbox", "unknown handler", scene.cri.run_pod(config, "kata").await);
    for (cause, make) in NAMES.iter().chain(NETWORK).chain(PLACES) {
        let mut config = scene.node.pod("mistaken");
        make(&mut config);
        run(scene, table, cause, config).await?;
    }
    for (cause, make) in SECURITY {
        let mut config = scene.node.pod("mistaken");
        make(linux(&mut config).security_context.get_or_insert_default());
        run(scene, table, cause, config).await?;
    }
    let same = scene.cri.run_pod(scene.pod.config.clone(), "").await;
    table.add("RunPodSandbox", "a second time", same);
    let mut other = scene.pod.config.clone();
    other.labels.insert("other".into(), "yes".into());
    table.add("RunPodSandbox", "another of this name", scene.cri.run_pod(other, "").await);
    let stopped = scene.cri.run_pod(scene.stopped.config.clone(), "").await;
    table.add("RunPodSandbox", "of this name one is stopped", stopped);
    Ok(())
}

/// One line; a pod that is made all the same is taken away.
async fn run(
    scene: &mut Scene,
    table: &mut Table,
    cause: &str,
    config: PodSandboxConfig,
) -> Result<()> {
    let outcome = scene.cri.run_pod(config, "").await;
    if let Some(Pod { id, config }) = table.add("RunPodSandbox", cause, outcome) {
        let listed = scene.cri.pods().await?.into_iter().find(|pod| pod.id == id);
        let same = listed.is_some_and(|pod| {
            pod.labels == config.labels
                && pod.annotations == config.annotations
                && pod.metadata == config.metadata
        });
        assert!(same, "{cause}: not given back as given");
        scene.cri.remove_pod(&id).await?;
    }
    Ok(())
}
