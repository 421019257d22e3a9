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
mod tests;
