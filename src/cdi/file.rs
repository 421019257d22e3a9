//! A file that describes devices of one kind: its format and what must be true of it.
//!
//! Fields that this version does not know are an error, as the specification has it: a
//! container must not start with less than its device needs. A file that uses a field must
//! say at least the version that brought it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::name::{is_device, is_kind, starts_with_letter};

/// The largest file that is read, in bytes. A node with hundreds of devices needs less.
const FILE_LIMIT: u64 = 8 << 20;

/// The versions that were released and that a file may say. The two before them meant
/// something else.
const VERSIONS: [Version; 8] =
    [(0, 3, 0), (0, 4, 0), (0, 5, 0), (0, 6, 0), (0, 7, 0), (0, 8, 0), (1, 0, 0), RDT_CHANGED];

/// What a device node's permissions say to have none.
pub(super) const NO_PERMISSIONS: &str = "none";

/// The version that took some fields of RDT away and brought others.
const RDT_CHANGED: Version = (1, 1, 0);

/// Major, minor, patch.
type Version = (u64, u64, u64);

/// A file that is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
    /// A directory with more files than anybody needs.
    #[error("it has too many files")]
    TooMany,
    /// A pipe, a socket, a directory.
    #[error("it is no regular file")]
    NoFile,
    /// Longer than [`FILE_LIMIT`].
    #[error("it is longer than {FILE_LIMIT} bytes")]
    TooLong,
    /// Not JSON of its kind.
    #[error("it is no CDI spec")]
    Json(#[source] serde_json::Error),
    /// Not YAML of its kind.
    #[error("it is no CDI spec")]
    Yaml(#[source] serde_saphyr::Error),
    /// A version that is none of [`VERSIONS`].
    #[error("cdiVersion {0:?} is not known")]
    Version(String),
    /// It uses what came later.
    #[error("it says cdiVersion {said:?} and uses what came with {}.{}.{}", needed.0, needed.1, needed.2)]
    TooOld {
        /// What it says.
        said: String,
        /// What it should.
        needed: (u64, u64, u64),
    },
    /// It uses what is no more.
    #[error("it says cdiVersion {said:?} and uses enableCMT or enableMBM, which it has no more")]
    Gone {
        /// What it says.
        said: String,
    },
    /// A value that does not say what it should.
    #[error("{field} {value:?} is not {allowed}")]
    Value {
        /// The field.
        field: &'static str,
        /// As given.
        value: String,
        /// What would be.
        allowed: &'static str,
    },
    /// There is nothing in it.
    #[error("it has no devices")]
    NoDevices,
    /// One name, two devices.
    #[error("it has two devices {0:?}")]
    Twice(String),
}

/// The file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SpecFile {
    pub(super) cdi_version: String,
    pub(super) kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    /// What every container with one of the devices needs.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    pub(super) container_edits: Edits,
}

/// What is changed in the OCI spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Edits {
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) device_nodes: Vec<DeviceNode>,
    #[serde(default)]
    pub(super) net_devices: Vec<NetDevice>,
    #[serde(default)]
    pub(super) hooks: Vec<Hook>,
    #[serde(default)]
    pub(super) mounts: Vec<Mount>,
    #[serde(default)]
    pub(super) intel_rdt: Option<IntelRdt>,
    #[serde(default)]
    pub(super) additional_gids: Vec<u32>,
}

/// A node in `/dev`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    pub(super) host_path: Option<String>,
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) major: i64,
    #[serde(default)]
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A network interface of the host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

/// A program to run at a point of the container's life.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: HookName,
    pub(super) path: String,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    /// Seconds.
    pub(super) timeout: Option<i64>,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum HookName {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// A file or directory of the host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

/// A class of cache and memory bandwidth.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID")]
    pub(super) clos_id: Option<String>,
    pub(super) l3_cache_schema: Option<String>,
    pub(super) mem_bw_schema: Option<String>,
    pub(super) schemata: Option<Vec<String>>,
    pub(super) enable_monitoring: Option<bool>,
    /// Until version 1.1.0.
    #[serde(rename = "enableCMT")]
    pub(super) enable_cmt: Option<bool>,
    /// Until version 1.1.0.
    #[serde(rename = "enableMBM")]
    pub(super) enable_mbm: Option<bool>,
}

/// Reads and checks a file.
pub(super) fn read(path: &Path) -> Result<SpecFile, FileError> {
    let mut bytes = Vec::new();
    // A pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(|errno| FileError::Read(errno.into()))?);
    if !file.metadata().map_err(FileError::Read)?.is_file() {
        return Err(FileError::NoFile);
    }
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(FileError::Read)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(FileError::TooLong);
    }
    let spec: SpecFile = if path.extension().is_some_and(|kind| kind == "json") {
        serde_json::from_slice(&bytes).map_err(FileError::Json)?
    } else {
        serde_saphyr::from_slice(&bytes).map_err(FileError::Yaml)?
    };
    spec.check()?;
    Ok(spec)
}

