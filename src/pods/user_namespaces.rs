//! Which pods can have a user namespace on this node, found out by making one.
//!
//! What it takes is in many places: the kernel, the file system of layers and volumes, the
//! rights of the daemon. So nothing is looked up: at the start of the daemon a shim is
//! started in a user namespace, and sets up a container whose image has nothing in it. An
//! external runtime says itself what it can. Other things are served meanwhile; who asks waits.
//!
//! # References
//! - [KEP-127](https://github.com/kubernetes/enhancements/tree/master/keps/sig-node/127-user-namespaces)
//! - [OCI runtime spec, features](https://github.com/opencontainers/runtime-spec/blob/main/features-linux.md)

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use sandbox::controller::executable::Executable;
use sandbox::controller::{self, Connected, Sandbox, SandboxError};
use sandbox::protocol::{Boot, Create, Rootfs, UserNamespace};
use serde_json::{Value, json};
use tokio::sync::SetOnce;
use tokio::time::{error::Elapsed, timeout};

use super::cgroups::{Cgroups, SETTLE_DEADLINE};
use super::claims::{CGROUP_PATIENCE, end_shim, remove_common_parent};
use super::node::{Config, Node, text};

/// How long each step may take: it does on a machine that is all but dead.
const DEADLINE: Duration = Duration::from_secs(10);

/// Name of the pod, of its container and of the directories.
const NAME: &str = "try-user-namespace";

/// The file that says what the pod is called among control groups.
const RECORD: &str = "group";

/// Ids as the kubelet gives them.
const IDS: UserNamespace =
    UserNamespace { host_uid: 65_536, uids: 65_536, host_gid: 65_536, gids: 65_536 };

/// What is found out while other things are served.
#[derive(Debug, Default)]
pub(super) struct Support(SetOnce<Capable>);

/// The runtimes whose pods can have a user namespace.
#[derive(Debug, Default)]
struct Capable {
    builtin: bool,
    external: BTreeSet<String>,
}

/// Why no pod can have one.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("make {}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("it took longer than {} s", DEADLINE.as_secs())]
    TooLong(#[from] Elapsed),
}

impl Support {
    /// Waits until [`find`] has found out, and left nothing behind.
    pub(super) async fn known(&self) {
        self.0.wait().await;
    }

    /// Whether pods of this handler can; none: of the built-in runtime. Waits until
    /// [`find`] has found out, which the deadlines of its steps bound.
    pub(super) async fn has(&self, external: Option<&str>) -> bool {
        let capable = self.0.wait().await;
        external.map_or(capable.builtin, |name| capable.external.contains(name))
    }
}

/// Finds out, once in a node's life.
pub(super) async fn find(node: &Arc<Node>) {
    let capable = capable(node).await;
    let tidy = |node: &Node| {
        // Where there are pods, it is theirs.
        if node.registry.all().is_empty() {
            remove_common_parent(node);
        }
        Ok(())
    };
    if let Err(error) = node.blocking("tidying up after", NAME, tidy).await {
        tracing::debug!(%error, "a group stays");
    }
    // Nobody else does.
    let _ = node.user_namespaces.0.set(capable);
}

async fn capable(node: &Node) -> Capable {
    let config = &node.config;
    if let Err(error) = tried(config, &node.cgroups, &node.executable).await {
        let reason = &error as &dyn std::error::Error;
        tracing::info!(reason, "pods cannot have user namespaces on this node");
        return Capable::default();
    }
    let mut external = BTreeSet::new();
    for (name, program) in &config.handlers {
        if is_passable(&config.state) && says_that_it_can(&program.path).await {
            external.insert(name.clone());
        }
    }
    Capable { builtin: true, external }
}

/// Whether everybody may pass through the directory: an external runtime becomes root of the
/// pod before it goes to the container's root.
fn is_passable(directory: &Path) -> bool {
    let passable = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.mode() & 1 == 1);
    directory.ancestors().all(passable)
}

