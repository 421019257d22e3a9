//! What a container sees in its file system besides its root: kernel file systems, the
//! pod's files, volumes of the image, mounts of the request.
//!
//! Parents come before children: the list is sorted by the depth of the destination, and
//! stays otherwise in the order above. A mount of the request replaces every default mount
//! on or below its destination, so that nothing is created inside of the user's volume.
//!
//! Nothing but a `procfs` of the node may be put on `/proc`, and nothing but a few known
//! files below it: else a volume could stand in for the files that security labels are
//! written to (CVE-2019-16884, CVE-2019-19921).
//!
//! # References
//! - [OCI runtime-spec, mounts](https://github.com/opencontainers/runtime-spec/blob/main/config.md#mounts)
//! - [Shared subtrees](https://docs.kernel.org/filesystems/sharedsubtree.html)

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use cri_api::v1::{self, MountPropagation};
use oci_spec::{image::ImageConfiguration, runtime::Mount};

use sandbox::protocol::UserNamespace;

use super::namespaces::id_mappings;
use super::{ContainerInputs, NamespaceSource, PodFiles, Privilege, RecursiveReadOnly};

mod error;

pub use self::error::{ImageMountError, MountError, RecursiveReadOnlyError};

/// Files of `/proc` that tools like lxcfs replace by truer ones; none of them is written
/// to by whoever starts the container.
const PROC_FILES: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// The `mounts` section.
pub(super) fn mounts(
    inputs: &ContainerInputs<'_>,
    privilege: Privilege,
) -> Result<Vec<Mount>, MountError> {
    let mut requested = BTreeSet::new();
    let mut binds = Vec::new();
    for mount in &inputs.container.mounts {
        let destination = destination(&mount.container_path)?;
        binds.push(requested_mount(mount, &destination, inputs)?);
        // Two mounts on one path are no mistake: a device plugin may repeat the user's.
        requested.insert(destination);
    }
    let covered = |place: &Path| place.ancestors().any(|ancestor| requested.contains(ancestor));

    let mut list: Vec<Mount> = kernel_mounts(inputs, privilege)
        .into_iter()
        .chain(shm_mount(inputs.files))
        .filter(|mount| !covered(mount.destination()))
        .collect();
    let security = super::security_context(inputs.container);
    let access =
        if security.is_some_and(|security| security.readonly_rootfs) { "ro" } else { "rw" };
    list.extend(
        pod_files(inputs.files, access)
            .chain(image_volumes(inputs)?)
            .filter(|mount| !requested.contains(mount.destination())),
    );
    list.extend(binds);
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(list)
}

/// The propagation that the root needs so that the mounts' own can work: the strongest of
/// them, none if all are private.
pub(super) fn root_propagation(mounts: &[v1::Mount]) -> Option<String> {
    let has = |kind| mounts.iter().any(|mount| mount.propagation() == kind);
    if has(MountPropagation::PropagationBidirectional) {
        Some("rshared".to_owned())
    } else if has(MountPropagation::PropagationHostToContainer) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

fn kernel_mounts(inputs: &ContainerInputs<'_>, privilege: Privilege) -> Vec<Mount> {
    let (sys, cgroup) = match privilege {
        Privilege::Privileged => ("rw", "rw"),
        Privilege::Ordinary => ("ro", "ro"),
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
        ),
        terminals(inputs.user_namespace()),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sysfs(inputs, sys),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", cgroup],
        ),
    ]
}

/// A terminal belongs to the group of terminals, where there is one.
fn terminals(user: Option<UserNamespace>) -> Mount {
    const GROUP: u32 = 5;
    let mut options = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if user.is_none_or(|user| user.gids > GROUP) {
        options.push("gid=5");
    }
    mount("/dev/pts", "devpts", "devpts", &options)
}

/// The node's network shows in its own `sysfs` only, which is bound for those that have not
/// the rights to mount it.
fn sysfs(inputs: &ContainerInputs<'_>, access: &str) -> Mount {
    let options = ["nosuid", "noexec", "nodev", access];
    if inputs.user_namespace().is_some() && inputs.namespaces.net == NamespaceSource::Host {
        return mount("/sys", "bind", "/sys", &[&["bind", "rprivate"], &options[..]].concat());
    }
    mount("/sys", "sysfs", "sysfs", &options)
}

