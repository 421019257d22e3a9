//! Device nodes of a container, and the rules that say which devices it may open.
//!
//! The rules always begin with "nothing". The nodes that every container has (`null`,
//! `zero`, ...) are made by the OCI runtime as its specification demands; the rules for
//! them are written out here, so that every OCI runtime applies the same.
//!
//! # References
//! - [OCI runtime-spec, devices](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#devices)

use std::{
    io,
    path::{Path, PathBuf},
};

use cri_api::v1;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{ContainerInputs, DeviceKind, HostDevice, Privilege};

/// Major and minor numbers every container may use: full, null, zero, random, urandom,
/// tty, ptmx, and the pseudo-terminals; `None` is any minor.
const ALLOWED: [(i64, Option<i64>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// A device that cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A path that is not one.
    #[error("device path {path:?} is not an absolute path without '..'")]
    Path {
        /// As given.
        path: String,
    },
    /// Permissions are letters of `rwm`, one at least.
    #[error("permissions {permissions:?} of device {path:?} are not made of r, w and m")]
    Permissions {
        /// The device's host path.
        path: String,
        /// As given.
        permissions: String,
    },
    /// The host path cannot be examined.
    #[error("cannot look up device {path:?}")]
    LookUp {
        /// The device's host path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The host path is, or holds, no device.
    #[error("{path:?} is not a device and has none below it")]
    None {
        /// The device's host path.
        path: PathBuf,
    },
    /// The device found is not below the path that was asked for.
    #[error("device {found:?} was found for {path:?}")]
    Elsewhere {
        /// The device's host path.
        path: PathBuf,
        /// What was found.
        found: PathBuf,
    },
}

/// The `linux.devices` section and the device rules of `linux.resources`.
pub(super) fn devices(
    inputs: &ContainerInputs<'_>,
    privilege: Privilege,
) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), DeviceError> {
    let mut nodes: Vec<LinuxDevice> = Vec::new();
    let mut rules = vec![rule(Access::Deny, LinuxDeviceType::A, (None, None), "rwm")];
    match privilege {
        Privilege::Privileged => {
            rules = vec![rule(Access::Allow, LinuxDeviceType::A, (None, None), "rwm")];
            let all = PathBuf::from("/dev");
            let found = (inputs.devices)(&all)
                .map_err(|source| DeviceError::LookUp { path: all, source })?;
            nodes.extend(found.iter().map(|host| node(host, host.path.clone())));
        }
        Privilege::Ordinary => rules.extend(default_rules()),
    }
    for device in &inputs.container.devices {
        let permissions = permissions(device)?;
        for (host, place) in found(device, inputs.devices)? {
            if privilege == Privilege::Ordinary {
                let numbers = (Some(host.major.into()), Some(host.minor.into()));
                rules.push(rule(Access::Allow, kind(host.kind), numbers, permissions));
            }
            nodes.retain(|earlier| *earlier.path() != place);
            nodes.push(node(&host, place));
        }
    }
    Ok((nodes, rules))
}

/// Making a node is harmless as long as it cannot be opened.
fn default_rules() -> impl Iterator<Item = LinuxDeviceCgroup> {
    let any = (None, None);
    [LinuxDeviceType::C, LinuxDeviceType::B]
        .into_iter()
        .map(move |kind| rule(Access::Allow, kind, any, "m"))
        .chain(ALLOWED.into_iter().map(|(major, minor)| {
            rule(Access::Allow, LinuxDeviceType::C, (Some(major), minor), "rwm")
        }))
}

/// The devices for one request, each with its path in the container.
fn found(
    device: &v1::Device,
    lister: &dyn Fn(&Path) -> io::Result<Vec<HostDevice>>,
) -> Result<Vec<(HostDevice, PathBuf)>, DeviceError> {
    let host_path = absolute(&device.host_path)?;
    let place = match device.container_path.as_str() {
        "" => host_path.clone(),
        path => absolute(path)?,
    };
    let devices = lister(&host_path)
        .map_err(|source| DeviceError::LookUp { path: host_path.clone(), source })?;
    if devices.is_empty() {
        return Err(DeviceError::None { path: host_path });
    }
    devices
        .into_iter()
        .map(|found| match found.path.strip_prefix(&host_path) {
            Ok(below) if below.as_os_str().is_empty() => Ok((found, place.clone())),
            Ok(below) => {
                let place = place.join(below);
                Ok((found, place))
            }
            Err(_not_below) => {
                Err(DeviceError::Elsewhere { path: host_path.clone(), found: found.path })
            }
        })
        .collect()
}

fn permissions(device: &v1::Device) -> Result<&str, DeviceError> {
    let letters = device.permissions.as_str();
    if !letters.is_empty() && letters.chars().all(|letter| "rwm".contains(letter)) {
        Ok(letters)
    } else {
        Err(DeviceError::Permissions {
            path: device.host_path.clone(),
            permissions: letters.to_owned(),
        })
    }
}

fn absolute(path: &str) -> Result<PathBuf, DeviceError> {
    let climbs = path.split('/').any(|part| part == "..");
    if path.starts_with('/') && !path.contains('\0') && !climbs {
        Ok(Path::new(path).components().collect())
    } else {
        Err(DeviceError::Path { path: path.to_owned() })
    }
}

fn node(host: &HostDevice, place: PathBuf) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(place)
        .set_typ(kind(host.kind))
        .set_major(host.major.into())
        .set_minor(host.minor.into())
        .set_file_mode(Some(host.mode & 0o7777))
        .set_uid(Some(host.uid))
        .set_gid(Some(host.gid));
    node
}

fn kind(kind: DeviceKind) -> LinuxDeviceType {
    match kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    }
}

#[derive(Clone, Copy)]
enum Access {
    Allow,
    Deny,
}

fn rule(
    access: Access,
    kind: LinuxDeviceType,
    (major, minor): (Option<i64>, Option<i64>),
    permissions: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(matches!(access, Access::Allow))
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(permissions.to_owned()));
    rule
}

#[cfg(test)]
mod tests;
