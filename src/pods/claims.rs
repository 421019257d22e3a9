//! A pod's claims: how each is taken, and how each is given back.
//!
//! Giving back works from names alone and is harmless for what was never taken, so a
//! failed start, a stop and a recovery after a crash are the same walk.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};
use sandbox::controller::{self, Connected, Sandbox, SandboxEvent};
use sandbox::lifecycle::pod::Claim;
use sandbox::protocol::{Boot, Sysctl};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::cgroups::SETTLE_DEADLINE;
use super::error::{PodsError, RequestError};
use super::node::{Node, text};
use super::record::{PodRecord, PodRequest};
use super::{selinux, spec};
use crate::network::{Attachment, Bandwidth};

/// How long a shim may take to start, and to end.
const SHIM_DEADLINE: Duration = Duration::from_secs(10);

/// How long a cgroup may stay busy after its processes were killed.
pub(super) const CGROUP_PATIENCE: Duration = Duration::from_secs(5);

/// The size of a pod's `/dev/shm`, as Kubernetes has it.
const SHM_SIZE: &str = "64m";

/// What a pod of this kind takes.
pub(super) fn plan(request: &PodRequest) -> Vec<Claim> {
    match (request.has_own_network(), request.user_namespace()) {
        (false, _) => vec![Claim::Directory, Claim::Shim],
        (true, None) => vec![Claim::Directory, Claim::Shim, Claim::NetNs, Claim::Attachment],
        // The shim makes it, and must have ended before it is given back.
        (true, Some(_)) => vec![Claim::Directory, Claim::NetNs, Claim::Shim, Claim::Attachment],
    }
}

/// A pod that is up.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) attachment: Option<Attachment>,
    pub(super) connected: Connected,
}

/// Takes everything. The record says so already.
pub(super) async fn take(
    node: Arc<Node>,
    id: String,
    request: Arc<PodRequest>,
    selinux_level: Option<String>,
) -> Result<Prepared, PodsError> {
    let sysctls = spec::pod_sysctls(&request.config).map_err(RequestError::from)?;
    let (pod, asked) = (id.clone(), Arc::clone(&request));
    let label = node.facts.selinux.as_ref().map(|selinux| selinux.files(selinux_level.as_deref()));
    let context = label.clone().unwrap_or_default();
    node.blocking("making the directory", &id, move |node| {
        make_directory(node, &pod, &asked, label.as_deref())
    })
    .await?;
    let mut boot = Boot {
        pod: id.clone(),
        directory: text(&node.pod_directory(&id)),
        netns: String::new(),
        own_ipc: request.has_own_ipc(),
        hostname: None,
        sysctls: sysctls.into_iter().map(|(name, value)| Sysctl { name, value }).collect(),
        shared_pid: request.shares_pids(),
        user_namespace: request.user_namespace(),
        context,
        hierarchies: node.cgroups.hierarchies().lines(),
    };
    if !request.has_own_network() {
        let connected = start_shim(&node, &request, boot).await?;
        return Ok(Prepared { attachment: None, connected });
    }
    boot.hostname = Some(request.hostname());
    let is_made_by_shim = boot.user_namespace.is_some();
    boot.netns = text(&match is_made_by_shim {
        true => node.network.netns_path(&id),
        false => node.network.create_netns(&id).await?,
    });
    let mut network = request.network(&id, Some(boot.netns.clone().into()));
    network.bandwidth =
        Bandwidth::from_annotations(&network.annotations).map_err(RequestError::from)?;
    let (attached, started) = if is_made_by_shim {
        let connected = start_shim(&node, &request, boot).await?;
        (node.network.add(&network).await, Ok(connected))
    } else {
        // The plugins configure the namespace while the shim starts in it.
        tokio::join!(node.network.add(&network), start_shim(&node, &request, boot))
    };
    let attachment = match attached {
        Ok(attachment) => attachment,
        Err(error) => {
            if let Ok(Connected { sandbox, mut events, .. }) = started {
                end_shim(&sandbox, &mut events).await;
            }
            return Err(PodsError::Attach(error));
        }
    };
    let connected = started?;
    write_hosts(&node, &id, &request, &attachment).await?;
    Ok(Prepared { attachment: Some(attachment), connected })
}