fn shm_mount(files: &PodFiles) -> Option<Mount> {
    let options = ["rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"];
    files.shm.as_ref().map(|shm| mount("/dev/shm", "bind", shm, &options))
}

fn pod_files(files: &PodFiles, access: &'static str) -> impl Iterator<Item = Mount> {
    let options = ["rbind", "rprivate", access, "nosuid", "noexec", "nodev"];
    [
        ("/etc/hostname", &files.hostname),
        ("/etc/hosts", &files.hosts),
        ("/etc/resolv.conf", &files.resolv_conf),
    ]
    .into_iter()
    .filter_map(move |(destination, source)| {
        source.as_ref().map(|source| mount(destination, "bind", source, &options))
    })
}

fn image_volumes(inputs: &ContainerInputs<'_>) -> Result<Vec<Mount>, MountError> {
    inputs
        .image_volumes
        .iter()
        .map(|(place, source)| {
            let place = destination(&place.to_string_lossy())?;
            check_proc(&place, source)?;
            let volume = mount(place, "bind", source, &["rbind", "rprivate", "rw"]);
            Ok(with_ids_of(inputs.user_namespace(), volume))
        })
        .collect()
}

/// The `VOLUME`s of the image that need a directory of their own, sorted: those that no
/// mount of the request covers.
///
/// # Errors
/// [`MountError::Destination`] or [`MountError::OverProc`] for a volume that climbs
/// (CVE-2022-23648), is the root, or would hide `/proc`.
pub fn image_volume_paths(
    image: &ImageConfiguration,
    container: &v1::ContainerConfig,
) -> Result<Vec<PathBuf>, MountError> {
    let covered: BTreeSet<PathBuf> =
        container.mounts.iter().filter_map(|mount| clean_absolute(&mount.container_path)).collect();
    let volumes = image.config().as_ref().and_then(|config| config.volumes().as_deref());
    let mut paths = BTreeSet::new();
    for volume in volumes.unwrap_or_default() {
        // Builders write what the user did; a relative path counts from the root.
        let path = destination(&format!("/{volume}"))?;
        check_proc(&path, Path::new(""))?;
        paths.insert(path);
    }
    Ok(paths.into_iter().filter(|path| !covered.contains(path)).collect())
}

fn requested_mount(
    request: &v1::Mount,
    destination: &Path,
    inputs: &ContainerInputs<'_>,
) -> Result<Mount, MountError> {
    let place = || request.container_path.clone();
    let user = inputs.user_namespace();
    let asks_for_ids = !(request.uid_mappings.is_empty() && request.gid_mappings.is_empty());
    if asks_for_ids && !has_ids_of(request, user) {
        return Err(MountError::IdMappings { destination: place() });
    }
    let source = match &request.image {
        Some(image) if !image.image.is_empty() => image_source(request, image, inputs)?,
        _ => host_source(request)?,
    };
    check_proc(destination, &source)?;
    if user.is_some() && request.propagation() == MountPropagation::PropagationBidirectional {
        return Err(MountError::BidirectionalWithUser { destination: place() });
    }
    let propagation = match propagation(request)? {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let access = access(request, inputs.node.recursive_read_only)?;
    let mut options = vec!["rbind", propagation, access];
    for option in &request.mount_options {
        let (option, opposite) = bind_option(option)
            .ok_or_else(|| MountError::Option { destination: place(), option: option.clone() })?;
        options.retain(|earlier| *earlier != opposite && *earlier != option);
        options.push(option);
    }
    let made = mount(destination, "bind", source, &options);
    Ok(if asks_for_ids { with_ids_of(user, made) } else { made })
}

/// Whether the ids of a mount are asked to be those of the pod's user namespace.
fn has_ids_of(request: &v1::Mount, user: Option<UserNamespace>) -> bool {
    let is = |ranges: &[v1::IdMapping], host_id, length| matches!(ranges, [range] if *range == v1::IdMapping { container_id: 0, host_id, length });
    user.is_some_and(|user| {
        is(&request.uid_mappings, user.host_uid, user.uids)
            && is(&request.gid_mappings, user.host_gid, user.gids)
    })
}

/// The mount, with ids on disk that count in the pod's user namespace, if it has one.
fn with_ids_of(user: Option<UserNamespace>, mut mount: Mount) -> Mount {
    if let Some(user) = user {
        let (uids, gids) = id_mappings(user);
        let mut options = mount.options().clone().unwrap_or_default();
        options.push("ridmap".to_owned());
        mount.set_options(Some(options)).set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
    }
    mount
}

fn propagation(request: &v1::Mount) -> Result<MountPropagation, MountError> {
    MountPropagation::try_from(request.propagation).map_err(|_unknown| {
        MountError::UnknownPropagation {
            destination: request.container_path.clone(),
            propagation: request.propagation,
        }
    })
}

fn access(
    request: &v1::Mount,
    kernel: RecursiveReadOnly,
) -> Result<&'static str, RecursiveReadOnlyError> {
    let destination = || request.container_path.clone();
    if !request.recursive_read_only {
        return Ok(if request.readonly { "ro" } else { "rw" });
    }
    if !request.readonly {
        return Err(RecursiveReadOnlyError::NotReadOnly { destination: destination() });
    }
    if request.propagation != i32::from(MountPropagation::PropagationPrivate) {
        return Err(RecursiveReadOnlyError::NotPrivate { destination: destination() });
    }
    match kernel {
        RecursiveReadOnly::Supported => Ok("rro"),
        RecursiveReadOnly::Unsupported => {
            Err(RecursiveReadOnlyError::Unsupported { destination: destination() })
        }
    }
}

