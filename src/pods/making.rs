//! Making a container, starting, killing and freeing it: the effects, from names alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbox::controller::{Sandbox, SandboxError};
use sandbox::lifecycle::ProcessIdentity;
use sandbox::protocol::{ContainerState, Create, PidMode, PidNamespace, Restore, Rootfs, Start};
use tokio::time::timeout;

use super::claims::CGROUP_PATIENCE;
use super::error::{PodsError, RequestError};
use super::node::{Node, text};
use super::record::{ContainerRequest, ImageUsed, PodRequest, Resources, User};
use super::restore::{self, Restoration, RestoreError, Source};
use super::spec::{self, ContainerInputs, NamespaceSource, PodFiles, PodNamespaces, UserFiles};
use super::{image_mounts, selinux, volumes};
use crate::cdi;
use crate::images::Image;
use crate::snapshots::{SnapshotKey, read_in_root};

/// How long the shim lets a container take to be set up, and again to start; the kubelet
/// waits two minutes.
const CREATE_DEADLINE: Duration = Duration::from_secs(100);

/// How long the shim may take beyond a deadline that it keeps itself.
const GRACE: Duration = Duration::from_secs(10);

/// How long a killed container may take to be gone.
const DELETE_DEADLINE: Duration = Duration::from_secs(60);

/// The largest `/etc/passwd` or `/etc/group` that is read from an image, in bytes.
const USER_FILE_LIMIT: u64 = 4 << 20;

/// What is to be made.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) pod: String,
    pub(super) pod_request: Arc<PodRequest>,
    pub(super) request: Arc<ContainerRequest>,
    pub(super) cgroup_path: String,
    pub(super) shim: ProcessIdentity,
    /// Whose processes it is to see.
    pub(super) pid_mode: PidMode,
    /// That of the pod.
    pub(super) selinux_level: Option<String>,
    /// Where its processes come from, if not from its image.
    pub(super) restoration: Option<Restoration>,
}

/// What making it taught.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) image: ImageUsed,
    pub(super) user: User,
    pub(super) log_path: Option<PathBuf>,
    pub(super) stop_signal: i32,
    pub(super) resources: Option<Resources>,
    pub(super) image_mounts: BTreeMap<String, ImageUsed>,
    pub(super) pid: Option<u32>,
}

/// Makes a container: looks into its image, prepares its root, has the shim set it up.
/// The record says so already.
pub(super) async fn make(
    node: Arc<Node>,
    sandbox: Arc<Sandbox>,
    order: Order,
) -> Result<Made, PodsError> {
    let id = order.id.clone();
    let devices = node.cdi.find(order.request.cdi_devices()).await.map_err(RequestError::from)?;
    if let Some(restoration) = &order.restoration {
        fetch(&node, &order, Arc::clone(&restoration.source)).await?;
    }
    let (mut made, create) =
        node.blocking("preparing", &id, move |node| prepare(node, &order, &devices)).await?;
    let created = timeout(CREATE_DEADLINE + GRACE, sandbox.create(create)).await;
    let state = created.map_err(|_elapsed| PodsError::TooLong {
        what: "setting up",
        id,
        seconds: CREATE_DEADLINE.as_secs(),
    })??;
    made.pid = (state.pid > 0).then_some(state.pid);
    Ok(made)
}

/// Takes over what the container is restored from: what was written, and criu's images.
async fn fetch(node: &Arc<Node>, order: &Order, source: Arc<Source>) -> Result<(), PodsError> {
    let (name, id) = (order.request.name().to_owned(), order.id.clone());
    let image = find_image(node, order.request.image())?;
    let diff = source.diff()?;
    let unpacked = node.images.unpack_writable(diff, &key(&id)?, image.layers.clone()).await;
    unpacked.map_err(|error| RestoreError::Unpack { name, source: Box::new(error) })?;
    let copy = move |node: &Node| Ok(source.copy_images(&node.restores_directory(&id))?);
    node.blocking("copying the images", &order.id, copy).await
}

