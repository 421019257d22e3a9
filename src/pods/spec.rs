//! CRI configuration and image configuration to an OCI runtime spec.
//!
//! The rules are pure functions of their inputs: no file is read, no host state is asked
//! for, so that each rule is a line in a table of tests and the same request gives the same
//! spec on every node. What the rules need to know about the node arrives in `Node`
//! (found out in `host`, the one file that looks), what they need from the image's root
//! file system in `UserFiles`.
//!
//! Invariants:
//! - The spec is built field by field; no default of the OCI crate reaches it.
//! - Labels and annotations of pod, container or image never become configuration.
//! - Numbers from images and requests are range-checked before they become ids.
//!
//! # References
//! - [OCI runtime-spec, config](https://github.com/opencontainers/runtime-spec/blob/main/config.md)
//! - [CRI](https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto)

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use cri_api::v1;
use oci_spec::{
    image::ImageConfiguration,
    runtime::{Capability, Linux, PosixRlimit, Root, Spec},
};
use sandbox::protocol::UserNamespace;

mod capabilities;
mod devices;
mod environment;
mod files;
mod host;
mod log_path;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
mod security;
mod selinux;
mod stop_signal;
mod sysctls;
mod users;

pub use self::{
    capabilities::CapabilityError,
    devices::DeviceError,
    environment::EnvironmentError,
    files::{FileError, hostname_file, hosts_file, resolv_conf},
    host::{DetectError, host_devices, loaded_profiles},
    log_path::{LogPathError, log_path},
    mounts::{
        ImageMountError, MountError, RecursiveReadOnlyError, check_image_mount, image_volume_paths,
    },
    namespaces::{
        NamespaceError, check_container_namespaces, check_pod_namespaces, user_namespace,
    },
    process::ProcessError,
    resources::{Change, Progress, ResourceError, change, effective, resources},
    seccomp::{SeccompError, default_profile},
    security::{DEFAULT_APPARMOR_PROFILE, SecurityError},
    selinux::{SeLinux, SeLinuxError, level_of as selinux_level, relabelled},
    stop_signal::{StopSignal, StopSignalError, stop_signal},
    sysctls::{SysctlError, pod_sysctls},
    users::{ResolvedUser, UserError, image_user, resolve_user},
};

/// The version of the OCI runtime spec that is written. Nothing of a later one is used, and
/// OCI runtimes of long-term distributions refuse what calls itself later.
const OCI_VERSION: &str = "1.0.2";

/// Everything that decides a container's spec.
#[derive(Clone, Copy)]
pub struct ContainerInputs<'a> {
    /// The pod's configuration, as received by `RunPodSandbox`.
    pub pod: &'a v1::PodSandboxConfig,
    /// The container's configuration, as received by `CreateContainer`.
    pub container: &'a v1::ContainerConfig,
    /// The configuration of the container's image.
    pub image: &'a ImageConfiguration,
    /// The pod's id.
    pub pod_id: &'a str,
    /// The container's id.
    pub container_id: &'a str,
    /// The container's cgroup, already joined to the pod's parent.
    pub cgroup_path: &'a str,
    /// The pod's host name, as effective in its UTS namespace.
    pub hostname: &'a str,
    /// The namespaces the container joins.
    pub namespaces: &'a PodNamespaces,
    /// The image's user database.
    pub etc: UserFiles<'a>,
    /// Files that every container of the pod sees.
    pub files: &'a PodFiles,
    /// For each `VOLUME` of the image that got a directory of its own: container path to
    /// host path. A mount of the request on the same path wins.
    pub image_volumes: &'a [(PathBuf, PathBuf)],
    /// For each mount of the request that names an image: container path to the host path
    /// of that image's (sub)tree.
    pub image_mounts: &'a BTreeMap<String, PathBuf>,
    /// The `Localhost` seccomp profile that [`localhost_seccomp_path`] asked for.
    pub localhost_seccomp: Option<&'a [u8]>,
    /// Where commands in the container begin.
    pub exec_cpus: ExecCpus,
    /// The pod's SELinux level.
    pub selinux_level: Option<&'a str>,
    /// Facts about the node.
    pub node: &'a Node,
    /// Finds device nodes on the host: the device itself for a device path, every device
    /// below it for a directory.
    pub devices: &'a dyn Fn(&Path) -> io::Result<Vec<HostDevice>>,
    /// The names of the AppArmor profiles that are loaded now.
    pub apparmor_profiles: &'a dyn Fn() -> Vec<String>,
}

impl ContainerInputs<'_> {
    /// The pod's user namespace, if it has one.
    fn user_namespace(&self) -> Option<UserNamespace> {
        user_namespace(&pod_namespaces(self.pod))
    }
}

/// The namespaces of the pod, as a container sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNamespaces {
    /// Network.
    pub net: NamespaceSource,
    /// System V IPC and POSIX message queues.
    pub ipc: NamespaceSource,
    /// Host name.
    pub uts: NamespaceSource,
    /// Process ids.
    pub pid: PidNamespace,
}

