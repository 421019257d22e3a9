//! Which namespaces a container joins or makes.
//!
//! # References
//! - [OCI runtime-spec, namespaces](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#namespaces)

use std::path::{Path, PathBuf};

use cri_api::v1;
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Process,
};
use sandbox::protocol::UserNamespace;

use super::{CgroupVersion, NamespaceSource, PidNamespace, PodNamespaces, Privilege};

/// Namespace options that cannot be honoured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NamespaceError {
    /// A mode that this version does not know.
    #[error("{namespace} namespace mode {mode} is unknown")]
    UnknownMode {
        /// Which namespace.
        namespace: &'static str,
        /// The number.
        mode: i32,
    },
    /// A mode that has no meaning for this namespace.
    #[error("{namespace} namespace mode {mode:?} is not allowed here")]
    Mode {
        /// Which namespace.
        namespace: &'static str,
        /// The mode.
        mode: v1::NamespaceMode,
    },
    /// Mode `TARGET` without a container to share with, or the reverse.
    #[error("target_id and the pid namespace mode TARGET must be set together")]
    Target,
    /// The node's user namespace has no mappings.
    #[error("id mappings are given for the node's user namespace")]
    MappingsForNode,
    /// A user namespace needs one range of each kind, with root in it.
    #[error(
        "a user namespace needs exactly one uid and one gid mapping, from container id 0, of one id or more"
    )]
    Mappings,
    /// The container's user namespace is another one than the pod's.
    #[error("the container's user namespace options differ from the pod's")]
    UserDiffersFromPod,
    /// The root of a user namespace has no rights in a namespace of the node.
    #[error("a pod with a user namespace cannot use the node's {namespace} namespace")]
    NodeWithUser {
        /// Which namespace.
        namespace: &'static str,
    },
    /// Nobody has the id in the pod's user namespace.
    #[error("{kind} {id} is not one of the {length} of the pod's user namespace")]
    NotMapped {
        /// "uid" or "gid".
        kind: &'static str,
        /// The id.
        id: u32,
        /// How many there are.
        length: u32,
    },
}

/// The `linux.namespaces` section.
pub(super) fn namespaces(
    pod: &PodNamespaces,
    cgroups: CgroupVersion,
    privilege: Privilege,
    user: Option<UserNamespace>,
) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Type;
    let mut list = vec![namespace(Type::Mount, None)];
    if user.is_some() {
        list.push(namespace(Type::User, None));
    }
    match &pod.pid {
        PidNamespace::Container => list.push(namespace(Type::Pid, None)),
        PidNamespace::Pod(path) | PidNamespace::Target(path) => {
            list.push(namespace(Type::Pid, Some(path)));
        }
        PidNamespace::Node => {}
    }
    for (kind, source) in [(Type::Ipc, &pod.ipc), (Type::Uts, &pod.uts), (Type::Network, &pod.net)]
    {
        if let NamespaceSource::Path(path) = source {
            list.push(namespace(kind, Some(path)));
        }
    }
    // The unified hierarchy is one tree for all; without a namespace a container sees its
    // place in the node's. A privileged container sees the node's tree, as elsewhere.
    if (cgroups, privilege) == (CgroupVersion::V2, Privilege::Ordinary) {
        list.push(namespace(Type::Cgroup, None));
    }
    list
}

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path.map(PathBuf::from));
    namespace
}

/// Checks the namespace options of a pod.
///
/// # Errors
/// [`NamespaceError`] for a mode that is unknown or means nothing for a pod, and for user
/// namespaces of several ranges, or beside namespaces of the node that need its root.
pub fn check_pod_namespaces(options: &v1::NamespaceOption) -> Result<(), NamespaceError> {
    use v1::NamespaceMode::{Container, Node, Pod};
    check_mode("network", options.network, &[Pod, Node])?;
    check_mode("pid", options.pid, &[Pod, Container, Node])?;
    check_mode("ipc", options.ipc, &[Pod, Node])?;
    if !options.target_id.is_empty() {
        return Err(NamespaceError::Target);
    }
    check_user_namespace(options)
}

