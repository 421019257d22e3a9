//! What an external OCI runtime (runc, crun, youki) needs on disk: a bundle.
//!
//! Its root file system has to be mounted where the runtime can name it, so for these
//! containers alone the overlay is attached in the host's mount namespace, below the
//! container's own directory, and detached when the container is deleted.
//!
//! # References
//! - [OCI runtime spec, bundle](https://github.com/opencontainers/runtime-spec/blob/main/bundle.md)

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxResources, RootBuilder, Spec};
use rustix::mount::{MoveMountFlags, UnmountFlags};

use super::builtin::user_namespace::UserNamespace;
use crate::cgroup::{Controller, Hierarchies, Mode, Version};
use crate::protocol::{ImageMount, Rootfs};

/// The step of making a bundle that failed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The directory of the root.
    #[error("make {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// The overlay.
    #[error("make the root overlay")]
    Overlay(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its mount.
    #[error("mount the root at {}", .0.display())]
    Mount(PathBuf, #[source] rustix::io::Errno),
    /// The name of the pod's user namespace.
    #[error("name the user namespace in {}", .0.display())]
    UserNamespace(PathBuf, #[source] io::Error),
    /// An image that is a volume.
    #[error("mount the image {image}")]
    Image {
        /// Where.
        image: String,
        /// Which step.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `config.json`.
    #[error("write {}", .0.display())]
    Config(PathBuf, #[source] io::Error),
    /// `config.json`, written earlier.
    #[error("read {}", .0.display())]
    ReadConfig(PathBuf, #[source] io::Error),
}

/// The PID namespace of an external container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PidPath {
    /// A new one.
    New,
    /// The host's.
    Host,
    /// The one at this path.
    Join(String),
}

/// Fills `directory` with `config.json`, the mounted `rootfs` and `images`.
///
/// # Errors
/// The step that failed; [`forget`] undoes the others.
pub fn prepare_bundle(
    directory: &Path,
    spec: &Spec,
    rootfs: &Rootfs,
    images: &[ImageMount],
    pid: &PidPath,
    user: Option<&UserNamespace>,
) -> Result<(), BundleError> {
    let root = directory.join("rootfs");
    std::fs::create_dir_all(&root).map_err(|e| BundleError::Directory(root.clone(), e))?;
    let overlay =
        super::builtin::root_overlay(rootfs, user, directory).map_err(BundleError::Overlay)?;
    rustix::mount::move_mount(
        overlay.as_fd(),
        "",
        rustix::fs::CWD,
        &root,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|errno| BundleError::Mount(root.clone(), errno))?;
    let mut spec = spec.clone();
    leave_out_needless_limits(&mut spec);
    let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    if let Ok(root) = RootBuilder::default().path(root).readonly(read_only).build() {
        spec.set_root(Some(root));
    }
    mount_images(&mut spec, images, user, directory)?;
    set_pid_namespace(&mut spec, pid);
    if let Some(user) = user {
        join_user_namespace(&mut spec, user, directory)
            .map_err(|e| BundleError::UserNamespace(directory.to_owned(), e))?;
    }
    write_config(directory, &spec)
}

/// Changes the limits in a bundle of which no container was made yet. The device rules
/// stay; the rest of `resources` takes the place of what was there.
///
/// # Errors
/// The bundle cannot be read, or written.
pub fn change_limits(
    directory: &Path,
    resources: Option<LinuxResources>,
    oom_score_adj: Option<i32>,
) -> Result<(), BundleError> {
    let path = directory.join("config.json");
    let unread = |e| BundleError::ReadConfig(path.clone(), e);
    let json = std::fs::read(&path).map_err(unread)?;
    let mut spec: Spec = serde_json::from_slice(&json).map_err(|e| unread(e.into()))?;
    if let (Some(mut resources), Some(linux)) = (resources, spec.linux_mut()) {
        let devices = linux.resources().as_ref().and_then(|old| old.devices().clone());
        resources.set_devices(devices);
        linux.set_resources(Some(resources));
    }
    if let (Some(_), Some(process)) = (oom_score_adj, spec.process_mut()) {
        process.set_oom_score_adj(oom_score_adj);
    }
    write_config(directory, &spec)
}

fn write_config(directory: &Path, spec: &Spec) -> Result<(), BundleError> {
    let path = directory.join("config.json");
    let json = serde_json::to_vec(spec).map_err(|e| BundleError::Config(path.clone(), e.into()))?;
    write_private(&path, &json).map_err(|e| BundleError::Config(path, e))
}

/// Mounts the images, and says in the spec where what is meant of them is.
/// A kubelet limits every size of huge pages, most of them to zero. A runtime that does not
/// find the controller where it looks (with v1 hierarchies, only there) would fail for a
/// limit that nothing needs; a limit that was asked for stays, and fails with its name.
fn leave_out_needless_limits(spec: &mut Spec) {
    let looks_in = |hierarchies: &Hierarchies| match hierarchies.mode() {
        Mode::V2 => Version::V2,
        Mode::V1 | Mode::Hybrid => Version::V1,
    };
    let found = Hierarchies::detect()
        .is_ok_and(|all| all.version(Controller::Hugetlb) == Some(looks_in(&all)));
    let linux = spec.linux_mut().as_mut();
    let resources = linux.and_then(|linux| linux.resources_mut().as_mut());
    if let (false, Some(resources)) = (found, resources) {
        let mut limits = resources.hugepage_limits().clone().unwrap_or_default();
        limits.retain(|limit| limit.limit() != 0);
        resources.set_hugepage_limits((!limits.is_empty()).then_some(limits));
    }
}

fn mount_images(
    spec: &mut Spec,
    images: &[ImageMount],
    user: Option<&UserNamespace>,
    directory: &Path,
) -> Result<(), BundleError> {
    for image in images {
        let found = super::builtin::attach_image(image, user, directory)
            .map_err(|source| BundleError::Image { image: image.source.clone(), source })?;
        let mounts = spec.mounts_mut().iter_mut().flatten();
        for mount in mounts.filter(|one| one.source().as_deref() == Some(image.source.as_ref())) {
            mount.set_source(Some(found.clone()));
        }
    }
    Ok(())
}

/// Has the runtime join the pod's user namespace, which only the shim can name: by a link to
/// its descriptor. From a path in `/proc` runc would take the ids of the shim's process; and
/// it wants a namespace or its mappings, not both.
fn join_user_namespace(spec: &mut Spec, user: &UserNamespace, directory: &Path) -> io::Result<()> {
    let path = directory.join("userns");
    std::os::unix::fs::symlink(user.path(), &path)?;
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    linux.set_uid_mappings(None).set_gid_mappings(None);
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        if namespace.typ() == LinuxNamespaceType::User {
            namespace.set_path(Some(path.clone()));
        }
    }
    Ok(())
}

fn set_pid_namespace(spec: &mut Spec, pid: &PidPath) {
    let Some(mut linux) = spec.linux().clone() else { return };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Pid);
    let mut own = LinuxNamespace::default();
    own.set_typ(LinuxNamespaceType::Pid);
    match pid {
        PidPath::Host => {}
        PidPath::New => namespaces.push(own),
        PidPath::Join(path) => {
            own.set_path(Some(PathBuf::from(path)));
            namespaces.push(own);
        }
    }
    linux.set_namespaces(Some(namespaces));
    spec.set_linux(Some(linux));
}

/// Writes a file that only root can read: it has the environment of programs.
///
/// # Errors
/// What the system says.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = std::fs::File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file?.write_all(content)
}

/// Unmounts a bundle's root and images. Harmless when they are not mounted.
pub fn unmount(directory: &Path) {
    // Not mounted when the bundle was never finished.
    let _ = rustix::mount::unmount(directory.join("rootfs"), UnmountFlags::DETACH);
    let images = std::fs::read_dir(directory.join("images")).into_iter().flatten().flatten();
    for image in images {
        let _ = rustix::mount::unmount(image.path(), UnmountFlags::DETACH);
    }
}
