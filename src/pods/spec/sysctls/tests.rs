//! Kernel parameters, as tables.

use super::*;

fn config(sysctls: &[(&str, &str)], options: v1::NamespaceOption) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        linux: Some(v1::LinuxPodSandboxConfig {
            sysctls: sysctls
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn one(name: &str, value: &str) -> Result<String, String> {
    pod_sysctls(&config(&[(name, value)], v1::NamespaceOption::default()))
        .map(|list| list.into_iter().map(|(path, value)| format!("{path}={value}")).collect())
        .map_err(|error| error.to_string())
}

#[test]
fn accepted() {
    for (name, value, expected) in [
        ("net.ipv4.ip_forward", "1", "net/ipv4/ip_forward=1"),
        ("net/ipv4/ip_forward", "1", "net/ipv4/ip_forward=1"),
        ("net.ipv4.conf.eth0/100.rp_filter", "1", "net/ipv4/conf/eth0.100/rp_filter=1"),
        ("net/ipv4/conf/eth0.100/rp_filter", "1", "net/ipv4/conf/eth0.100/rp_filter=1"),
        ("net.ipv4.ip_local_port_range", "1024 65000", "net/ipv4/ip_local_port_range=1024 65000"),
        ("kernel.sem", "250\t32000 100 128", "kernel/sem=250\t32000 100 128"),
        ("kernel.shm_rmid_forced", "1", "kernel/shm_rmid_forced=1"),
        ("kernel.msgmax", "8192", "kernel/msgmax=8192"),
        ("fs.mqueue.msg_max", "10", "fs/mqueue/msg_max=10"),
    ] {
        assert_eq!(one(name, value), Ok(expected.to_owned()));
    }
    assert_eq!(pod_sysctls(&v1::PodSandboxConfig::default()), Ok(vec![]));
}

#[test]
fn refused() {
    for name in [
        "",
        "net",
        "net..x",
        ".net.x",
        "net.../x",
        "net/../kernel/core_pattern",
        "net.a b",
        "net.x\0",
        "net.ipv4.x=",
    ] {
        assert_eq!(one(name, "1"), Err(format!("sysctl name {name:?} is malformed")));
    }
    for name in [
        "kernel.core_pattern",
        "kernel.msg",
        "vm.swappiness",
        "fs.file-max",
        "kernel.hostname",
        "network.x",
        "kernel/x/shm",
    ] {
        assert_eq!(
            one(name, "1"),
            Err(format!("sysctl {name:?} does not belong to a namespace of the pod"))
        );
    }
    for value in ["", " ", "1 ", " 1", "1\n2", "1+kernel.core_pattern=|/x", "1\0", "ü", "1\r"] {
        assert!(
            one("net.ipv4.ip_forward", value).unwrap_err().starts_with("the value of"),
            "{value:?}"
        );
    }
}

#[test]
fn namespaces_of_the_node() {
    let node = i32::from(NamespaceMode::Node);
    let network = v1::NamespaceOption { network: node, ..Default::default() };
    let ipc = v1::NamespaceOption { ipc: node, ..Default::default() };
    let net = [("net.ipv4.ip_forward", "1")];
    let shm = [("kernel.shmmax", "1")];
    assert!(pod_sysctls(&config(&net, ipc.clone())).is_ok());
    assert!(pod_sysctls(&config(&shm, network.clone())).is_ok());
    for (sysctls, options, namespace) in [(net, network, "network"), (shm, ipc, "ipc")] {
        let name = sysctls[0].0.to_owned();
        assert_eq!(
            pod_sysctls(&config(&sysctls, options)),
            Err(SysctlError::NodeNamespace { name, namespace })
        );
    }
}