/// Checks the namespace options of a container against those of its pod.
///
/// # Errors
/// [`NamespaceError`] for a mode that is unknown or means nothing, for `TARGET` without a
/// target, and for user namespace options other than the pod's.
pub fn check_container_namespaces(
    container: &v1::NamespaceOption,
    pod: &v1::NamespaceOption,
) -> Result<(), NamespaceError> {
    use v1::NamespaceMode::{Container, Node, Pod, Target};
    check_mode("network", container.network, &[Pod, Node])?;
    let pid = check_mode("pid", container.pid, &[Pod, Container, Node, Target])?;
    check_mode("ipc", container.ipc, &[Pod, Node])?;
    if (pid == Target) == container.target_id.is_empty() {
        return Err(NamespaceError::Target);
    }
    check_user_namespace(container)?;
    if user_namespace(container) == user_namespace(pod) {
        Ok(())
    } else {
        Err(NamespaceError::UserDiffersFromPod)
    }
}

/// The user namespace that options ask for, if they do; they were checked.
#[must_use]
pub fn user_namespace(options: &v1::NamespaceOption) -> Option<UserNamespace> {
    let user = options.userns_options.as_ref()?;
    let (uids, gids) = (user.uids.first()?, user.gids.first()?);
    (user.mode() != v1::NamespaceMode::Node).then_some(UserNamespace {
        host_uid: uids.host_id,
        uids: uids.length,
        host_gid: gids.host_id,
        gids: gids.length,
    })
}

/// The mappings of a user namespace as an OCI spec has them: of users and of groups.
pub(super) fn id_mappings(user: UserNamespace) -> (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>) {
    let range = |host: u32, length: u32| {
        let range = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(host);
        // It fails only for what is left out.
        range.size(length).build().into_iter().collect()
    };
    (range(user.host_uid, user.uids), range(user.host_gid, user.gids))
}

/// Checks that a process's ids exist in its user namespace.
pub(super) fn check_ids(process: &Process, user: UserNamespace) -> Result<(), NamespaceError> {
    let ids = process.user();
    let check = |kind, id, length| {
        if id < length { Ok(()) } else { Err(NamespaceError::NotMapped { kind, id, length }) }
    };
    check("uid", ids.uid(), user.uids)?;
    check("gid", ids.gid(), user.gids)?;
    ids.additional_gids().iter().flatten().try_for_each(|gid| check("gid", *gid, user.gids))
}

fn check_mode(
    namespace: &'static str,
    mode: i32,
    allowed: &[v1::NamespaceMode],
) -> Result<v1::NamespaceMode, NamespaceError> {
    let mode = v1::NamespaceMode::try_from(mode)
        .map_err(|_unknown| NamespaceError::UnknownMode { namespace, mode })?;
    if allowed.contains(&mode) { Ok(mode) } else { Err(NamespaceError::Mode { namespace, mode }) }
}

fn check_user_namespace(options: &v1::NamespaceOption) -> Result<(), NamespaceError> {
    use v1::NamespaceMode::{Node, Pod};
    let Some(user) = &options.userns_options else { return Ok(()) };
    match check_mode("user", user.mode, &[Pod, Node])? {
        Node if user.uids.is_empty() && user.gids.is_empty() => return Ok(()),
        Node => return Err(NamespaceError::MappingsForNode),
        _pod => {}
    }
    match (user.uids.as_slice(), user.gids.as_slice()) {
        ([uid], [gid]) if is_range_from_root(uid) && is_range_from_root(gid) => {}
        _ => return Err(NamespaceError::Mappings),
    }
    for (namespace, mode) in [("pid", options.pid()), ("ipc", options.ipc())] {
        if mode == Node {
            return Err(NamespaceError::NodeWithUser { namespace });
        }
    }
    Ok(())
}

fn is_range_from_root(mapping: &v1::IdMapping) -> bool {
    mapping.container_id == 0
        && mapping.length > 0
        && mapping.host_id.checked_add(mapping.length).is_some()
}

#[cfg(test)]
mod tests;
