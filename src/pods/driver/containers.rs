//! The driver's dealings with its containers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sandbox::controller::{Sandbox, SandboxError};
use sandbox::lifecycle::container::{ContainerState, Exit, ExitCause, Observed};
use sandbox::lifecycle::pod::PodState;
use sandbox::protocol;
use tokio::task::AbortHandle;

use super::resources::{Update, refuse_updates, start_of};
use super::{
    Done, Driver, Life, Reply, answer, answer_all, end_message, is_live, observed, unseen,
};
use crate::metadata::ContainerRow;
use crate::pods::delivery::{Delivery, Parcel};
use crate::pods::error::PodsError;
use crate::pods::making::{self, Made, Order};
use crate::pods::node::{Node, now_ns};
use crate::pods::record::{ContainerRecord, ContainerRequest, ImageUsed};
use crate::pods::restore::Restoration;
use crate::pods::view::ContainerView;

/// The exit code of a container that could not be started, as containerd has it.
const START_FAILED: i32 = 128;

/// How long a killed container may take to be seen dead before those who wait are told.
const KILL_PATIENCE: Duration = Duration::from_secs(60);

/// The kernel's number of SIGKILL.
const SIGKILL: i32 = 9;

/// A container, for its driver.
pub(in crate::pods) struct Container {
    pub(in crate::pods) request: Arc<ContainerRequest>,
    pub(in crate::pods) record: ContainerRecord,
    pub(in crate::pods) pid: Option<u32>,
    creators: Vec<Reply<Parcel>>,
    starter: Option<Reply<()>>,
    stoppers: Vec<Reply<()>>,
    removers: Vec<Reply<()>>,
    /// Signals that are still to be sent; they end with the container.
    signals: Vec<AbortHandle>,
    /// Changes of its limits, the one at work first.
    pub(super) updates: VecDeque<Update>,
    /// It is being freed.
    freeing: bool,
    /// Its end, if that was heard of before the end of its making.
    early_end: Option<protocol::ContainerState>,
    /// What became of it while no daemon ran is not written down yet.
    unsaved: bool,
    /// Whether somebody knows its id.
    delivery: Delivery,
    /// Why it could not be made.
    failure: Option<Arc<PodsError>>,
}

impl Container {
    pub(in crate::pods) fn new(request: Arc<ContainerRequest>, record: ContainerRecord) -> Self {
        Self {
            request,
            record,
            pid: None,
            creators: Vec::new(),
            starter: None,
            stoppers: Vec::new(),
            removers: Vec::new(),
            signals: Vec::new(),
            updates: VecDeque::new(),
            freeing: false,
            early_end: None,
            unsaved: false,
            delivery: Delivery::default(),
            failure: None,
        }
    }

    pub(super) fn view(&self, id: &str, pod: &str) -> Arc<ContainerView> {
        Arc::new(ContainerView {
            id: id.to_owned(),
            pod: pod.to_owned(),
            request: Arc::clone(&self.request),
            record: self.record.clone(),
            pid: self.pid,
        })
    }

    /// Answers who asks again for this container, or for another one of its name.
    fn join(&mut self, id: &str, request: &ContainerRequest, reply: Reply<Parcel>) {
        let same = self.request.means_the_same(request);
        match &self.record.state {
            ContainerState::Creating if same => self.creators.push(reply),
            // It failed; who waits is told once everything is given back.
            ContainerState::Removing if same && self.failure.is_some() => self.creators.push(reply),
            ContainerState::Created if same && !self.delivery.is_made() => {
                answer(reply, Ok(self.delivery.parcel(id)));
            }
            _ => {
                let name = self.request.unique_name();
                let (kind, id) = ("container", id.to_owned());
                answer(reply, Err(PodsError::NameTaken { kind, name, id }));
            }
        }
    }

    /// Takes note of its end, or of what else was seen of it.
    fn saw(&mut self, seen: Observed, message: String) {
        self.record.state = self.record.state.clone().reconcile(seen);
        if !message.is_empty() {
            self.record.message = message;
        }
    }

