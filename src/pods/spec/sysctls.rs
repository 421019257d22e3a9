//! Kernel parameters of a pod.
//!
//! Only parameters that belong to a namespace of the pod are accepted: anything else would
//! be a setting of the node. A value is one line of plain characters, so that it cannot
//! carry a second setting with it (CVE-2022-0811), and it is written to its own file.
//!
//! # References
//! - [sysctl(8)](https://man7.org/linux/man-pages/man8/sysctl.8.html)
//! - [Namespaced parameters](https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/)

use cri_api::v1::{self, NamespaceMode};

/// A parameter that cannot be set for a pod.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SysctlError {
    /// The name is no path below `/proc/sys`.
    #[error("sysctl name {name:?} is malformed")]
    Name {
        /// As given.
        name: String,
    },
    /// The value has characters that no parameter needs.
    #[error(
        "the value of sysctl {name:?} is empty, has spaces around it, or a character that is not plain"
    )]
    Value {
        /// The parameter's name.
        name: String,
    },
    /// The parameter is the node's.
    #[error("sysctl {name:?} does not belong to a namespace of the pod")]
    NotNamespaced {
        /// The parameter's name.
        name: String,
    },
    /// The parameter belongs to a namespace that this pod shares with the node.
    #[error("sysctl {name:?} would change the node, whose {namespace} namespace the pod uses")]
    NodeNamespace {
        /// The parameter's name.
        name: String,
        /// `network` or `ipc`.
        namespace: &'static str,
    },
}

/// The parameters of a pod, sorted: each a path below `/proc/sys` with slashes
/// (`net/ipv4/ip_forward`) and its value.
///
/// Both spellings of sysctl(8) are understood: with dots, and, for interface names that
/// have dots, with slashes.
///
/// # Errors
/// [`SysctlError`] for the first parameter, by name, that is malformed or not the pod's.
pub fn pod_sysctls(config: &v1::PodSandboxConfig) -> Result<Vec<(String, String)>, SysctlError> {
    let Some(linux) = &config.linux else { return Ok(Vec::new()) };
    let options = super::pod_namespaces(config);
    let mut sysctls: Vec<_> = linux.sysctls.iter().collect();
    sysctls.sort();
    sysctls
        .into_iter()
        .map(|(name, value)| {
            let path = path(name).ok_or_else(|| SysctlError::Name { name: name.clone() })?;
            if !is_plain(value) {
                return Err(SysctlError::Value { name: name.clone() });
            }
            let (namespace, mode) = match namespace(&path) {
                Some(Namespace::Network) => ("network", options.network),
                Some(Namespace::Ipc) => ("ipc", options.ipc),
                None => return Err(SysctlError::NotNamespaced { name: name.clone() }),
            };
            if mode == i32::from(NamespaceMode::Node) {
                return Err(SysctlError::NodeNamespace { name: name.clone(), namespace });
            }
            Ok((path, value.clone()))
        })
        .collect()
}

/// Namespaces that have parameters. The host name has a field of its own.
enum Namespace {
    Network,
    Ipc,
}

fn namespace(path: &str) -> Option<Namespace> {
    let ipc = ["kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem"];
    let ipc_families = ["kernel/shm", "fs/mqueue/"];
    if path.starts_with("net/") {
        Some(Namespace::Network)
    } else if ipc.contains(&path) || ipc_families.iter().any(|family| path.starts_with(family)) {
        Some(Namespace::Ipc)
    } else {
        None
    }
}

/// The first separator decides: with a dot, dots separate and slashes are dots; with a
/// slash, it is a path already.
fn path(name: &str) -> Option<String> {
    let first = name.find(['.', '/'])?;
    let path: String = if name.get(first..)?.starts_with('/') {
        name.to_owned()
    } else {
        let swap = |letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        name.chars().map(swap).collect()
    };
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'@')
            })
    };
    path.split('/').all(plain).then_some(path)
}

/// One space or tab between words is needed: `net.ipv4.ip_local_port_range` has two.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value.trim() == value
        && value
            .bytes()
            .all(|byte| (byte.is_ascii_graphic() && byte != b'+') || matches!(byte, b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
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
            (
                "net.ipv4.ip_local_port_range",
                "1024 65000",
                "net/ipv4/ip_local_port_range=1024 65000",
            ),
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
        for value in ["", " ", "1 ", " 1", "1\n2", "1+kernel.core_pattern=|/x", "1\0", "ü", "1\r"]
        {
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
}