fn prepare(
    node: &Node,
    order: &Order,
    devices: &cdi::Devices,
) -> Result<(Made, Create), PodsError> {
    let config = &order.request.config;
    let image = find_image(node, order.request.image())?;
    let stop_signal = spec::stop_signal(config, &image.config).map_err(RequestError::from)?;
    let log_path = spec::log_path(&order.pod_request.config, config).map_err(RequestError::from)?;
    let view = node.snapshots.view(&image.layers).map_err(PodsError::View)?;
    let read = |path: &'static str| {
        read_in_root(&view, Path::new(path), USER_FILE_LIMIT)
            .map(Option::unwrap_or_default)
            .map_err(|source| PodsError::ReadImage { path, source })
    };
    let (passwd, group) = (read("etc/passwd")?, read("etc/group")?);
    let etc = UserFiles { passwd: &passwd, group: &group };
    let user = order.request.resolve_user(&image.config, etc).map_err(RequestError::from)?;
    let paths = spec::image_volume_paths(&image.config, config)
        .map_err(|error| RequestError::from(spec::SpecError::from(error)))?;
    let image_volumes = volumes::fill(&view, &node.volumes_directory(&order.id), paths)?;
    let external = node.external(&order.pod, &order.pod_request.runtime_handler);
    let mut image_mounts = image_mounts::prepare(node, order)?;
    let mut spec = build_spec(node, order, &image, etc, &image_volumes, &image_mounts.sources)?;
    devices.apply(&mut spec).map_err(RequestError::from)?;
    if let Some(Restoration { source, .. }) = &order.restoration {
        restore::check_spec(order.request.name(), &source.spec, &spec)?;
    }
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().clone());
    if let Some(label) = &label {
        let volumes = image_volumes.iter().map(|(_, host)| host.as_path());
        relabel(volumes.chain(spec::relabelled(config)), label)?;
        image_mounts.mounts.iter_mut().for_each(|mount| mount.context.clone_from(label));
    }
    let terminal = spec.process().as_ref().and_then(|process| process.terminal());
    let key = key(&order.id)?;
    let active = node.snapshots.prepare(&key, &image.layers)?;
    let json = serde_json::to_vec(&spec).map_err(super::record::RecordError::Encode)?;
    let create = Create {
        container: order.id.clone(),
        spec: json,
        rootfs: Some(Rootfs {
            lower: active.lower.iter().map(|path| text(path)).collect(),
            upper: text(&active.upper),
            work: text(&active.work),
            context: label.unwrap_or_default(),
        }),
        log_path: log_path.as_deref().map(text).unwrap_or_default(),
        max_log_line: node.config.max_log_line,
        stdin: config.stdin && terminal != Some(true),
        external,
        deadline_ms: u64::try_from(CREATE_DEADLINE.as_millis()).unwrap_or(u64::MAX),
        pid_namespace: Some(PidNamespace { mode: Some(order.pid_mode.clone()) }),
        images: image_mounts.mounts,
        restore: order.restoration.as_ref().map(|restoration| Restore {
            directory: text(&node.restores_directory(&order.id)),
            criu: text(&restoration.criu),
        }),
    };
    let made = Made {
        image: image_used(&image),
        user,
        log_path,
        stop_signal: stop_signal.number(),
        resources: resources(node, &order.request)?,
        image_mounts: image_mounts.used,
        pid: None,
    };
    Ok((made, create))
}

fn relabel<'a>(paths: impl Iterator<Item = &'a Path>, label: &str) -> Result<(), PodsError> {
    for path in paths {
        if let Err(error) = std::fs::create_dir(path)
            && error.kind() == std::io::ErrorKind::NotFound
        {
            // What is missing is made when it is mounted; it is to have its label by then.
            let made = std::fs::create_dir_all(path);
            made.map_err(|source| PodsError::Prepare { path: path.to_owned(), source })?;
        }
        selinux::relabel(path, label)?;
    }
    Ok(())
}

pub(super) fn find_image(node: &Node, name: &str) -> Result<Arc<Image>, PodsError> {
    let found = node.images.find(name).map_err(RequestError::from)?;
    Ok(found.ok_or_else(|| RequestError::NoImage { name: name.to_owned() })?)
}

/// The limits that hold, if any were asked for.
fn resources(node: &Node, request: &ContainerRequest) -> Result<Option<Resources>, RequestError> {
    let Some(asked) = request.resources() else { return Ok(None) };
    let effective = spec::effective(asked, &node.facts).map_err(spec::SpecError::from)?;
    Ok(Some((&effective).into()))
}

pub(super) fn image_used(image: &Image) -> ImageUsed {
    let id = image.id.to_string();
    ImageUsed {
        name: image.tags.first().or(image.digests.first()).unwrap_or(&id).clone(),
        reference: image.digests.first().unwrap_or(&id).clone(),
        id,
    }
}