    pub(super) fn wrong_state(&self, what: &'static str, id: &str) -> PodsError {
        let state = match self.record.state {
            ContainerState::Creating => "being created",
            ContainerState::Created => "created and not started",
            ContainerState::Starting => "starting",
            ContainerState::Running { .. } => "running",
            ContainerState::Exited { .. } => "exited",
            ContainerState::Removing => "being removed",
        };
        PodsError::WrongState { what, kind: "container", id: id.to_owned(), state }
    }
}

/// What a starting daemon found of a container.
pub(in crate::pods) struct Seen {
    pub(in crate::pods) observed: Observed,
    /// What the shim said of its end.
    pub(in crate::pods) message: String,
    pub(in crate::pods) pid: Option<u32>,
}

fn not_ready(id: String) -> PodsError {
    PodsError::WrongState { what: "create a container", kind: "pod", id, state: "not ready" }
}

pub(super) fn no_container(id: &str) -> PodsError {
    PodsError::Find(crate::pods::FindError::NotFound { kind: "container", id: id.to_owned() })
}

impl Driver {
    /// Puts a new container into the driver's hands.
    fn adopt(&mut self, id: String, container: Container) {
        self.node.registry.insert_container(&id, &self.handle);
        self.containers.insert(id, container);
    }

    /// Puts a container of an earlier daemon, as it was found, into the driver's hands.
    pub(in crate::pods) fn adopt_recovered(
        &mut self,
        id: String,
        request: Arc<ContainerRequest>,
        record: ContainerRecord,
        Seen { observed, message, pid }: Seen,
    ) {
        let recorded = record.state.clone();
        let mut container = Container { pid, ..Container::new(request, record) };
        container.saw(observed, message);
        container.unsaved = container.record.state != recorded;
        if container.record.state != ContainerState::Created {
            container.delivery.is_proven();
        }
        self.containers.insert(id, container);
    }

    /// Writes down what became of the containers of an earlier daemon: the exit files that
    /// say so go with the pod's directory.
    pub(super) async fn save_recovered(&mut self) {
        let mut unsaved = Vec::new();
        for (id, container) in &mut self.containers {
            if std::mem::take(&mut container.unsaved) {
                unsaved.push(id.clone());
            }
        }
        for id in unsaved {
            self.save_container(&id).await;
        }
    }

    // ---- create ----

    pub(super) async fn create(
        &mut self,
        id: String,
        request: Arc<ContainerRequest>,
        restoration: Option<Restoration>,
        reply: Reply<Parcel>,
    ) {
        let PodState::Ready { shim, .. } = self.record.state else {
            return answer(reply, Err(not_ready(self.handle.id.clone())));
        };
        let Some(sandbox) = self.sandbox.clone() else {
            return answer(reply, Err(SandboxError::Lost.into()));
        };
        self.delivery.is_proven();
        let name = request.unique_name();
        let same = self.containers.iter_mut().find(|(_, one)| one.request.unique_name() == name);
        if let Some((other, container)) = same {
            return container.join(other, &request, reply);
        }
        let pid_mode = match self.pid_mode(&request) {
            Ok(mode) => mode,
            Err(error) => return answer(reply, Err(error)),
        };
        let cgroup_path = self.node.container_cgroup(self.id(), &self.request, &id);
        let image = ImageUsed::default();
        let record = ContainerRecord::new(now_ns(), image, cgroup_path.clone(), 0);
        let mut container = Container::new(Arc::clone(&request), record);
        container.creators.push(reply);
        self.adopt(id.clone(), container);
        if let Err(error) = self.insert_container(&id).await {
            if let Some(mut container) = self.containers.remove(&id) {
                answer_all(&mut container.creators, Err(Arc::new(error)));
            }
            return self.node.registry.remove_container(&id);
        }
        self.publish();
        let order = Order {
            id: id.clone(),
            pod: self.handle.id.clone(),
            pod_request: Arc::clone(&self.request),
            request,
            cgroup_path,
            shim,
            pid_mode,
            selinux_level: self.record.selinux_level.clone(),
            restoration,
        };
        let making = making::make(Arc::clone(&self.node), sandbox, order);
        self.effects.spawn(async move { Done::Made(id, making.await) });
    }

