//! Pods and their containers: who may do what when, and what is written down before.
//!
//! ```text
//! Pods ── registry ── PodHandle ─┬─ view      a picture, read by everybody, waits for nothing
//!                                └─ commands ─▶ driver   one task per pod, owner of its state
//!                                                 │ effects: child tasks that do the work
//!                                                 ▼
//!                          claims (directory, netns, attachment, shim), containers
//! ```
//!
//! **Invariants.** One driver owns a pod's state, its containers' included. Each state is
//! in the database before the effect that it announces and after the effect that it
//! reports. A caller that goes away stops waiting and stops nothing. Nobody but the driver
//! ever waits for a pod.

mod apparmor;
mod attach;
mod cgroups;
mod checkpoint;
mod claims;
mod delivery;
mod driver;
mod error;
mod events;
mod exec;
mod forward;
mod image_mounts;
mod making;
mod node;
/// What is stored.
pub mod record;
mod recovery;
mod registry;
mod restore;
mod selinux;
/// CRI configuration to OCI runtime spec.
pub mod spec;
mod stats;
mod streams;
mod user_namespaces;
/// Pictures of pods.
pub mod view;
mod volumes;

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use sandbox::controller::SandboxError;
use sandbox::controller::executable::{Executable, SealError};
use sandbox::lifecycle::pod::PodState;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

pub use crate::cdi::CdiError;
pub use crate::network::NotReady;
pub use crate::snapshots::Filesystem;
pub use cgroups::{CgroupDriver, CgroupsError};
pub use checkpoint::CheckpointError;
pub use error::{PodsError, Refusal, RequestError};
pub use events::{Event, EventKind, Listener, Silence};
pub use exec::ExecOutput;
pub use node::{Config, ExternalRuntime};
pub use registry::FindError;
pub use restore::{RestoreError, Restored};
pub use sandbox::cgroup::ResourceError as LimitError;
pub use selinux::RelabelError;
pub use spec::ExecCpus;
pub use stats::{
    BlockIo, ContainerDetail, ContainerUsage, CpuDetail, GroupUsage, Interface, MemoryDetail,
    MemoryStats, Metrics, PidsStats, PodUsage, Pressure, PressureLine, Processes, WritableLayer,
};
pub use streams::{Input, Output, Session, Streams, Terminal};

use crate::cdi::Cdi;
use crate::images::Images;
use crate::metadata::Metadata;
use crate::network::Network;
use crate::snapshots::Snapshots;
use cgroups::Cgroups;
use delivery::Parcel;
use driver::{Beginning, Command, Driver, Reply};
use node::{Node, now_ns};
use record::{ContainerRequest, PodRecord, PodRequest, PodResources, RequestedResources};
use registry::{PodHandle, Registry};
use view::{ContainerView, PodView};

/// The name of the handler that is always there.
const BUILTIN: &str = "builtin";

/// How often a name may be freed by another pod's end before its request is given up.
const NAME_TRIES: u32 = 8;

/// The components that pods stand on.
#[derive(Debug)]
pub struct Stores {
    /// The database.
    pub metadata: Arc<Metadata>,
    /// Images.
    pub images: Images,
    /// Writable layers.
    pub snapshots: Snapshots,
    /// Networks.
    pub network: Arc<Network>,
    /// The copy of the binary for shims, made while the other stores are opened.
    pub executable: JoinHandle<Result<Executable, SealError>>,
}