fn build_spec(
    node: &Node,
    order: &Order,
    image: &Image,
    etc: UserFiles<'_>,
    image_volumes: &[(PathBuf, PathBuf)],
    image_mounts: &BTreeMap<String, PathBuf>,
) -> Result<oci_spec::runtime::Spec, PodsError> {
    let config = &order.request.config;
    let profile = match spec::localhost_seccomp_path(config) {
        Some(path) => Some(
            std::fs::read(path)
                .map_err(|source| RequestError::SeccompProfile { path: path.to_owned(), source })?,
        ),
        None => None,
    };
    let directory = node.pod_directory(&order.pod);
    let request = &order.pod_request;
    let shm = if request.has_own_ipc() { directory.join("shm") } else { "/dev/shm".into() };
    let files = PodFiles {
        resolv_conf: Some(directory.join("resolv.conf")),
        hosts: Some(directory.join("hosts")),
        hostname: Some(directory.join("hostname")),
        shm: Some(shm),
    };
    let own =
        |name: &str| NamespaceSource::Path(format!("/proc/{}/ns/{name}", order.shim.pid).into());
    let of = |is_own: bool, name: &str| if is_own { own(name) } else { NamespaceSource::Host };
    let namespaces = PodNamespaces {
        net: of(request.has_own_network(), "net"),
        ipc: of(request.has_own_ipc(), "ipc"),
        uts: of(request.has_own_network(), "uts"),
        // The shim knows the process whose namespace is joined; the path says only that
        // one is.
        pid: match order.pid_mode {
            PidMode::Container(_) => spec::PidNamespace::Container,
            PidMode::Node(_) => spec::PidNamespace::Node,
            PidMode::Pod(_) => spec::PidNamespace::Pod("/proc/self/ns/pid".into()),
            PidMode::Target(_) => spec::PidNamespace::Target("/proc/self/ns/pid".into()),
        },
    };
    let inputs = ContainerInputs {
        pod: &request.config,
        container: config,
        image: &image.config,
        pod_id: &order.pod,
        container_id: &order.id,
        cgroup_path: &order.cgroup_path,
        hostname: &request.hostname(),
        namespaces: &namespaces,
        etc,
        files: &files,
        image_volumes,
        image_mounts,
        localhost_seccomp: profile.as_deref(),
        selinux_level: order.selinux_level.as_deref(),
        exec_cpus: node.exec_cpus(&request.runtime_handler),
        node: &node.facts,
        devices: &spec::host_devices,
        apparmor_profiles: &spec::loaded_profiles,
    };
    Ok(spec::container_spec(&inputs).map_err(RequestError::from)?)
}

/// The name of a container's snapshot.
pub(super) fn key(container: &str) -> Result<SnapshotKey, PodsError> {
    SnapshotKey::parse(container).map_err(|_odd| PodsError::Gone { id: container.to_owned() })
}

/// Has the program of a created container run. One that nobody tells of in time may run
/// all the same, so it is killed then: by the shim, should it go on, and past it.
pub(super) async fn start(
    node: Arc<Node>,
    sandbox: Arc<Sandbox>,
    start: Start,
    cgroup_path: String,
) -> Result<ContainerState, PodsError> {
    let id = start.container.clone();
    let started = timeout(CREATE_DEADLINE + GRACE, sandbox.start_container(start)).await;
    let restored_from = id.clone();
    let forget =
        move |node: &Node| restore::remove_images(&node.restores_directory(&restored_from));
    if let Err(error) = node.blocking("removing the images", &id, forget).await {
        tracing::warn!(container.id = %id, error = &error as &dyn std::error::Error, "what it was restored from stays until it is removed");
    }
    let error = match started {
        Ok(Ok(state)) => return Ok(state),
        Ok(Err(error @ SandboxError::Hung { .. })) => error.into(),
        Ok(Err(error)) => return Err(error.into()),
        Err(_elapsed) => {
            let seconds = CREATE_DEADLINE.as_secs();
            PodsError::TooLong { what: "starting", id: id.clone(), seconds }
        }
    };
    sandbox.kill(&id);
    if let Err(error) = kill_past_shim(&node, &id, cgroup_path).await {
        tracing::warn!(container.id = %id, error = &error as &dyn std::error::Error, "a container that did not start could not be killed");
    }
    Err(error)
}

/// Kills every process of a container whose shim does not answer.
pub(super) async fn kill_past_shim(
    node: &Arc<Node>,
    id: &str,
    cgroup_path: String,
) -> Result<(), PodsError> {
    let container = id.to_owned();
    node.blocking("killing", id, move |node| {
        let Some(group) = node.cgroup(&cgroup_path) else { return Ok(()) };
        group.kill_all().map_err(|source| PodsError::Cgroup { id: container, source })
    })
    .await
}

/// Gives back everything that a container holds. Harmless for what was never taken.
pub(super) async fn free(
    node: Arc<Node>,
    sandbox: Option<Arc<Sandbox>>,
    pod: String,
    id: String,
    cgroup_path: String,
) -> Result<(), PodsError> {
    if let Some(sandbox) = sandbox {
        match timeout(DELETE_DEADLINE, sandbox.delete(&id)).await {
            Ok(Ok(()) | Err(SandboxError::Lost)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_elapsed) => {
                let seconds = DELETE_DEADLINE.as_secs();
                return Err(PodsError::TooLong { what: "killing", id, seconds });
            }
        }
    }
    let container = id.clone();
    node.blocking("freeing", &id, move |node| {
        if let Some(group) = node.cgroup(&cgroup_path) {
            let failed = |source| PodsError::Cgroup { id: container.clone(), source };
            group.kill_all().map_err(failed)?;
            group.remove(CGROUP_PATIENCE).map_err(failed)?;
        }
        volumes::remove(&node.volumes_directory(&container))?;
        restore::remove_images(&node.restores_directory(&container))?;
        image_mounts::remove(node, &container)?;
        node.snapshots.remove(&key(&container)?)?;
        let exit = node.pod_directory(&pod).join("exits").join(&container);
        match std::fs::remove_file(&exit) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(PodsError::Prepare { path: exit, source })
            }
            _ => Ok(()),
        }
    })
    .await
}
