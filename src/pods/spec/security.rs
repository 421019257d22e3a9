//! What confines a container besides namespaces: mandatory access control labels, masked
//! and read-only paths of `/proc` and `/sys`.
//!
//! # References
//! - [OCI runtime-spec, masked paths](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#masked-paths)
//! - [AppArmor](https://docs.kernel.org/admin-guide/LSM/apparmor.html)

use cri_api::v1::{self, security_profile::ProfileType};

use super::{AppArmor, Privilege};

/// The name of the AppArmor profile that `RuntimeDefault` means.
pub const DEFAULT_APPARMOR_PROFILE: &str = "orlop-default";

/// Files of `/proc` and `/sys` that tell about, or act on, the node. Used when a container
/// has no security context at all; the kubelet always sends its own list.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Parts of `/proc` that may be read but not written; see [`MASKED_PATHS`].
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A label or profile that cannot be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecurityError {
    /// The pod is not privileged, so that none of its containers may be.
    #[error("the container is privileged but its pod is not")]
    PrivilegedInOrdinaryPod,
    /// A kind of profile that this version does not know.
    #[error("{what} profile {profile} is unknown")]
    UnknownProfile {
        /// `AppArmor` or `seccomp`.
        what: &'static str,
        /// As given.
        profile: String,
    },
    /// The node has no AppArmor.
    #[error("AppArmor profile {profile:?} is asked for but AppArmor is off on this node")]
    AppArmorOff {
        /// The profile.
        profile: String,
    },
    /// The kernel does not know the profile.
    #[error("AppArmor profile {profile:?} is not loaded")]
    AppArmorNotLoaded {
        /// The profile.
        profile: String,
    },
    /// A masked or read-only path that names no file of the container.
    #[error("{list} entry {path:?} is not an absolute path without '..'")]
    Path {
        /// `masked_paths` or `readonly_paths`.
        list: &'static str,
        /// As given.
        path: String,
    },
}

/// A profile as requested, in the form that replaced the string form.
pub(super) enum Profile<'a> {
    RuntimeDefault,
    Unconfined,
    Localhost(&'a str),
}

impl<'a> Profile<'a> {
    /// The request's profile; the deprecated string only counts without the message.
    pub(super) fn parse(
        what: &'static str,
        profile: Option<&'a v1::SecurityProfile>,
        deprecated: &'a str,
    ) -> Result<Option<Self>, SecurityError> {
        let unknown = |profile: String| SecurityError::UnknownProfile { what, profile };
        if let Some(profile) = profile {
            let kind = ProfileType::try_from(profile.profile_type)
                .map_err(|_unknown| unknown(format!("type {}", profile.profile_type)))?;
            return Ok(Some(match kind {
                ProfileType::RuntimeDefault => Self::RuntimeDefault,
                ProfileType::Unconfined => Self::Unconfined,
                ProfileType::Localhost => {
                    let name = profile.localhost_ref.as_str();
                    Self::Localhost(name.strip_prefix("localhost/").unwrap_or(name))
                }
            }));
        }
        match deprecated {
            "" => Ok(None),
            "runtime/default" | "docker/default" => Ok(Some(Self::RuntimeDefault)),
            "unconfined" => Ok(Some(Self::Unconfined)),
            other => match other.strip_prefix("localhost/") {
                Some(name) => Ok(Some(Self::Localhost(name))),
                None => Err(unknown(format!("{other:?}"))),
            },
        }
    }
}

/// Whether the container is privileged, which its pod must allow.
pub(super) fn privilege(
    pod: &v1::PodSandboxConfig,
    container: &v1::ContainerConfig,
) -> Result<Privilege, SecurityError> {
    if !super::security_context(container).is_some_and(|security| security.privileged) {
        return Ok(Privilege::Ordinary);
    }
    let pod = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    if pod.is_some_and(|security| security.privileged) {
        Ok(Privilege::Privileged)
    } else {
        Err(SecurityError::PrivilegedInOrdinaryPod)
    }
}

/// The AppArmor profile to switch to at exec.
pub(super) fn apparmor_profile(
    security: Option<&v1::LinuxContainerSecurityContext>,
    apparmor: AppArmor,
    loaded: &dyn Fn() -> Vec<String>,
) -> Result<Option<String>, SecurityError> {
    if security.is_some_and(|security| security.privileged) {
        return Ok(None);
    }
    let requested = match security {
        Some(security) => {
            #[expect(deprecated, reason = "older clients send the string only")]
            let deprecated = &security.apparmor_profile;
            Profile::parse("AppArmor", security.apparmor.as_ref(), deprecated)?
        }
        None => None,
    };
    match (requested, apparmor) {
        (Some(Profile::Localhost(name)), AppArmor::Off) => {
            Err(SecurityError::AppArmorOff { profile: name.to_owned() })
        }
        (_, AppArmor::Off) => Ok(None),
        (Some(Profile::Unconfined), AppArmor::On) => Ok(Some("unconfined".to_owned())),
        (Some(Profile::Localhost(name)), AppArmor::On) => is_loaded(name, &loaded()),
        (Some(Profile::RuntimeDefault), AppArmor::On) => {
            is_loaded(DEFAULT_APPARMOR_PROFILE, &loaded())
        }
        // Nobody asked, so that a missing profile is no reason to refuse.
        (None, AppArmor::On) => Ok(is_loaded(DEFAULT_APPARMOR_PROFILE, &loaded()).ok().flatten()),
    }
}

fn is_loaded(name: &str, loaded: &[String]) -> Result<Option<String>, SecurityError> {
    if loaded.iter().any(|profile| profile == name) {
        Ok(Some(name.to_owned()))
    } else {
        Err(SecurityError::AppArmorNotLoaded { profile: name.to_owned() })
    }
}

/// Masked and read-only paths, in this order.
pub(super) fn guarded_paths(
    security: Option<&v1::LinuxContainerSecurityContext>,
    privilege: Privilege,
) -> Result<(Vec<String>, Vec<String>), SecurityError> {
    match (privilege, security) {
        (Privilege::Privileged, _) => Ok((Vec::new(), Vec::new())),
        (Privilege::Ordinary, None) => {
            Ok((MASKED_PATHS.map(str::to_owned).into(), READONLY_PATHS.map(str::to_owned).into()))
        }
        (Privilege::Ordinary, Some(security)) => Ok((
            checked("masked_paths", &security.masked_paths)?,
            checked("readonly_paths", &security.readonly_paths)?,
        )),
    }
}

fn checked(list: &'static str, paths: &[String]) -> Result<Vec<String>, SecurityError> {
    let bad = |path: &&String| {
        !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..")
    };
    match paths.iter().find(bad) {
        Some(path) => Err(SecurityError::Path { list, path: path.clone() }),
        None => Ok(paths.to_vec()),
    }
}

#[cfg(test)]
mod tests;
