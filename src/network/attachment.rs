//! What a pod asks of the network, and what it got.
//!
//! An [`Attachment`] carries everything a later DEL needs, so that the pod's record is enough
//! to release it: with the configuration edited or removed, after a restart, after a reboot.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::subnet::Subnet;

/// The interface every pod gets.
pub const INTERFACE: &str = "eth0";

/// One pod, as the network sees it.
#[derive(Debug, Clone, Default)]
pub struct PodNetwork {
    /// The pod's id, 64 lower-case hex; every name on the host is derived from it.
    pub id: String,
    /// The pod's name.
    pub name: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's uid.
    pub uid: String,
    /// The pinned network namespace; `None` when it is gone (only allowed for DEL).
    pub netns: Option<PathBuf>,
    /// Ports of the host that lead to the pod; those with host port 0 are left out.
    pub port_mappings: Vec<PortMapping>,
    /// The pod's DNS configuration, for plugins that declare the capability.
    pub dns: Dns,
    /// Limits parsed by [`Bandwidth::from_annotations`].
    pub bandwidth: Bandwidth,
    /// The pod's cgroup, for plugins that declare the capability.
    pub cgroup_path: Option<String>,
    /// The pod's annotations, for plugins that declare the capability.
    pub annotations: BTreeMap<String, String>,
}

/// A transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The port in the pod.
    pub container_port: u16,
    /// The port of the host; 0 maps nothing.
    pub host_port: u16,
    /// The address of the host; `None` is every one.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// DNS settings, in CNI's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers, most preferred first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains tried for short names.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub options: Vec<String>,
}

/// Go writes an empty list as `null`.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Limits on a pod's traffic, in bits per second; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Towards the pod.
    pub ingress_bits: Option<u64>,
    /// From the pod.
    pub egress_bits: Option<u64>,
}

/// An attached pod, as stored in its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The interface in the pod.
    pub interface: String,
    /// The pod's addresses, the primary one first; never empty.
    pub ips: Vec<IpAddr>,
    /// The interface's hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The next hop of the pod's default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// DNS settings the network asks for.
    #[serde(default)]
    pub dns: Dns,
    /// What made it, and what it needs to unmake it.
    pub origin: Origin,
}

impl Attachment {
    /// The address the pod is known by.
    #[must_use]
    pub fn primary(&self) -> Option<IpAddr> {
        self.ips.first().copied()
    }

    /// The further addresses.
    pub fn additional(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ips.iter().skip(1).copied()
    }
}

/// What made an attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// CNI plugins.
    Cni(CniAttachment),
    /// The built-in bridge.
    Bridge(BridgeAttachment),
}

/// What CNI plugins need to be called again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CniAttachment {
    /// The network configuration list as used for ADD.
    pub config: Value,
    /// The values offered to plugins that declare the capability.
    pub capabilities: BTreeMap<String, Value>,
    /// `CNI_ARGS`.
    pub args: String,
    /// The result of ADD as the last plugin printed it; `None` when ADD did not finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// What the built-in bridge remembers of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BridgeAttachment {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The subnet it is in.
    pub subnet: Subnet,
    /// The host's end of the pair.
    pub host_interface: String,
    /// The ports of the host that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
}