/// Where a namespace shared by the pod's containers is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceSource {
    /// The node's own.
    Host,
    /// A namespace file, for example `/proc/<pid>/ns/net`.
    Path(PathBuf),
}

/// Which processes a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PidNamespace {
    /// Its own, in a new namespace.
    Container,
    /// Those of the pod, in the namespace at this path.
    Pod(PathBuf),
    /// All of the node.
    Node,
    /// Those of another container of the pod, in the namespace at this path.
    Target(PathBuf),
}

/// `/etc/passwd` and `/etc/group` of the image, read with a bound by the caller; empty
/// when the image has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserFiles<'a> {
    /// `/etc/passwd`.
    pub passwd: &'a [u8],
    /// `/etc/group`.
    pub group: &'a [u8],
}

/// Host paths of what the pod gives each of its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFiles {
    /// Becomes `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Becomes `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// Becomes `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// Becomes `/dev/shm`: the pod's tmpfs, or the node's `/dev/shm` with host IPC.
    pub shm: Option<PathBuf>,
}

/// Facts about the node that decide how a container is confined.
#[derive(Debug, Clone)]
pub struct Node {
    /// The bounding set of the process that starts containers.
    pub capabilities: Vec<Capability>,
    /// The cgroup hierarchy in use.
    pub cgroups: CgroupVersion,
    /// Whether swap can be limited.
    pub swap: SwapLimit,
    /// AppArmor.
    pub apparmor: AppArmor,
    /// What containers are for SELinux, where that is on.
    pub selinux: Option<SeLinux>,
    /// Whether the kernel can make a whole mount tree read-only (Linux 5.12).
    pub recursive_read_only: RecursiveReadOnly,
    /// The huge page sizes of the node, as in `hugetlb.<size>.max` (`2MB`, `1GB`).
    pub hugepage_sizes: Vec<String>,
    /// The limits every container starts with.
    pub rlimits: Vec<PosixRlimit>,
    /// The lowest `oom_score_adj` that can be set here: the starter's own value on a node
    /// without `CAP_SYS_RESOURCE`, else none.
    pub oom_score_adj_floor: Option<i32>,
}

/// The cgroup hierarchy in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// On which processors a command in a container is until it has joined its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecCpus {
    /// Any of the node's.
    Any,
    /// The first one of the container's cpuset, if it has one.
    First,
}

/// Limits on swap on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapLimit {
    /// The kernel keeps them.
    Available,
    /// It does not count swap; a limit would be refused, so none is set.
    Absent,
}

/// AppArmor on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppArmor {
    /// The kernel has it not, or it is off.
    Off,
    /// On.
    On,
}

/// Recursive read-only mounts on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecursiveReadOnly {
    /// `mount_setattr` with `AT_RECURSIVE` works.
    Supported,
    /// It does not.
    Unsupported,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Its path on the host.
    pub path: PathBuf,
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// How much of the node a container may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    /// Only what it was given.
    Ordinary,
    /// Everything.
    Privileged,
}

/// A request that no spec can be made of: what is wrong with it, by subject.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The user.
    #[error(transparent)]
    User(#[from] UserError),
    /// Command or working directory.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Environment variables.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// Capabilities.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// Privilege, AppArmor, guarded paths.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// SELinux.
    #[error(transparent)]
    SeLinux(#[from] SeLinuxError),
    /// Seccomp.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// Mounts.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Limits.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// Namespace options.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

impl SpecError {
    /// The word that the kubelet looks for at the start of the message, if it knows one for
    /// this error.
    ///
    /// # References
    /// - [Kubelet error names](https://github.com/kubernetes/cri-api/blob/master/pkg/errors/errors.go)
    #[must_use]
    pub fn kubelet_reason(&self) -> Option<&'static str> {
        match self {
            Self::Mount(MountError::RecursiveReadOnly(RecursiveReadOnlyError::Unsupported {
                ..
            })) => Some("RROUnsupported"),
            Self::Mount(MountError::Image(
                ImageMountError::NotAvailable { .. } | ImageMountError::NoSubPath { .. },
            )) => Some("ImageVolumeMountFailed"),
            _ => None,
        }
    }
}

/// Builds the spec of a container.
///
/// `root.path` is `rootfs`, relative to the bundle; `hostname` and `sysctl` are absent,
/// since they belong to the pod.
///
/// # Errors
/// [`SpecError`] names the part of the request that cannot be honoured; all of them are
/// the caller's to mend (`InvalidArgument`).
pub fn container_spec(inputs: &ContainerInputs<'_>) -> Result<Spec, SpecError> {
    let security = security_context(inputs.container);
    let privilege = security::privilege(inputs.pod, inputs.container)?;
    check_container_namespaces(
        &container_namespaces(inputs.container),
        &pod_namespaces(inputs.pod),
    )?;
    let capabilities = capabilities::capabilities(
        security.and_then(|security| security.capabilities.as_ref()),
        privilege,
        &inputs.node.capabilities,
    )?;
    let held = capabilities.effective().clone().unwrap_or_default();
    let process = process::process(inputs, capabilities)?;
    if let Some(user) = inputs.user_namespace() {
        namespaces::check_ids(&process, user)?;
    }
    let mut root = Root::default();
    root.set_path("rootfs".into())
        .set_readonly(Some(security.is_some_and(|security| security.readonly_rootfs)));

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts::mounts(inputs, privilege)?))
        .set_process(Some(process))
        .set_hostname(None)
        .set_domainname(None)
        .set_hooks(None)
        .set_annotations(Some(annotations(inputs)))
        .set_linux(Some(linux(inputs, privilege, &held)?))
        .set_solaris(None)
        .set_windows(None)
        .set_vm(None)
        .set_zos(None)
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    Ok(spec)
}

