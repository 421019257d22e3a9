//! What a request must have to be acted on.
//!
//! Everything that can be said of a request by looking at it is said here, before anything
//! is taken for it; the message names the field. All of it is `InvalidArgument`. What needs
//! the image or the node is said when the container's spec is made.

use std::net::IpAddr;

use cri_api::v1;

use crate::pods::spec::{
    self, FileError, LogPathError, NamespaceError, StopSignalError, SysctlError,
};

/// A request that nothing can be done for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidRequest {
    /// A field that is needed.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number that is no value of its enumeration.
    #[error("{field} is {value}, which no {kind} is")]
    Enum {
        /// The field.
        field: &'static str,
        /// As given.
        value: i32,
        /// The enumeration.
        kind: &'static str,
    },
    /// A number that is out of bounds.
    #[error("{field} is {value}, which is not {allowed}")]
    Number {
        /// The field.
        field: &'static str,
        /// As given.
        value: i64,
        /// What would be.
        allowed: &'static str,
    },
    /// A text that does not say what it should.
    #[error("{field} {value:?} is not {allowed}")]
    Text {
        /// The field.
        field: &'static str,
        /// As given.
        value: String,
        /// What would be.
        allowed: &'static str,
    },
    /// More than a list could give back.
    #[error("{field} has {bytes} bytes, more than {PAIRS_BYTES_MAX}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// How many.
        bytes: usize,
    },
    /// Two wishes that exclude each other, or none.
    #[error("{0}")]
    Streams(&'static str),
    /// Namespace options.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Kernel parameters.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Host name or DNS.
    #[error(transparent)]
    File(#[from] FileError),
    /// Log path.
    #[error(transparent)]
    LogPath(#[from] LogPathError),
    /// Stop signal.
    #[error(transparent)]
    StopSignal(#[from] StopSignalError),
}

/// How long labels, and annotations, may be in all, keys included. Kubernetes allows 256 KiB
/// of annotations; a list of what is longer could not be read by clients with small buffers.
const PAIRS_BYTES_MAX: usize = 1 << 20;

type Checked<T> = Result<T, InvalidRequest>;

/// The configuration of `RunPodSandbox`, complete and consistent.
///
/// # Errors
/// The first fault found.
pub fn run_pod_sandbox(
    request: v1::RunPodSandboxRequest,
) -> Checked<(v1::PodSandboxConfig, String)> {
    let config = request.config.ok_or(InvalidRequest::Missing("config"))?;
    let metadata = config.metadata.as_ref().ok_or(InvalidRequest::Missing("config.metadata"))?;
    for (field, value) in [
        ("config.metadata.name", &metadata.name),
        ("config.metadata.namespace", &metadata.namespace),
        ("config.metadata.uid", &metadata.uid),
    ] {
        named(field, value)?;
    }
    labelled(&config.labels, &config.annotations)?;
    if !config.hostname.is_empty() {
        spec::hostname_file(&config.hostname)?;
    }
    let directory = &config.log_directory;
    if !directory.is_empty() {
        // Any container of the pod will be refused otherwise, which is late.
        let container = v1::ContainerConfig { log_path: "0.log".into(), ..Default::default() };
        spec::log_path(&config, &container)?;
    }
    spec::resolv_conf(config.dns_config.as_ref())?;
    config.port_mappings.iter().try_for_each(port_mapping)?;
    spec::check_pod_namespaces(&spec::pod_namespaces(&config))?;
    spec::pod_sysctls(&config)?;
    if let Some(linux) = &config.linux {
        pod_linux(linux)?;
    }
    Ok((config, request.runtime_handler))
}

/// The configuration of `CreateContainer` and the id of its pod.
///
/// # Errors
/// The first fault found.
pub fn create_container(
    request: v1::CreateContainerRequest,
) -> Checked<(String, v1::ContainerConfig)> {
    present("pod_sandbox_id", &request.pod_sandbox_id)?;
    let config = request.config.ok_or(InvalidRequest::Missing("config"))?;
    container(&config)?;
    if let Some(pod) = &request.sandbox_config {
        spec::log_path(pod, &config)?;
    }
    Ok((request.pod_sandbox_id, config))
}

/// Checks the configuration of a container.
///
/// # Errors
/// The first fault found.
pub fn container(config: &v1::ContainerConfig) -> Checked<()> {
    let metadata = config.metadata.as_ref().ok_or(InvalidRequest::Missing("config.metadata"))?;
    named("config.metadata.name", &metadata.name)?;
    labelled(&config.labels, &config.annotations)?;
    let image = config.image.as_ref().ok_or(InvalidRequest::Missing("config.image"))?;
    present("config.image.image", &image.image)?;
    v1::Signal::try_from(config.stop_signal)
        .map_err(|_unknown| StopSignalError::Request(config.stop_signal))?;
    if let Some(path) = spec::localhost_seccomp_path(config)
        && !path.is_absolute()
    {
        return Err(InvalidRequest::Text {
            field: "seccomp.localhost_ref",
            value: path.to_string_lossy().into_owned(),
            allowed: "an absolute path",
        });
    }
    Ok(())
}

/// The id and the new limits of `UpdateContainerResources`.
///
/// # Errors
/// One of them is missing.
pub fn update_container_resources(
    request: v1::UpdateContainerResourcesRequest,
) -> Checked<(String, v1::LinuxContainerResources)> {
    present("container_id", &request.container_id)?;
    let linux = request.linux.ok_or(InvalidRequest::Missing("linux"))?;
    Ok((request.container_id, linux))
}

/// The grace period of `StopContainer`, in seconds.
///
/// # Errors
/// The id is empty or the period negative.
pub fn stop_container(request: &v1::StopContainerRequest) -> Checked<u64> {
    present("container_id", &request.container_id)?;
    seconds("timeout", request.timeout)
}

/// The time limit of `ExecSync`, in seconds; none without a limit.
///
/// # Errors
/// The id or the command is empty, or the limit negative.
pub fn exec_sync(request: &v1::ExecSyncRequest) -> Checked<Option<u64>> {
    present("container_id", &request.container_id)?;
    command(&request.cmd)?;
    Ok(Some(seconds("timeout", request.timeout)?).filter(|limit| *limit > 0))
}

/// The limit of `CheckpointContainer` in seconds, if it sets one.
///
/// # Errors
/// The id or the location is empty, or the limit negative.
pub fn checkpoint_container(request: &v1::CheckpointContainerRequest) -> Checked<Option<u64>> {
    present("container_id", &request.container_id)?;
    present("location", &request.location)?;
    Ok(Some(seconds("timeout", request.timeout)?).filter(|limit| *limit > 0))
}

/// Checks `Exec`.
///
/// # Errors
/// The id or the command is empty, or the streams make no sense.
pub fn exec(request: &v1::ExecRequest) -> Checked<()> {
    present("container_id", &request.container_id)?;
    command(&request.cmd)?;
    streams(request.tty, request.stdin, request.stdout, request.stderr)
}

/// Checks `Attach`.
///
/// # Errors
/// The id is empty or the streams make no sense.
pub fn attach(request: &v1::AttachRequest) -> Checked<()> {
    present("container_id", &request.container_id)?;
    streams(request.tty, request.stdin, request.stdout, request.stderr)
}

/// The ports of `PortForward`. Clients may also leave them to each connection.
///
/// # Errors
/// The id is empty, or a number is no port.
pub fn port_forward(request: &v1::PortForwardRequest) -> Checked<Vec<u16>> {
    present("pod_sandbox_id", &request.pod_sandbox_id)?;
    let port = |port: &i32| match u16::try_from(*port) {
        Ok(port @ 1..) => Ok(port),
        Ok(0) | Err(_) => Err(InvalidRequest::Number {
            field: "port",
            value: i64::from(*port),
            allowed: "a number from 1 to 65535",
        }),
    };
    request.port.iter().map(port).collect()
}

/// A value of an enumeration of CRI.
///
/// # Errors
/// [`InvalidRequest::Enum`] if it has no such value.
pub fn state<E: TryFrom<i32>>(field: &'static str, value: i32) -> Checked<E> {
    let path = std::any::type_name::<E>();
    let kind = path.rsplit("::").next().unwrap_or(path);
    E::try_from(value).map_err(|_unknown| InvalidRequest::Enum { field, value, kind })
}

/// A field that must not be empty.
///
/// # Errors
/// [`InvalidRequest::Missing`] if it is.
pub fn present(field: &'static str, value: &str) -> Checked<()> {
    if value.is_empty() { Err(InvalidRequest::Missing(field)) } else { Ok(()) }
}

/// A name must not be empty. It is shown in tables and handed to plugins, line by line.
fn named(field: &'static str, value: &str) -> Checked<()> {
    present(field, value)?;
    plain(field, value)
}

fn plain(field: &'static str, value: &str) -> Checked<()> {
    if value.chars().any(char::is_control) {
        let (value, allowed) = (value.to_owned(), "free of control characters");
        return Err(InvalidRequest::Text { field, value, allowed });
    }
    Ok(())
}

type Pairs = std::collections::HashMap<String, String>;

fn labelled(labels: &Pairs, annotations: &Pairs) -> Checked<()> {
    for (field, pairs) in [("config.labels", labels), ("config.annotations", annotations)] {
        let bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > PAIRS_BYTES_MAX {
            return Err(InvalidRequest::TooLong { field, bytes });
        }
    }
    Ok(())
}

fn port_mapping(mapping: &v1::PortMapping) -> Checked<()> {
    state::<v1::Protocol>("port_mappings.protocol", mapping.protocol)?;
    for (field, value) in [
        ("port_mappings.container_port", mapping.container_port),
        ("port_mappings.host_port", mapping.host_port),
    ] {
        // A host port of zero or less means that none is wanted.
        if value > i32::from(u16::MAX) || (field.ends_with("container_port") && value < 0) {
            return Err(InvalidRequest::Number {
                field,
                value: value.into(),
                allowed: "a port number",
            });
        }
    }
    if mapping.host_ip.is_empty() || mapping.host_ip.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(InvalidRequest::Text {
        field: "port_mappings.host_ip",
        value: mapping.host_ip.clone(),
        allowed: "an IP address",
    })
}

fn pod_linux(linux: &v1::LinuxPodSandboxConfig) -> Checked<()> {
    let parent = &linux.cgroup_parent;
    plain("linux.cgroup_parent", parent)?;
    if parent.split('/').any(|part| part == "..") {
        return Err(InvalidRequest::Text {
            field: "linux.cgroup_parent",
            value: parent.clone(),
            allowed: "a cgroup path without '..'",
        });
    }
    let Some(security) = &linux.security_context else { return Ok(()) };
    let policy = security.supplemental_groups_policy;
    state::<v1::SupplementalGroupsPolicy>("supplemental_groups_policy", policy)?;
    for (field, profile) in
        [("seccomp.profile_type", &security.seccomp), ("apparmor.profile_type", &security.apparmor)]
    {
        if let Some(profile) = profile {
            state::<v1::security_profile::ProfileType>(field, profile.profile_type)?;
        }
    }
    if let (Some(gid), None) = (security.run_as_group, security.run_as_user) {
        return Err(InvalidRequest::Number {
            field: "run_as_group",
            value: gid.value,
            allowed: "of use without run_as_user",
        });
    }
    Ok(())
}

fn command(command: &[String]) -> Checked<()> {
    match command.first() {
        Some(program) if !program.is_empty() => {
            match command.iter().find(|word| word.contains('\0')) {
                Some(word) => Err(InvalidRequest::Text {
                    field: "cmd",
                    value: word.clone(),
                    allowed: "free of NUL",
                }),
                None => Ok(()),
            }
        }
        _ => Err(InvalidRequest::Missing("cmd")),
    }
}

fn seconds(field: &'static str, value: i64) -> Checked<u64> {
    u64::try_from(value).map_err(|_negative| InvalidRequest::Number {
        field,
        value,
        allowed: "a number of seconds",
    })
}

/// A terminal has one output, and somebody must speak or listen.
#[expect(clippy::fn_params_excessive_bools, reason = "the four fields, as the messages have them")]
fn streams(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Checked<()> {
    match (tty, stderr) {
        (true, true) => Err(InvalidRequest::Streams("tty and stderr cannot both be true")),
        _ if !(stdin || stdout || stderr) => {
            Err(InvalidRequest::Streams("one of stdin, stdout and stderr must be true"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
