//! What the network component is told at start.

use std::path::PathBuf;
use std::time::Duration;

use super::subnet::Subnet;

/// How pods get their network.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of CNI configurations; `None` always takes the built-in bridge.
    pub conf_dir: Option<PathBuf>,
    /// Directories searched for plugin executables, in order.
    pub plugin_dirs: Vec<PathBuf>,
    /// Private durable directory: one small file per CNI attachment, written before its ADD,
    /// so that a DEL can follow even when the daemon died in between.
    pub cache_dir: PathBuf,
    /// Private volatile directory of pinned network namespaces, `<netns_dir>/<pod id>`.
    pub netns_dir: PathBuf,
    /// What to do when `conf_dir` holds no configuration at all.
    pub when_unconfigured: WhenUnconfigured,
    /// Which of several addresses is the pod's primary one.
    pub primary: PrimaryAddress,
    /// The built-in bridge.
    pub bridge: BridgeConfig,
    /// How long one plugin may take. The kubelet gives up on RunPodSandbox after 4 minutes;
    /// a chain of plugins must fail visibly well before.
    pub plugin_timeout: Duration,
    /// How many plugin processes may run at once; further ones wait.
    pub plugins_max: usize,
}

impl Config {
    /// The defaults, with everything private below `root` (durable) and `state` (volatile).
    /// `root` also is what makes the names of this instance on the host its own.
    #[must_use]
    pub fn below(root: &std::path::Path, state: &std::path::Path) -> Self {
        Self {
            conf_dir: Some(PathBuf::from("/etc/cni/net.d")),
            plugin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            cache_dir: root.join("cni"),
            netns_dir: state.join("netns"),
            when_unconfigured: WhenUnconfigured::Bridge,
            primary: PrimaryAddress::Ipv4,
            bridge: BridgeConfig {
                instance: root.to_string_lossy().into_owned(),
                name: None,
                subnet: None,
                forwarding: Forwarding::Uplinks,
            },
            plugin_timeout: Duration::from_secs(60),
            plugins_max: 16,
        }
    }
}

/// What a node without any CNI configuration does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnconfigured {
    /// Pods are attached to the built-in bridge.
    Bridge,
    /// The network is not ready until a configuration appears.
    Wait,
}

/// Which address of a dual-stack pod comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrimaryAddress {
    /// The first IPv4 address.
    Ipv4,
    /// The first IPv6 address.
    Ipv6,
    /// The first address the plugins reported.
    AsReported,
}

/// The built-in bridge.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// What tells this daemon from others on the machine, usually its root directory. The
    /// names of bridge and nftables table are derived from it.
    pub instance: String,
    /// Name of the bridge interface, at most 15 bytes; `None` derives one.
    pub name: Option<String>,
    /// Addresses of the pods; `None` takes a /16 inside 10.0.0.0/8 that no route of the host
    /// overlaps.
    pub subnet: Option<Subnet>,
    /// Which interfaces of the host are made to forward.
    pub forwarding: Forwarding,
}

/// Which interfaces of the host forward IPv4 packets, so that pods reach beyond the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// The bridge and the interface of the default route (where the replies come in).
    Uplinks,
    /// Only the bridge; the administrator takes care of the rest.
    BridgeOnly,
}