/// Whether an external runtime knows user namespaces and maps the ids of mounts. What it
/// does not say it cannot.
async fn says_that_it_can(program: &Path) -> bool {
    let mut command = tokio::process::Command::new(program);
    command.arg("features").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let Ok(Ok(said)) = timeout(DEADLINE, command.output()).await else { return false };
    let Ok(features) = serde_json::from_slice::<Value>(&said.stdout) else { return false };
    let linux = &features["linux"];
    let namespaces = linux["namespaces"].as_array();
    namespaces.is_some_and(|list| list.iter().any(|name| name == "user"))
        && linux["mountExtensions"]["idmap"]["enabled"] == true
}

async fn tried(
    config: &Config,
    cgroups: &Cgroups,
    executable: &Executable,
) -> Result<(), TryError> {
    let (state, root) = (config.state.join(NAME), config.root.join(NAME));
    // What a daemon that was killed meanwhile left.
    remove(cgroups, &state, &root).await;
    let outcome = attempt(cgroups, executable, &state, &root).await;
    remove(cgroups, &state, &root).await;
    outcome
}

async fn remove(cgroups: &Cgroups, state: &Path, root: &Path) {
    controller::destroy(state, None);
    if let Ok(pod) = std::fs::read_to_string(state.join(RECORD)) {
        if let Some(group) = cgroups.group(&group_of(cgroups, &pod))
            && let Err(error) = group.kill_all().and_then(|()| group.remove(CGROUP_PATIENCE))
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "a group is not removed");
        }
        if let Err(error) = cgroups.forget(&pod).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a scope is not removed");
        }
    }
    for directory in [state, root] {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, directory = %directory.display(), "not removed");
            }
            _ => {}
        }
    }
}

async fn attempt(
    cgroups: &Cgroups,
    executable: &Executable,
    state: &Path,
    root: &Path,
) -> Result<(), TryError> {
    let rootfs = ["layer", "active/upper", "active/work"].map(|name| root.join(name));
    for path in rootfs.iter().map(PathBuf::as_path).chain([state]) {
        std::fs::create_dir_all(path)
            .map_err(|source| TryError::Directory { path: path.to_owned(), source })?;
    }
    let [layer, upper, work] = rootfs;
    let boot = Boot {
        pod: NAME.to_owned(),
        directory: text(state),
        own_ipc: true,
        user_namespace: Some(IDS),
        hierarchies: cgroups.hierarchies().lines(),
        ..Boot::default()
    };
    // Other daemons of the node try it too, perhaps at the same time.
    let name = format!("{NAME}-{}", std::process::id());
    let record = state.join(RECORD);
    std::fs::write(&record, &name)
        .map_err(|source| TryError::Directory { path: record, source })?;
    let group = group_of(cgroups, &name);
    let settling = cgroups.clone();
    let settle = async move |pid| settling.settle(&name, None, pid).await;
    let starting = Sandbox::start_settled(executable, boot, settle);
    let Connected { sandbox, mut events, .. } =
        timeout(DEADLINE + SETTLE_DEADLINE, starting).await??;
    let create = Create {
        container: NAME.to_owned(),
        spec: spec(&group).into_bytes(),
        rootfs: Some(Rootfs {
            lower: vec![text(&layer)],
            upper: text(&upper),
            work: text(&work),
            ..Rootfs::default()
        }),
        deadline_ms: DEADLINE.as_millis().try_into().unwrap_or(u64::MAX),
        ..Create::default()
    };
    let created = timeout(DEADLINE, sandbox.create(create)).await;
    end_shim(&sandbox, &mut events).await;
    created??;
    Ok(())
}

fn group_of(cgroups: &Cgroups, pod: &str) -> String {
    cgroups.container(pod, Some(cgroups.parent()), pod)
}

/// A container that is set up and never started.
fn spec(group: &str) -> String {
    let mount = |at: &str, kind: &str| json!({"destination": at, "type": kind, "source": kind});
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "args": ["/"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [mount("/proc", "proc"), mount("/sys", "sysfs"), mount("/dev", "tmpfs"),
                   mount("/dev/mqueue", "mqueue")],
        "linux": {
            "cgroupsPath": group,
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
        },
    });
    spec.to_string()
}
