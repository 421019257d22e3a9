//! CRI configuration and image configuration to an OCI runtime spec.
//!
//! Everything here is a pure function of its inputs: no file is read, no host state is
//! asked for, so that each rule is a line in a table of tests and the same request gives
//! the same spec on every node. What the rules need to know about the node arrives in
//! [`Node`], what they need from the image's root file system in [`UserFiles`].
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
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use cri_api::v1;
use oci_spec::{
    image::ImageConfiguration,
    runtime::{Capability, PosixRlimit, Spec},
};

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
    /// Facts about the node.
    pub node: &'a Node,
    /// Finds device nodes on the host: the device itself for a device path, every device
    /// below it for a directory.
    pub devices: &'a dyn Fn(&Path) -> io::Result<Vec<HostDevice>>,
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
    /// AppArmor.
    pub apparmor: AppArmor,
    /// SELinux.
    pub selinux: SeLinux,
    /// Whether the kernel can make a whole mount tree read-only (Linux 5.12).
    pub recursive_read_only: RecursiveReadOnly,
    /// What a privileged container sees in `/dev`.
    pub host_devices: Vec<HostDevice>,
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

/// AppArmor on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppArmor {
    /// The kernel has it not, or it is off.
    Off,
    /// On, with the names of the loaded profiles.
    On {
        /// Names of the loaded profiles.
        loaded: Vec<String>,
    },
}

/// SELinux on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeLinux {
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

/// A request that no spec can be made of.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not written yet.
    #[error("the spec cannot be built yet")]
    Unfinished,
}

/// Builds the spec of a container.
///
/// `root.path` is `rootfs`, relative to the bundle; `hostname` and `sysctl` are absent,
/// since they belong to the pod.
///
/// # Errors
/// [`SpecError`] names the part of the request that cannot be honoured; all of them are
/// the caller's to mend (`InvalidArgument`).
pub fn container_spec(_inputs: &ContainerInputs<'_>) -> Result<Spec, SpecError> {
    Err(SpecError::Unfinished)
}

/// The host path of the `Localhost` seccomp profile that the container asks for, to be
/// read by the caller into [`ContainerInputs::localhost_seccomp`].
#[must_use]
pub fn localhost_seccomp_path(container: &v1::ContainerConfig) -> Option<&Path> {
    let seccomp = container.linux.as_ref()?.security_context.as_ref()?.seccomp.as_ref()?;
    (seccomp.profile_type() == v1::security_profile::ProfileType::Localhost)
        .then(|| Path::new(seccomp.localhost_ref.as_str()))
}
