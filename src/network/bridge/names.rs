//! The names on the host: functions of the instance and of the pod id.

use sha2::{Digest, Sha256};

use crate::network::config::BridgeConfig;

/// What the names of all built-in bridges begin with.
pub(super) const BRIDGE_PREFIX: &str = "orlop-";
const PORT_PREFIX: &str = "orl";
/// 48 bits of the pod id; with the prefix exactly the 15 bytes a name may have.
const PORT_ID_BYTES: usize = 12;

/// The names of one instance.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// The bridge interface.
    pub(super) bridge: String,
    /// The nftables table.
    pub(super) table: String,
    /// A number that differs between instances.
    pub(super) spread: u8,
}

impl Names {
    pub(super) fn of(config: &BridgeConfig) -> Self {
        let digest = Sha256::digest(config.instance.as_bytes());
        let tag: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let table = format!("{BRIDGE_PREFIX}{tag}");
        Self {
            bridge: config.name.clone().unwrap_or_else(|| table.clone()),
            table,
            spread: digest.first().copied().unwrap_or_default(),
        }
    }
}

/// The host's end of a pod's pair.
pub(super) fn host_interface(pod: &str) -> String {
    let id: String = pod.chars().filter(char::is_ascii_alphanumeric).take(PORT_ID_BYTES).collect();
    format!("{PORT_PREFIX}{id}")
}

/// Whether an interface is named like the host's end of a pod's pair.
pub(super) fn is_host_interface(name: &str) -> bool {
    name.starts_with(PORT_PREFIX) && !name.starts_with(BRIDGE_PREFIX)
}