impl SpecFile {
    fn check(&self) -> Result<(), FileError> {
        let said = version(&self.cdi_version)
            .filter(|said| VERSIONS.contains(said))
            .ok_or_else(|| FileError::Version(self.cdi_version.clone()))?;
        check("kind", &self.kind, is_kind(&self.kind), "VENDOR/CLASS")?;
        if self.devices.is_empty() {
            return Err(FileError::NoDevices);
        }
        self.container_edits.check()?;
        for (number, device) in self.devices.iter().enumerate() {
            check("device name", &device.name, is_device(&device.name), "a name of a device")?;
            if self.devices[..number].iter().any(|earlier| earlier.name == device.name) {
                return Err(FileError::Twice(device.name.clone()));
            }
            device.container_edits.check()?;
        }
        let needed = self.needed_version();
        if said < needed {
            return Err(FileError::TooOld { said: self.cdi_version.clone(), needed });
        }
        if said >= RDT_CHANGED && self.all_edits().any(Edits::has_old_rdt) {
            return Err(FileError::Gone { said: self.cdi_version.clone() });
        }
        Ok(())
    }

    fn all_edits(&self) -> impl Iterator<Item = &Edits> {
        let of_devices = self.devices.iter().map(|device| &device.container_edits);
        std::iter::once(&self.container_edits).chain(of_devices)
    }

    /// The version that brought the newest thing of those that are used.
    fn needed_version(&self) -> Version {
        let any = |test: fn(&Edits) -> bool| self.all_edits().any(test);
        let newer_rdt = |edits: &Edits| {
            edits
                .intel_rdt
                .as_ref()
                .is_some_and(|rdt| rdt.schemata.is_some() || rdt.enable_monitoring.is_some())
        };
        let annotated = !self.annotations.is_empty()
            || self.devices.iter().any(|device| !device.annotations.is_empty());
        let class_has_dot = self.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'));
        let digit = self.devices.iter().any(|device| !starts_with_letter(&device.name));
        let host_path =
            |edits: &Edits| edits.device_nodes.iter().any(|one| one.host_path.is_some());
        [
            (RDT_CHANGED, any(|edits| !edits.net_devices.is_empty()) || any(newer_rdt)),
            (
                (0, 7, 0),
                any(|edits| edits.intel_rdt.is_some() || !edits.additional_gids.is_empty()),
            ),
            ((0, 6, 0), annotated || class_has_dot),
            ((0, 5, 0), digit || any(host_path)),
            ((0, 4, 0), any(|edits| edits.mounts.iter().any(|mount| mount.kind.is_some()))),
        ]
        .into_iter()
        .find_map(|(version, used)| used.then_some(version))
        .unwrap_or(VERSIONS[0])
    }
}

impl Edits {
    fn has_old_rdt(&self) -> bool {
        self.intel_rdt
            .as_ref()
            .is_some_and(|rdt| rdt.enable_cmt.is_some() || rdt.enable_mbm.is_some())
    }

    fn check(&self) -> Result<(), FileError> {
        for variable in &self.env {
            let named = variable.split_once('=').is_some_and(|(name, _)| !name.is_empty());
            check("env", variable, named, "NAME=VALUE")?;
        }
        for node in &self.device_nodes {
            check("deviceNodes.path", &node.path, !node.path.is_empty(), "a path")?;
            let kind = matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p");
            check("deviceNodes.type", &node.kind, kind, "one of b, c, u and p")?;
            let letters = node.permissions == NO_PERMISSIONS
                || node.permissions.chars().all(|letter| "rwm".contains(letter));
            check(
                "deviceNodes.permissions",
                &node.permissions,
                letters,
                "made of r, w and m, or none",
            )?;
        }
        for hook in &self.hooks {
            check("hooks.path", &hook.path, !hook.path.is_empty(), "a path")?;
            for variable in hook.env.iter().flatten() {
                check("hooks.env", variable, variable.contains('='), "NAME=VALUE")?;
            }
        }
        for mount in &self.mounts {
            check("mounts.hostPath", &mount.host_path, !mount.host_path.is_empty(), "a path")?;
            let place = &mount.container_path;
            check("mounts.containerPath", place, !place.is_empty(), "a path")?;
        }
        for (number, device) in self.net_devices.iter().enumerate() {
            let (name, earlier) = (&device.host_interface_name, &self.net_devices[..number]);
            check("netDevices.hostInterfaceName", name, !name.is_empty(), "an interface")?;
            check("netDevices.name", &device.name, !device.name.is_empty(), "an interface")?;
            let twice = earlier.iter().any(|one| one.host_interface_name == *name);
            check("netDevices.hostInterfaceName", name, !twice, "named once")?;
            let twice = earlier.iter().any(|one| one.name == device.name);
            check("netDevices.name", &device.name, !twice, "named once")?;
        }
        if let Some(class) = self.intel_rdt.as_ref().and_then(|rdt| rdt.clos_id.as_ref()) {
            let fine = !class.contains(['/', '\n']) && !matches!(class.as_str(), "." | "..");
            check("intelRdt.closID", class, fine && class.len() < 4096, "a name of a directory")?;
        }
        Ok(())
    }
}

fn check(
    field: &'static str,
    value: &str,
    holds: bool,
    allowed: &'static str,
) -> Result<(), FileError> {
    if holds { Ok(()) } else { Err(FileError::Value { field, value: value.to_owned(), allowed }) }
}

fn version(text: &str) -> Option<Version> {
    let mut numbers = text.strip_prefix('v').unwrap_or(text).split('.').map(str::parse);
    let parsed = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    numbers.next().is_none().then_some(parsed)
}