    pub(super) async fn made(&mut self, id: &str, made: Result<Made, PodsError>) {
        let is_ready = matches!(self.record.state, PodState::Ready { .. });
        let pod = self.handle.id.clone();
        let Some(container) = self.containers.get_mut(id) else { return };
        // A pod that went down meanwhile has no use for it.
        let made = made.and_then(|made| if is_ready { Ok(made) } else { Err(not_ready(pod)) });
        match made {
            Ok(made) => {
                let Made { image, user, log_path, stop_signal, resources, image_mounts, pid } =
                    made;
                let record = &mut container.record;
                (record.image, record.user, record.log_path) = (image, user, log_path);
                (record.stop_signal, container.pid) = (stop_signal, pid);
                (record.resources, record.image_mounts) = (resources, image_mounts);
                record.state = ContainerState::Created;
                if let Some(end) = container.early_end.take() {
                    container.saw(observed(&end), end_message(&end));
                    container.pid = None;
                }
                self.save_container(id).await;
                self.publish();
                if let Some(container) = self.containers.get_mut(id) {
                    let parcel = container.delivery.parcel(id);
                    answer_all(&mut container.creators, Ok(parcel));
                }
            }
            Err(error) => {
                container.failure = Some(Arc::new(error));
                container.record.state = ContainerState::Removing;
                self.save_container(id).await;
                self.publish();
                self.free(id);
            }
        }
    }

    // ---- start ----

    pub(super) async fn start(&mut self, id: &str, reply: Reply<()>) {
        let sandbox = self.sandbox.clone();
        let Some(container) = self.containers.get_mut(id) else {
            return answer(reply, Err(no_container(id)));
        };
        if container.record.state != ContainerState::Created || container.freeing {
            return answer(reply, Err(container.wrong_state("start it", id)));
        }
        let Some(sandbox) = sandbox else {
            return answer(reply, Err(SandboxError::Lost.into()));
        };
        let start = match start_of(id, container, &self.node) {
            Ok(start) => start,
            Err(error) => return answer(reply, Err(error)),
        };
        container.delivery.is_proven();
        container.record.state = ContainerState::Starting;
        container.starter = Some(reply);
        let cgroup_path = container.record.cgroup_path.clone();
        self.save_container(id).await;
        self.publish();
        let id = id.to_owned();
        let starting = making::start(Arc::clone(&self.node), sandbox, start, cgroup_path);
        self.effects.spawn(async move { Done::Started(id, starting.await) });
    }