fn host_source(request: &v1::Mount) -> Result<PathBuf, MountError> {
    let destination = || request.container_path.clone();
    if !request.image_sub_path.is_empty() {
        let sub_path = request.image_sub_path.clone();
        return Err(ImageMountError::SubPath { destination: destination(), sub_path }.into());
    }
    match clean_absolute(&request.host_path) {
        Some(source) => Ok(source),
        None => Err(MountError::Source {
            destination: destination(),
            source_path: request.host_path.clone(),
        }),
    }
}

/// Checks what can be said of a mount of an image by looking at it.
///
/// # Errors
/// It has a host path, is writable, or its sub-path leaves the image.
pub fn check_image_mount(request: &v1::Mount) -> Result<(), ImageMountError> {
    let destination = request.container_path.clone();
    if !request.host_path.is_empty() {
        return Err(ImageMountError::HostPath { destination });
    }
    if !request.readonly {
        return Err(ImageMountError::Writable { destination });
    }
    let sub_path = &request.image_sub_path;
    if sub_path.starts_with('/') || sub_path.contains('\0') || climbs(sub_path) {
        return Err(ImageMountError::SubPath { destination, sub_path: sub_path.clone() });
    }
    Ok(())
}

fn image_source(
    request: &v1::Mount,
    image: &v1::ImageSpec,
    inputs: &ContainerInputs<'_>,
) -> Result<PathBuf, ImageMountError> {
    check_image_mount(request)?;
    let destination = request.container_path.clone();
    inputs
        .image_mounts
        .get(&request.container_path)
        .cloned()
        .ok_or_else(|| ImageMountError::NotAvailable { destination, image: image.image.clone() })
}

/// A known per-mount option, and the one that says the contrary.
fn bind_option(option: &str) -> Option<(&'static str, &'static str)> {
    let pairs = [("exec", "noexec"), ("suid", "nosuid"), ("dev", "nodev")];
    pairs.into_iter().find_map(|(yes, no)| match option {
        _ if option == yes => Some((yes, no)),
        _ if option == no => Some((no, yes)),
        _ => None,
    })
}

fn check_proc(destination: &Path, source: &Path) -> Result<(), MountError> {
    let proc = Path::new("/proc");
    let allowed = !destination.starts_with(proc)
        || (destination == proc && source == proc)
        || PROC_FILES.iter().any(|file| destination == Path::new(file));
    if allowed {
        Ok(())
    } else {
        Err(MountError::OverProc { destination: destination.to_string_lossy().into_owned() })
    }
}

/// The destination without repeated slashes and dots.
fn destination(path: &str) -> Result<PathBuf, MountError> {
    clean_absolute(path)
        .filter(|clean| clean.as_os_str() != "/")
        .ok_or_else(|| MountError::Destination { destination: path.to_owned() })
}

fn clean_absolute(path: &str) -> Option<PathBuf> {
    let fine = path.starts_with('/') && !path.contains('\0') && !climbs(path);
    fine.then(|| Path::new(path).components().collect())
}

fn climbs(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

fn mount(
    destination: impl Into<PathBuf>,
    kind: &str,
    source: impl Into<PathBuf>,
    options: &[&str],
) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    mount
}

#[cfg(test)]
mod tests;