async fn start_shim(
    node: &Node,
    request: &Arc<PodRequest>,
    boot: Boot,
) -> Result<Connected, PodsError> {
    let id = boot.pod.clone();
    let (cgroups, pod, asked) = (node.cgroups.clone(), id.clone(), Arc::clone(request));
    let settle = async move |pid| cgroups.settle(&pod, asked.cgroup_parent(), pid).await;
    let deadline = SHIM_DEADLINE + SETTLE_DEADLINE;
    match timeout(deadline, Sandbox::start_settled(&node.executable, boot, settle)).await {
        Ok(started) => Ok(started?),
        Err(_elapsed) => {
            Err(PodsError::TooLong { what: "starting the shim", id, seconds: deadline.as_secs() })
        }
    }
}

fn make_directory(
    node: &Node,
    id: &str,
    request: &PodRequest,
    label: Option<&str>,
) -> Result<(), PodsError> {
    let directory = node.pod_directory(id);
    let failed = |path: &Path, source| PodsError::Prepare { path: path.to_owned(), source };
    let root = request.user_namespace().map_or((0, 0), |user| (user.host_uid, user.host_gid));
    // A user namespace must be able to pass through; nobody else may look.
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o711);
    builder.create(&directory).map_err(|source| failed(&directory, source))?;
    let shm = directory.join("shm");
    if request.has_own_ipc() {
        builder.create(&shm).map_err(|source| failed(&shm, source))?;
        mount_shm(&shm, root, label).map_err(|errno| failed(&shm, errno.into()))?;
    }
    let resolv_conf = spec::resolv_conf(request.config.dns_config.as_ref())
        .map_err(RequestError::from)?
        .map(Ok)
        .unwrap_or_else(host_resolv_conf)
        .map_err(|source| failed(Path::new("/etc/resolv.conf"), source))?;
    let hostname = request.hostname();
    let files = [
        ("resolv.conf", resolv_conf),
        ("hostname", spec::hostname_file(&hostname).map_err(RequestError::from)?),
        ("hosts", spec::hosts_file(&hostname, &[]).map_err(RequestError::from)?),
    ];
    for (name, content) in files {
        let path = directory.join(name);
        std::fs::write(&path, content)
            .and_then(|()| std::os::unix::fs::chown(&path, Some(root.0), Some(root.1)))
            .map_err(|source| failed(&path, source))?;
        if let Some(label) = label {
            selinux::relabel(&path, label)?;
        }
    }
    Ok(())
}

