//! A network by the distribution's CNI plugins, of its own for each use.
//!
//! Bridge name, address range and the plugins' data directory are derived from the
//! test's directory, so that several run at once. The bridge is deleted on drop.
//!
//! # References
//! - [CNI specification](https://github.com/containernetworking/cni/blob/main/SPEC.md)

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use crate::process::output;

/// Where the distribution installs the plugins.
pub const PLUGINS: &str = "/usr/lib/cni";

/// A configuration directory with one network in it.
#[derive(Debug)]
pub struct Cni {
    /// The directory for `[network] conf_dir`.
    pub conf_dir: PathBuf,
    bridge: String,
}

impl Cni {
    /// Writes a network configuration below `directory`: bridge, host-local, portmap.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(directory: &Path, number: u8) -> Result<Self> {
        let bridge = format!("orlope2e{number}");
        let conf_dir = directory.join("cni");
        fs::create_dir_all(&conf_dir)?;
        let conflist = json!({ "cniVersion": "1.0.0", "name": bridge, "plugins": [
            { "type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
              "ipam": { "type": "host-local", "dataDir": directory.join("ipam"),
                        "ranges": [[{ "subnet": format!("10.213.{number}.0/24") }]],
                        "routes": [{ "dst": "0.0.0.0/0" }] } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ]});
        fs::write(conf_dir.join("10-bridge.conflist"), serde_json::to_vec_pretty(&conflist)?)?;
        Ok(Self { conf_dir, bridge })
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        let _never_made = output("ip", &["link", "delete", &self.bridge]);
    }
}
