//! What all pods of this node have in common: the stores, the network, the paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sandbox::cgroup::Cgroup;
use sandbox::controller::executable::Executable;
use sandbox::protocol::External;

use super::cgroups::{CgroupDriver, Cgroups};
use super::checkpoint::Criu;
use super::error::PodsError;
use super::events::Events;
use super::record::PodRequest;
use super::registry::Registry;
use super::selinux::Levels;
use super::spec::{self, ExecCpus};
use super::stats::Rates;
use super::user_namespaces::Support;
use crate::cdi::Cdi;
use crate::images::Images;
use crate::metadata::Metadata;
use crate::network::Network;
use crate::snapshots::Snapshots;

/// What pods are told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of what must outlive a reboot.
    pub root: PathBuf,
    /// Directory of what need not.
    pub state: PathBuf,
    /// Who makes cgroups; absent: systemd where that runs the machine and cgroup v2 alone is
    /// mounted, else orlop.
    pub cgroup_driver: Option<CgroupDriver>,
    /// The cgroup or slice below which pods go that name no parent; absent: one of orlop's own.
    pub cgroup_parent: Option<String>,
    /// External OCI runtimes by the name of their handler.
    pub handlers: BTreeMap<String, ExternalRuntime>,
    /// Where commands in containers of the built-in runtime begin.
    pub builtin_exec_cpus: ExecCpus,
    /// The handler of pods that name none; empty: the built-in runtime.
    pub default_handler: String,
    /// Where CDI specs are; what a later directory says wins.
    pub cdi_dirs: Vec<PathBuf>,
    /// The criu program, by path or by its name in `PATH`; empty: no checkpoints.
    pub criu: PathBuf,
    /// Longest line of a container's log before it is split, in bytes.
    pub max_log_line: u32,
}

/// An external OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalRuntime {
    /// The executable.
    pub path: PathBuf,
    /// Where commands in its containers begin.
    pub exec_cpus: ExecCpus,
}

/// What every driver and effect has at hand.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) metadata: Arc<Metadata>,
    pub(super) images: Images,
    pub(super) snapshots: Snapshots,
    pub(super) network: Arc<Network>,
    pub(super) executable: Executable,
    pub(super) user_namespaces: Support,
    pub(super) cdi: Cdi,
    pub(super) criu: Criu,
    pub(super) facts: spec::Node,
    pub(super) cgroups: Cgroups,
    pub(super) selinux_levels: Levels,
    pub(super) registry: Registry,
    pub(super) rates: Rates,
    pub(super) events: Events,
    pub(super) boot_id: String,
}

impl Node {
    /// A pod's state directory.
    pub(super) fn pod_directory(&self, pod: &str) -> PathBuf {
        self.config.state.join("pods").join(pod)
    }

    /// The directory of a container's image-defined volumes.
    pub(super) fn volumes_directory(&self, container: &str) -> PathBuf {
        self.config.root.join("volumes").join(container)
    }

    /// The directory of records of unfinished checkpoints.
    pub(super) fn checkpoints_directory(&self) -> PathBuf {
        self.config.root.join("checkpoints")
    }

    /// The directory of what a container is restored from, until it is started.
    pub(super) fn restores_directory(&self, container: &str) -> PathBuf {
        self.config.root.join("restores").join(container)
    }

    /// The cgroup of one container.
    pub(super) fn container_cgroup(&self, pod: &str, request: &PodRequest, id: &str) -> String {
        self.cgroups.container(pod, request.cgroup_parent(), id)
    }

    /// The cgroup of a pod as a whole: the kubelet's, or one of our own.
    pub(super) fn pod_cgroup(&self, pod: &str, request: &PodRequest) -> String {
        self.cgroups.pod(pod, request.cgroup_parent())
    }

    /// The group at `path`, if that is one.
    pub(super) fn cgroup(&self, path: &str) -> Option<Cgroup> {
        self.cgroups.group(path)
    }

    /// The name of a handler that is an external runtime; none: the built-in one.
    pub(super) fn external_name<'a>(&'a self, handler: &'a str) -> Option<&'a str> {
        let name = if handler.is_empty() { &self.config.default_handler } else { handler };
        Some(name).filter(|name| self.config.handlers.contains_key(*name))
    }

    /// The external runtime of a handler; none: the built-in one. What it remembers of a
    /// pod's containers is in the pod's directory and goes with it.
    pub(super) fn external(&self, pod: &str, handler: &str) -> Option<External> {
        let handler = self.config.handlers.get(self.external_name(handler)?)?;
        let root = self.pod_directory(pod).join("runtime");
        Some(External { path: text(&handler.path), root: text(&root) })
    }

    /// Where commands in containers of a handler begin.
    pub(super) fn exec_cpus(&self, handler: &str) -> ExecCpus {
        let external = self.external_name(handler).and_then(|name| self.config.handlers.get(name));
        external.map_or(self.config.builtin_exec_cpus, |handler| handler.exec_cpus)
    }

    /// Runs blocking work for `id` on a thread of its own.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        id: &str,
        work: impl FnOnce(&Self) -> Result<T, PodsError> + Send + 'static,
    ) -> Result<T, PodsError> {
        let node = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&node)).await;
        done.unwrap_or_else(|_ended| Err(PodsError::Interrupted { what, id: id.to_owned() }))
    }
}

/// A path as the text that messages carry; ours are always UTF-8.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Nanoseconds since the epoch.
pub(super) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