fn host_resolv_conf() -> io::Result<String> {
    match std::fs::read_to_string("/etc/resolv.conf") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// The pod's shared memory: a tmpfs of its own, in the host's tree because external
/// runtimes must find it there. Its root directory belongs to the pod's root.
fn mount_shm(
    at: &Path,
    (uid, gid): (u32, u32),
    label: Option<&str>,
) -> Result<(), rustix::io::Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let (uid, gid) = (uid.to_string(), gid.to_string());
    for (key, value) in
        [("source", "shm"), ("mode", "1777"), ("size", SHM_SIZE), ("uid", &uid), ("gid", &gid)]
    {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
    }
    if let Some(label) = label {
        rustix::mount::fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mounted =
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    rustix::mount::move_mount(
        mounted.as_fd(),
        "",
        rustix::fs::CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

async fn write_hosts(
    node: &Arc<Node>,
    id: &str,
    request: &PodRequest,
    attachment: &Attachment,
) -> Result<(), PodsError> {
    let path = node.pod_directory(id).join("hosts");
    let content =
        spec::hosts_file(&request.hostname(), &attachment.ips).map_err(RequestError::from)?;
    node.blocking("writing hosts", id, move |_| {
        std::fs::write(&path, content).map_err(|source| PodsError::Prepare { path, source })
    })
    .await
}

/// The sandbox to end, with what it still says.
pub(super) type Ending = Option<(Arc<Sandbox>, mpsc::UnboundedReceiver<SandboxEvent>)>;

/// Gives one claim back.
pub(super) async fn release(
    node: Arc<Node>,
    id: String,
    request: Arc<PodRequest>,
    record: PodRecord,
    claim: Claim,
    cgroups: Vec<String>,
    ending: Ending,
) -> Result<(), PodsError> {
    match claim {
        Claim::Shim => release_shim(&node, &id, &request, cgroups, ending).await,
        Claim::Attachment => {
            let netns = Some(node.network.netns_path(&id)).filter(|path| path.exists());
            let network = request.network(&id, netns);
            let attachment = record.attachment.as_ref();
            node.network.del(&network, attachment).await.map_err(PodsError::Detach)
        }
        Claim::NetNs => Ok(node.network.remove_netns(&id).await?),
        Claim::Directory => {
            let pod = id.clone();
            node.blocking("removing the directory", &id, move |node| remove_directory(node, &pod))
                .await
        }
    }
}

async fn release_shim(
    node: &Arc<Node>,
    id: &str,
    request: &PodRequest,
    mut cgroups: Vec<String>,
    ending: Ending,
) -> Result<(), PodsError> {
    if let Some((sandbox, mut events)) = ending {
        end_shim(&sandbox, &mut events).await;
    }
    let directory = node.pod_directory(id);
    cgroups.extend(node.cgroups.own(id, request.cgroup_parent()));
    node.blocking("ending the shim", id, move |node| {
        controller::destroy(&directory, None);
        for path in &cgroups {
            let Some(group) = node.cgroup(path) else { continue };
            let failed = |source| PodsError::Cgroup { id: path.clone(), source };
            group.kill_all().map_err(failed)?;
            group.remove(CGROUP_PATIENCE).map_err(failed)?;
        }
        remove_common_parent(node);
        Ok(())
    })
    .await?;
    let scope = |e| PodsError::Scope { id: id.to_owned(), source: Box::new(e) };
    node.cgroups.forget(id).await.map_err(scope)
}

/// The group above all pods' goes with the last pod.
pub(super) fn remove_common_parent(node: &Node) {
    let Some(parent) = node.cgroups.common_parent() else { return };
    if node.registry.all().len() > 1 {
        return;
    }
    for (_, directory) in parent.named_directories() {
        // Still in use by a pod that has just come.
        let _ = std::fs::remove_dir(directory);
    }
}

/// Asks the shim to end and waits until it is gone.
pub(super) async fn end_shim(
    sandbox: &Sandbox,
    events: &mut mpsc::UnboundedReceiver<SandboxEvent>,
) {
    let ended = async {
        // A shim that is lost already is what is wanted.
        let _ = sandbox.shutdown().await;
        while !matches!(events.recv().await, Some(SandboxEvent::Lost) | None) {}
    };
    // One that does not end is killed next.
    let _ = timeout(SHIM_DEADLINE, ended).await;
}

fn remove_directory(node: &Node, id: &str) -> Result<(), PodsError> {
    let directory = node.pod_directory(id);
    let mounts = std::fs::read_dir(directory.join("c")).into_iter().flatten().flatten();
    for bundle in mounts {
        // Only external runtimes have a mount here, and only if they were killed.
        sandbox::oci::external::unmount(&bundle.path());
    }
    let shm = directory.join("shm");
    let failed = |path: &Path, source| PodsError::Prepare { path: path.to_owned(), source };
    loop {
        match rustix::mount::unmount(&shm, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(errno) => return Err(failed(&shm, errno.into())),
        }
    }
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&directory, error)),
        _ => Ok(()),
    }
}