/// The `linux` section; every field is written, since the default fills some in.
fn linux(
    inputs: &ContainerInputs<'_>,
    privilege: Privilege,
    held: &HashSet<Capability>,
) -> Result<Linux, SpecError> {
    let security = security_context(inputs.container);
    let (masked, readonly) = security::guarded_paths(security, privilege)?;
    let (nodes, rules) = devices::devices(inputs, privilege)?;
    let request = inputs.container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let mut resources = resources(request.unwrap_or(&Default::default()), inputs.node)?;
    resources.set_devices(Some(rules));
    let seccomp = seccomp::seccomp(security, privilege, held, inputs.localhost_seccomp)?;

    let (uid_mappings, gid_mappings) = inputs.user_namespace().map(namespaces::id_mappings).unzip();
    let mut linux = Linux::default();
    linux
        .set_net_devices(None)
        .set_uid_mappings(uid_mappings)
        .set_gid_mappings(gid_mappings)
        .set_sysctl(None)
        .set_resources(Some(resources))
        .set_cgroups_path(Some(inputs.cgroup_path.into()))
        .set_namespaces(Some(namespaces::namespaces(
            inputs.namespaces,
            inputs.node.cgroups,
            privilege,
            inputs.user_namespace(),
        )))
        .set_devices(Some(nodes).filter(|nodes| !nodes.is_empty()))
        .set_seccomp(seccomp)
        .set_rootfs_propagation(mounts::root_propagation(&inputs.container.mounts))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly))
        .set_mount_label(selinux::file_label(
            security,
            inputs.node.selinux.as_ref(),
            inputs.selinux_level,
        )?)
        .set_intel_rdt(None)
        .set_memory_policy(None)
        .set_personality(None)
        .set_time_offsets(None);
    Ok(linux)
}

/// What sandboxed OCI runtimes (Kata, gVisor) read to tell a container from its pod. The
/// keys are theirs; the values are ours, never the request's annotations.
fn annotations(inputs: &ContainerInputs<'_>) -> HashMap<String, String> {
    let pod = inputs.pod.metadata.clone().unwrap_or_default();
    let name = inputs.container.metadata.clone().unwrap_or_default().name;
    [
        ("container-type", "container"),
        ("container-name", name.as_str()),
        ("sandbox-id", inputs.pod_id),
        ("sandbox-name", pod.name.as_str()),
        ("sandbox-namespace", pod.namespace.as_str()),
        ("sandbox-uid", pod.uid.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .collect()
}

/// The host path of the `Localhost` seccomp profile that the container asks for, to be
/// read by the caller into [`ContainerInputs::localhost_seccomp`].
#[must_use]
pub fn localhost_seccomp_path(container: &v1::ContainerConfig) -> Option<&Path> {
    seccomp::localhost_path(security_context(container)?).map(Path::new)
}

fn security_context(container: &v1::ContainerConfig) -> Option<&v1::LinuxContainerSecurityContext> {
    container.linux.as_ref()?.security_context.as_ref()
}

/// The namespace options of a container; absent ones mean "the pod's".
#[must_use]
pub fn container_namespaces(container: &v1::ContainerConfig) -> v1::NamespaceOption {
    let security = security_context(container);
    security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
}

/// The namespace options of a pod; absent ones mean "its own".
#[must_use]
pub fn pod_namespaces(pod: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    let security = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
}

/// What an image says about running it; absent and empty are the same.
#[derive(Debug, Clone, Copy)]
struct ImageSettings<'a> {
    user: &'a str,
    entrypoint: &'a [String],
    cmd: &'a [String],
    env: &'a [String],
    working_dir: &'a str,
    stop_signal: &'a str,
}

impl<'a> ImageSettings<'a> {
    const EMPTY: Self =
        Self { user: "", entrypoint: &[], cmd: &[], env: &[], working_dir: "", stop_signal: "" };

    fn of(image: &'a ImageConfiguration) -> Self {
        let Some(config) = image.config() else { return Self::EMPTY };
        Self {
            user: config.user().as_deref().unwrap_or_default(),
            entrypoint: config.entrypoint().as_deref().unwrap_or_default(),
            cmd: config.cmd().as_deref().unwrap_or_default(),
            env: config.env().as_deref().unwrap_or_default(),
            working_dir: config.working_dir().as_deref().unwrap_or_default(),
            stop_signal: config.stop_signal().as_deref().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