/// Why pods cannot be kept on this machine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The copy of the binary for shims.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The thread that copies it.
    #[error("copy the binary for shims")]
    Copying(#[from] JoinError),
    /// The machine.
    #[error("look at the machine")]
    Detect(#[from] spec::DetectError),
    /// Its cgroups.
    #[error(transparent)]
    Cgroups(#[from] CgroupsError),
    /// The number of this boot.
    #[error("read the boot id")]
    BootId(#[source] std::io::Error),
    /// The records of an earlier daemon.
    #[error("read the records of pods")]
    Load(#[source] PodsError),
    /// A directory.
    #[error("make {}", .path.display())]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// All pods of this node.
#[derive(Debug, Clone)]
pub struct Pods {
    node: Arc<Node>,
    drivers: TaskTracker,
}

impl Pods {
    /// Recovers what an earlier daemon left; when this returns, the pods are as they are.
    ///
    /// # Errors
    /// The machine lacks something that every pod needs. A single pod is never an error.
    pub async fn start(config: Config, stores: Stores) -> Result<Self, StartError> {
        let Stores { metadata, images, snapshots, network, executable } = stores;
        for directory in [config.state.join("pods"), config.root.join("volumes")] {
            // Passable for users of user namespaces, closed to everybody's eyes.
            let mut builder = std::fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o711)
                .create(&directory)
                .map_err(|source| StartError::Directory { path: directory, source })?;
        }
        let cgroups = Cgroups::detect(config.cgroup_driver, config.cgroup_parent.as_deref())?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(StartError::BootId)?;
        if !config.handlers.is_empty() {
            // Their containers' roots are below, and passed to by the roots of pods.
            let passable = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(&config.state, passable)
                .map_err(|source| StartError::Directory { path: config.state.clone(), source })?;
        }
        let executable = executable.await??;
        let cdi = Cdi::new(config.cdi_dirs.clone());
        let facts = spec::Node::detect()?;
        apparmor::load_default(facts.apparmor).await;
        let criu = checkpoint::Criu::new(config.criu.clone());
        let node = Arc::new(Node {
            config,
            metadata,
            images,
            snapshots,
            network,
            executable,
            user_namespaces: user_namespaces::Support::default(),
            cdi,
            facts,
            criu,
            cgroups,
            selinux_levels: selinux::Levels::new(std::process::id()),
            registry: Registry::default(),
            rates: stats::Rates::default(),
            events: events::Events::default(),
            boot_id: boot_id.trim().to_owned(),
        });
        let pods = Self { node, drivers: TaskTracker::new() };
        let node = Arc::clone(&pods.node);
        drop(pods.drivers.spawn(async move { user_namespaces::find(&node).await }));
        pods.recover().await.map_err(StartError::Load)?;
        Ok(pods)
    }

    /// Waits until the start is done with everything that it tries and takes away again, which
    /// its own deadlines bound. Pods live on.
    pub async fn close(&self) {
        self.node.user_namespaces.known().await;
    }

    async fn recover(&self) -> Result<(), PodsError> {
        let found = self.node.blocking("reading records", "all pods", recovery::load).await?;
        let attached = found.iter().filter_map(|pod| {
            pod.record.attachment.as_ref().map(|attachment| (pod.id.as_str(), attachment))
        });
        self.node.network.restore(attached);
        let live: Vec<String> = found.iter().map(|pod| pod.id.clone()).collect();
        if let Err(error) = self.node.network.gc(&live).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "left-overs of the network");
        }
        let mut kept = HashSet::new();
        let mut beginnings = Vec::new();
        for pod in found {
            kept.extend(pod.container_ids().map(str::to_owned));
            let beginning = self.begin(pod.recorded(now_ns()));
            // A name that is taken twice is a record that was not removed; both are served.
            let _ = self.node.registry.reserve(&pod.request.unique_name(), &beginning.handle);
            beginnings.push((pod, beginning));
        }
        let handles: Vec<_> = beginnings.iter().map(|(_, one)| Arc::clone(&one.handle)).collect();
        self.node.registry.insert(&handles);
        let mut recovering = tokio::task::JoinSet::new();
        for (pod, beginning) in beginnings {
            recovering.spawn(recovery::recover(Arc::clone(&self.node), pod, beginning));
        }
        while let Some(recovered) = recovering.join_next().await {
            match recovered {
                Ok(driver) => drop(self.drivers.spawn(driver)),
                Err(error) => tracing::error!(%error, "recovering a pod ended early"),
            }
        }
        for handle in handles.iter().filter(|one| one.view.load().record.unfinished.is_some()) {
            let handle = Arc::clone(handle);
            drop(self.drivers.spawn(async move { restore::remove(&handle).await }));
        }
        let unfinished = checkpoint::unfinished(&self.node.checkpoints_directory());
        // They may be on file systems that hang, for which nothing else waits.
        drop(self.drivers.spawn_blocking(move || drop(unfinished)));
        self.node.blocking("sweeping", "all pods", move |node| sweep(node, &kept)).await
    }

    fn begin(&self, view: PodView) -> Beginning {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (request, record) = (Arc::clone(&view.request), view.record.clone());
        let handle = Arc::new(PodHandle {
            id: view.id.clone(),
            commands,
            view: ArcSwap::from_pointee(view),
            sandbox: ArcSwapOption::empty(),
        });
        Beginning { node: Arc::clone(&self.node), handle, request, record, inbox }
    }

    // ---- pods ----

    /// Makes a pod and brings it up. A second call with the same request gets the first
    /// one's result, if that is not known to anybody yet (see `delivery`).
    ///
    /// # Errors
    /// Nothing is left, or (if giving back failed) a pod that is not ready is listed.
    ///
    /// # Cancel safety
    /// The work goes on; ask again to get its result.
    pub async fn run_pod_sandbox(&self, request: PodRequest) -> Result<String, PodsError> {
        self.check_pod(&request).await?;
        let (name, request) = (request.unique_name(), Arc::new(request));
        let mut tries = 0..NAME_TRIES;
        loop {
            let beginning = self.begin(self.new_pod(Arc::clone(&request)));
            let Err(other) = self.node.registry.reserve(&name, &beginning.handle) else {
                self.node.registry.insert(std::slice::from_ref(&beginning.handle));
                let (reply, answer) = oneshot::channel();
                self.drivers.spawn(Driver::new(beginning).run_new(reply));
                let made = answer.await.unwrap_or_else(|_closed| Err(SandboxError::Lost.into()));
                return made.map(Parcel::deliver);
            };
            if other.view.load().request != request {
                return Err(PodsError::NameTaken { kind: "pod", name, id: other.id.clone() });
            }
            match ask(&other, Command::Run).await {
                // It is forgotten just now, and its name is free.
                Err(PodsError::Gone { .. }) if tries.next().is_some() => {}
                answer => return answer.map(Parcel::deliver),
            }
        }
    }

    fn new_pod(&self, request: Arc<PodRequest>) -> PodView {
        let at_ns = now_ns();
        let state = PodState::preparing(claims::plan(&request));
        let mut record = PodRecord::new(self.node.boot_id.clone(), at_ns, state);
        record.selinux_level = self.selinux_level(&request);
        PodView { id: new_id(), at_ns, request, record, containers: BTreeMap::new() }
    }

    /// The one that is asked for, else one of its own.
    fn selinux_level(&self, request: &PodRequest) -> Option<String> {
        self.node.facts.selinux.as_ref()?;
        let asked = spec::selinux_level(request.selinux_options()).ok().flatten();
        let own = || {
            let pods = self.node.registry.all();
            let levels: HashSet<String> = pods
                .values()
                .filter_map(|pod| pod.view.load().record.selinux_level.clone())
                .collect();
            self.node.selinux_levels.fresh(|level| levels.contains(level))
        };
        Some(asked.map_or_else(own, str::to_owned))
    }

    async fn check_pod(&self, request: &PodRequest) -> Result<(), RequestError> {
        let named = request.config.metadata.as_ref().is_some_and(|m| !m.name.is_empty());
        if !named {
            return Err(RequestError::NoMetadata { kind: "pod" });
        }
        let handler = &request.runtime_handler;
        if !handler.is_empty() && !self.handlers().contains(handler) {
            let known = self.handlers().join(", ");
            return Err(RequestError::UnknownHandler { name: handler.clone(), known });
        }
        self.node.cgroups.check(request.cgroup_parent())?;
        spec::check_pod_namespaces(&request.namespaces())?;
        if request.user_namespace().is_some() && !self.has_user_namespaces(handler).await {
            return Err(RequestError::NoUserNamespaces { handler: handler.clone() });
        }
        spec::pod_sysctls(&request.config)?;
        spec::resolv_conf(request.config.dns_config.as_ref())?;
        spec::hostname_file(&request.hostname())?;
        spec::selinux_level(request.selinux_options())
            .map_err(|error| RequestError::Spec(error.into()))?;
        Ok(())
    }

    /// Takes a pod down: kills its containers and gives back its claims but the record.
    /// A pod that is unknown, or down, is no error.
    ///
    /// # Errors
    /// What could not be given back; call again.
    ///
    /// # Cancel safety
    /// The work goes on.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), PodsError> {
        self.ask_pod(id, Command::Stop).await
    }

    /// Takes a pod down and forgets it with its containers. Unknown is no error.
    ///
    /// # Errors
    /// What could not be given back; call again.
    ///
    /// # Cancel safety
    /// The work goes on.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), PodsError> {
        self.ask_pod(id, Command::Remove).await
    }

    async fn ask_pod(
        &self,
        id: &str,
        command: impl FnOnce(Reply<()>) -> Command,
    ) -> Result<(), PodsError> {
        match self.node.registry.pod(id) {
            Ok(handle) => gone_is_done(ask(&handle, command).await),
            Err(FindError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers what the kubelet has limited a pod's cgroup to. The cgroup is the
    /// kubelet's: nothing is written there.
    ///
    /// # Errors
    /// There is no such pod; or it cannot be recorded, and is as before.
    pub async fn update_pod_resources(
        &self,
        id: &str,
        said: PodResources,
    ) -> Result<(), PodsError> {
        let pod = self.pod(id)?;
        let handle = self.node.registry.pod(&pod.id)?;
        ask(&handle, |reply| Command::UpdatePod(Box::new(said), reply)).await
    }

    /// The pod whose id is or begins with `id`.
    ///
    /// # Errors
    /// None, or several.
    pub fn pod(&self, id: &str) -> Result<Arc<PodView>, FindError> {
        let view = self.node.registry.pod(id)?.view.load_full();
        if view.record.state.is_listed() {
            Ok(view)
        } else {
            Err(FindError::NotFound { kind: "pod", id: id.to_owned() })
        }
    }

    /// All pods that the kubelet is told of, oldest first. Waits for nothing.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<PodView>> {
        let all = self.node.registry.all();
        let mut pods: Vec<_> = all.values().map(|handle| handle.view.load_full()).collect();
        pods.retain(|pod| pod.record.state.is_listed());
        pods.sort_by_key(|pod| pod.record.created_at_ns);
        pods
    }

    // ---- containers ----

    /// Makes a container in a ready pod, up to the point where its program would run. A
    /// second call with the same request gets the first one's result, if that is not known
    /// to anybody yet (see `delivery`).
    ///
    /// # Errors
    /// Nothing is left of it.
    ///
    /// # Cancel safety
    /// The work goes on; ask again to get its result.
    pub async fn create_container(
        &self,
        pod: &str,
        request: ContainerRequest,
    ) -> Result<String, PodsError> {
        let handle = self.node.registry.pod(pod)?;
        check_container(&handle.view.load().request, &request)?;
        let (id, request, restoration) = (new_id(), Arc::new(request), None);
        let create = |reply| Command::Create { id, request, restoration, reply };
        let made = ask(&handle, create).await;
        made.map(Parcel::deliver)
    }

    /// Runs a created container's program; returns once it runs.
    ///
    /// # Errors
    /// It is not in the state created, or its program cannot be started; then it is over.
    ///
    /// # Cancel safety
    /// The work goes on.
    pub async fn start_container(&self, id: &str) -> Result<(), PodsError> {
        let (handle, container) = self.node.registry.container(id)?;
        let id = container.id.clone();
        ask(&handle, |reply| Command::Start { id, reply }).await
    }

    /// Ends a container's program: stop signal, `grace`, SIGKILL. Returns when it is seen
    /// as exited. Unknown, or not running, is no error.
    ///
    /// # Errors
    /// It survives SIGKILL.
    ///
    /// # Cancel safety
    /// The work goes on.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), PodsError> {
        self.ask_container(id, |id, reply| Command::StopContainer { id, grace, reply }).await
    }

    /// Kills a container and forgets it. Unknown is no error.
    ///
    /// # Errors
    /// What could not be given back; call again.
    ///
    /// # Cancel safety
    /// The work goes on.
    pub async fn remove_container(&self, id: &str) -> Result<(), PodsError> {
        self.ask_container(id, |id, reply| Command::RemoveContainer { id, reply }).await
    }

    /// Changes a container's limits, all of those named or none; what is not named stays.
    /// One that does not run gets them when it is started.
    ///
    /// # Errors
    /// A limit cannot be set, or recorded; then all are as before.
    ///
    /// # Cancel safety
    /// The work goes on.
    pub async fn update_container_resources(
        &self,
        id: &str,
        asked: RequestedResources,
    ) -> Result<(), PodsError> {
        let id = self.container(id)?.id.clone();
        let (handle, _) = self.node.registry.container(&id)?;
        let asked = Box::new(asked);
        ask(&handle, |reply| Command::UpdateResources { id, asked, reply }).await
    }

    async fn ask_container(
        &self,
        id: &str,
        command: impl FnOnce(String, Reply<()>) -> Command,
    ) -> Result<(), PodsError> {
        match self.node.registry.container(id) {
            Ok((handle, container)) => {
                let id = container.id.clone();
                gone_is_done(ask(&handle, |reply| command(id, reply)).await)
            }
            Err(FindError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The container whose id is or begins with `id`.
    ///
    /// # Errors
    /// None, or several.
    pub fn container(&self, id: &str) -> Result<Arc<ContainerView>, FindError> {
        let (_, container) = self.node.registry.container(id)?;
        if container.record.state.is_listed() {
            Ok(container)
        } else {
            Err(FindError::NotFound { kind: "container", id: id.to_owned() })
        }
    }

    /// All containers that the kubelet is told of, oldest first. Waits for nothing.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<ContainerView>> {
        let mut containers: Vec<_> = self
            .node
            .registry
            .all()
            .values()
            .flat_map(|handle| {
                let view = handle.view.load_full();
                view.listed_containers().cloned().collect::<Vec<_>>()
            })
            .collect();
        containers.sort_by_key(|container| container.record.created_at_ns);
        containers
    }

    /// Runs a program in a running container and collects its output.
    ///
    /// # Errors
    /// It could not be started, or ran longer than `timeout` and was killed. An exit code
    /// is no error.
    ///
    /// # Cancel safety
    /// Dropping the future kills the program.
    pub async fn exec_sync(
        &self,
        id: &str,
        argv: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, PodsError> {
        let (sandbox, container) = self.running(id, "run a command in it")?;
        exec::exec_sync(sandbox, &container, argv, timeout).await
    }

    /// Runs a program in a running container for a client that stays.
    ///
    /// # Errors
    /// It could not be started. Without a terminal that is the session's end.
    ///
    /// # Cancel safety
    /// Dropping the future, or the session's end, kills the program.
    pub async fn exec_streaming(
        &self,
        id: &str,
        argv: Vec<String>,
        streams: Streams,
    ) -> Result<Session, PodsError> {
        let (sandbox, container) = self.running(id, "run a command in it")?;
        exec::exec_streaming(sandbox, &container, argv, streams).await
    }

    /// Attaches a client to a running container's first process.
    ///
    /// # Errors
    /// The client and the container do not agree about a terminal.
    ///
    /// # Cancel safety
    /// Dropping the future, or the session's end, detaches.
    pub async fn attach(&self, id: &str, streams: Streams) -> Result<Session, PodsError> {
        let (sandbox, container) = self.running(id, "attach to it")?;
        attach::attach(sandbox, &container, streams).await
    }

    /// Connects to a TCP port on the loopback of a ready pod.
    ///
    /// # Errors
    /// The pod is not ready, or nobody listens there.
    pub async fn port_forward(
        &self,
        pod: &str,
        port: u16,
    ) -> Result<tokio::net::TcpStream, PodsError> {
        let handle = self.node.registry.pod(pod)?;
        let Some(sandbox) = handle.sandbox.load_full() else {
            let (what, kind) = ("connect to a port of it", "pod");
            let (id, state) = (handle.id.clone(), "not ready");
            return Err(PodsError::WrongState { what, kind, id, state });
        };
        forward::port_forward(&sandbox, &handle.id, port).await
    }

    /// What a running container uses.
    ///
    /// # Errors
    /// It is not running.
    pub async fn container_stats(
        &self,
        id: &str,
    ) -> Result<(Arc<ContainerView>, ContainerUsage), PodsError> {
        let (_, container) = self.running(id, "read its statistics")?;
        let read = stats::of_containers(&self.node, vec![Arc::clone(&container)]).await?;
        read.into_iter().next().ok_or_else(|| PodsError::WrongState {
            what: "read its statistics",
            kind: "container",
            id: container.id.clone(),
            state: "ending",
        })
    }

    /// What each of `containers` uses; those that are not running are left out.
    ///
    /// # Errors
    /// The thread that reads was interrupted.
    pub async fn containers_stats(
        &self,
        containers: Vec<Arc<ContainerView>>,
    ) -> Result<Vec<(Arc<ContainerView>, ContainerUsage)>, PodsError> {
        stats::of_containers(&self.node, containers).await
    }

    /// What a ready pod uses.
    ///
    /// # Errors
    /// It is not ready.
    pub async fn pod_stats(&self, id: &str) -> Result<(Arc<PodView>, PodUsage), PodsError> {
        let pod = self.pod(id)?;
        let read = stats::of_pods(&self.node, vec![Arc::clone(&pod)]).await?;
        read.into_iter().next().ok_or_else(|| PodsError::WrongState {
            what: "read its statistics",
            kind: "pod",
            id: pod.id.clone(),
            state: "not ready",
        })
    }

    /// What each of `pods` uses; those that are not ready are left out.
    ///
    /// # Errors
    /// The thread that reads was interrupted.
    pub async fn pods_stats(
        &self,
        pods: Vec<Arc<PodView>>,
    ) -> Result<Vec<(Arc<PodView>, PodUsage)>, PodsError> {
        stats::of_pods(&self.node, pods).await
    }

    /// Everything about what ready pods use.
    ///
    /// # Errors
    /// The thread that reads was interrupted.
    pub async fn metrics(&self) -> Result<Metrics, PodsError> {
        stats::metrics(&self.node, self.pods()).await
    }

    /// Closes a running container's log file and opens it again by its name.
    ///
    /// # Errors
    /// The old file stays in use.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), PodsError> {
        let (sandbox, container) = self.running(id, "reopen its log")?;
        Ok(sandbox.reopen_log(&container.id).await?)
    }

    /// The running container whose id is or begins with `id`.
    ///
    /// # Errors
    /// None, several, or it is not running.
    pub fn running_container(&self, id: &str) -> Result<Arc<ContainerView>, PodsError> {
        Ok(self.running(id, "open a session with it")?.1)
    }

    /// The running container whose id is or begins with `id`, if `streams` can be attached
    /// to it.
    ///
    /// # Errors
    /// None, several, it is not running, or it is not as `streams` has it on a terminal.
    pub fn attachable_container(
        &self,
        id: &str,
        streams: Streams,
    ) -> Result<Arc<ContainerView>, PodsError> {
        let container = self.running_container(id)?;
        attach::check(&container, streams)?;
        Ok(container)
    }

    /// The ready pod whose id is or begins with `id`.
    ///
    /// # Errors
    /// None, several, or it is not ready.
    pub fn ready_pod(&self, id: &str) -> Result<Arc<PodView>, PodsError> {
        let pod = self.pod(id)?;
        if pod.is_ready() {
            return Ok(pod);
        }
        let (what, kind) = ("forward its ports", "pod");
        Err(PodsError::WrongState { what, kind, id: pod.id.clone(), state: "not ready" })
    }

    fn running(
        &self,
        id: &str,
        what: &'static str,
    ) -> Result<(Arc<sandbox::controller::Sandbox>, Arc<ContainerView>), PodsError> {
        let (handle, container) = self.node.registry.container(id)?;
        let sandbox = handle.sandbox.load_full();
        match sandbox {
            Some(sandbox) if container.is_running() => Ok((sandbox, container)),
            _ => Err(PodsError::WrongState {
                what,
                kind: "container",
                id: container.id.clone(),
                state: "not running",
            }),
        }
    }

    /// A place to hear what happens to pods and containers from now on. The first one after
    /// a start hears what happened since then as well.
    #[must_use]
    pub fn listen(&self) -> Listener {
        self.node.events.listen()
    }

    /// Ends all listeners; pods go on.
    pub fn end_events(&self) {
        self.node.events.close();
    }

    // ---- the node ----

    /// The names of the runtime handlers, the default one ("") left out.
    #[must_use]
    pub fn handlers(&self) -> Vec<String> {
        let external = self.node.config.handlers.keys().cloned();
        std::iter::once(BUILTIN.to_owned()).chain(external).collect()
    }

    /// Whether pods of this handler ("": the default one) can have user namespaces. Waits
    /// for the answer just after the start.
    pub async fn has_user_namespaces(&self, handler: &str) -> bool {
        self.node.user_namespaces.has(self.node.external_name(handler)).await
    }

    /// Whether pods can get a network. Never blocks.
    ///
    /// # Errors
    /// Why not.
    pub fn network_status(&self) -> Result<(), NotReady> {
        self.node.network.status()
    }

    /// Who makes the cgroups of pods.
    #[must_use]
    pub fn cgroup_driver(&self) -> CgroupDriver {
        self.node.cgroups.driver()
    }

    /// Where what need not outlive a reboot is kept.
    #[must_use]
    pub fn state_directory(&self) -> &Path {
        &self.node.config.state
    }
}

/// Removes what belongs to containers that no record knows.
fn sweep(node: &Node, kept: &HashSet<String>) -> Result<(), PodsError> {
    for key in node.snapshots.keys() {
        if !kept.contains(image_mounts::owner(&key)) {
            node.snapshots.remove(&key)?;
        }
    }
    for entry in std::fs::read_dir(node.config.root.join("volumes")).into_iter().flatten().flatten()
    {
        if !kept.contains(entry.file_name().to_string_lossy().as_ref()) {
            volumes::remove(&entry.path())?;
        }
    }
    for entry in
        std::fs::read_dir(node.config.root.join("restores")).into_iter().flatten().flatten()
    {
        if !kept.contains(entry.file_name().to_string_lossy().as_ref()) {
            restore::remove_images(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether such a container can be in such a pod.
fn check_container(pod: &PodRequest, request: &ContainerRequest) -> Result<(), RequestError> {
    let named = request.config.metadata.as_ref().is_some_and(|m| !m.name.is_empty());
    if !named {
        return Err(RequestError::NoMetadata { kind: "container" });
    }
    let namespaces = spec::container_namespaces(&request.config);
    Ok(spec::check_container_namespaces(&namespaces, &pod.namespaces())?)
}

async fn ask<T>(
    handle: &PodHandle,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, PodsError> {
    let (reply, answer) = oneshot::channel();
    let gone = || PodsError::Gone { id: handle.id.clone() };
    handle.commands.send(command(reply)).map_err(|_closed| gone())?;
    answer.await.unwrap_or_else(|_closed| Err(gone()))
}

/// Who wanted something ended has it when it is gone.
fn gone_is_done(result: Result<(), PodsError>) -> Result<(), PodsError> {
    match result {
        Err(PodsError::Gone { .. }) => Ok(()),
        result => result,
    }
}

/// A new id: 64 hexadecimal digits.
fn new_id() -> String {
    let mut bytes = [0_u8; 32];
    // The kernel's generator does not fail once the machine is up; if it did, two pods
    // would have one id, which the registry refuses by name only. Ending is right.
    if getrandom::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    hex::encode(bytes)
}