    pub(super) async fn started(
        &mut self,
        id: &str,
        started: Result<protocol::ContainerState, PodsError>,
    ) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let record = &mut container.record;
        let result = match started {
            Ok(state) => {
                // Its exit may have been heard of before this.
                if record.state == ContainerState::Starting {
                    container.pid = (state.pid > 0).then_some(state.pid);
                    record.state = ContainerState::Running { started_at_ns: state.started_at_ns };
                }
                Ok(())
            }
            Err(error) => {
                record.message = chain(&error);
                let exit = Exit {
                    code: START_FAILED,
                    finished_at_ns: now_ns(),
                    cause: ExitCause::StartFailed,
                };
                if record.state == ContainerState::Starting {
                    record.state = ContainerState::Exited { exit, started_at_ns: None };
                }
                Err(error)
            }
        };
        let starter = container.starter.take();
        self.save_container(id).await;
        self.publish();
        if let Some(starter) = starter {
            answer(starter, result);
        }
    }

    // ---- stop ----

    pub(super) fn stop_container(&mut self, id: &str, grace: Duration, reply: Reply<()>) {
        let sandbox = self.sandbox.clone();
        let Some(container) = self.containers.get_mut(id) else { return answer(reply, Ok(())) };
        let running = matches!(
            container.record.state,
            ContainerState::Running { .. } | ContainerState::Starting
        );
        let (true, Some(sandbox)) = (running, sandbox) else { return answer(reply, Ok(())) };
        let first = container.stoppers.is_empty();
        container.stoppers.push(reply);
        let signal = (first && !grace.is_zero()).then_some(container.record.stop_signal);
        let path = container.record.cgroup_path.clone();
        let stopping = stop(Arc::clone(&self.node), sandbox, id.to_owned(), path, signal, grace);
        let handle = self.effects.spawn(stopping);
        if let Some(container) = self.containers.get_mut(id) {
            container.signals.push(handle);
        }
    }

    pub(super) fn stuck(&mut self, id: &str, error: PodsError) {
        if let Some(container) = self.containers.get_mut(id) {
            answer_all(&mut container.stoppers, Err(Arc::new(error)));
        }
    }

    pub(super) async fn container_exited(&mut self, state: &protocol::ContainerState) {
        let id = &state.container;
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.record.state == ContainerState::Creating {
            container.early_end = Some(state.clone());
        }
        if !is_live(&container.record.state) {
            return;
        }
        let seen = observed(state);
        if let (ContainerState::Starting, Observed::Ended { started_at_ns: Some(at), .. }) =
            (&container.record.state, seen)
        {
            // It ran, although its end is heard of before its start.
            container.record.state = ContainerState::Running { started_at_ns: at };
            self.publish();
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        container.saw(seen, end_message(state));
        container.pid = None;
        for signal in container.signals.drain(..) {
            signal.abort();
        }
        self.save_container(id).await;
        self.publish();
        if let Some(container) = self.containers.get_mut(id) {
            answer_all(&mut container.stoppers, Ok(()));
        }
    }

    /// Without a shim no container lives: each one's end is in its exit file, or nobody
    /// saw it.
    pub(super) async fn bury_containers(&mut self) {
        let exits = self.node.pod_directory(self.id()).join("exits");
        let live: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, one)| is_live(&one.record.state))
            .map(|(id, _)| id.clone())
            .collect();
        for id in live {
            let path = exits.join(&id);
            let written = self
                .node
                .blocking("reading the exit", &id, move |_| Ok(std::fs::read(path).ok()))
                .await;
            let state = written.ok().flatten().and_then(|bytes| protocol::decode_exit(&bytes).ok());
            let seen = state.as_ref().map_or_else(unseen, observed);
            let message = state.as_ref().map(end_message).unwrap_or_default();
            let Some(container) = self.containers.get_mut(&id) else { continue };
            container.saw(seen, message);
            container.pid = None;
            self.save_container(&id).await;
            if let Some(container) = self.containers.get_mut(&id) {
                answer_all(&mut container.stoppers, Ok(()));
            }
        }
        self.publish();
    }

    // ---- remove ----

    pub(super) async fn remove_container(&mut self, id: &str, reply: Reply<()>) {
        let Some(container) = self.containers.get_mut(id) else { return answer(reply, Ok(())) };
        if matches!(container.record.state, ContainerState::Starting | ContainerState::Creating) {
            return answer(reply, Err(container.wrong_state("remove it", id)));
        }
        container.removers.push(reply);
        // One that lives stays listed until it is dead; of the others nothing can be told
        // once their things begin to go.
        if matches!(container.record.state, ContainerState::Exited { .. }) {
            container.record.state = ContainerState::Removing;
            self.save_container(id).await;
            self.publish();
        }
        self.free(id);
    }

    /// Gives back what a container holds; what follows is [`Driver::freed`].
    pub(super) fn free(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        // What is being made is freed when that has come to its end.
        if container.record.state == ContainerState::Creating
            || std::mem::replace(&mut container.freeing, true)
        {
            return;
        }
        let freeing = making::free(
            Arc::clone(&self.node),
            self.sandbox.clone(),
            self.handle.id.clone(),
            id.to_owned(),
            container.record.cgroup_path.clone(),
        );
        let id = id.to_owned();
        self.effects.spawn(async move { Done::Freed(id, freeing.await) });
    }

    pub(super) async fn freed(&mut self, id: &str, freed: Result<(), PodsError>) -> Life {
        let deleted = match freed {
            Ok(()) => {
                let row = id.to_owned();
                let delete = move |node: &crate::pods::node::Node| {
                    Ok(node.metadata.delete_container(&row)?)
                };
                self.node.blocking("forgetting", id, delete).await
            }
            failed => failed,
        };
        if let Err(error) = deleted {
            let error = Arc::new(error);
            if let Some(container) = self.containers.get_mut(id) {
                container.freeing = false;
                let failure = container.failure.take().unwrap_or_else(|| Arc::clone(&error));
                answer_all(&mut container.creators, Err(failure));
                answer_all(&mut container.removers, Err(Arc::clone(&error)));
            }
            answer_all(&mut self.removers, Err(error));
            return Life::GoesOn;
        }
        let container = self.containers.remove(id);
        self.node.registry.remove_container(id);
        self.node.rates.forget(id);
        self.publish();
        if let Some(mut container) = container {
            refuse_updates(id, &mut container);
            if let Some(failure) = container.failure.take() {
                answer_all(&mut container.creators, Err(failure));
            }
            answer_all(&mut container.stoppers, Ok(()));
            answer_all(&mut container.removers, Ok(()));
        }
        if self.removers.is_empty() || !self.containers.is_empty() {
            return Life::GoesOn;
        }
        self.go_on_down().await
    }

    // ---- the record ----

    /// Containers that were being made or removed when an earlier daemon ended.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let unfinished =
            self.containers.iter().filter(|(_, one)| one.record.state == ContainerState::Removing);
        unfinished.map(|(id, _)| id.clone()).collect()
    }

    async fn insert_container(&self, id: &str) -> Result<(), PodsError> {
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        let row = ContainerRow {
            id: id.to_owned(),
            pod: self.handle.id.clone(),
            request: container.request.encode(),
            record: container.record.encode()?,
        };
        self.node
            .blocking("recording", id, move |node| Ok(node.metadata.put_container(&row)?))
            .await
    }

    async fn save_container(&self, id: &str) {
        if let Err(error) = self.write_container(id).await {
            tracing::error!(container.id = %id, error = &error as &dyn std::error::Error, "the record was not written");
        }
    }

    pub(super) async fn write_container(&self, id: &str) -> Result<(), PodsError> {
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        let (row, record) = (id.to_owned(), container.record.encode()?);
        let update = move |node: &crate::pods::node::Node| {
            Ok(node.metadata.update_container(&row, &record)?)
        };
        self.node.blocking("recording", id, update).await
    }
}

/// Sends the stop signal, waits, and kills. Ends early when the container does: its
/// driver aborts it.
async fn stop(
    node: Arc<Node>,
    sandbox: Arc<Sandbox>,
    id: String,
    cgroup_path: String,
    signal: Option<i32>,
    grace: Duration,
) -> Done {
    let send = |signal: i32, all: bool| {
        let signal = protocol::Signal { container: id.clone(), signal, all };
        let sandbox = Arc::clone(&sandbox);
        async move { sandbox.signal(signal).await }
    };
    if let Some(signal) = signal {
        // It ended meanwhile, or the shim is lost: both are heard of otherwise.
        let _ = send(signal, false).await;
    }
    tokio::time::sleep(grace).await;
    if let Err(hung @ SandboxError::Hung { .. }) = send(SIGKILL, true).await {
        // Dead is what it is to be; that it is, only the shim can tell.
        let killed = making::kill_past_shim(&node, &id, cgroup_path).await;
        return Done::Stuck(id, killed.err().unwrap_or_else(|| hung.into()));
    }
    tokio::time::sleep(KILL_PATIENCE).await;
    let seconds = KILL_PATIENCE.as_secs();
    Done::Stuck(id.clone(), PodsError::TooLong { what: "killing", id, seconds })
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
