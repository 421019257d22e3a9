//! The driver of one pod: the only task that changes its state.
//!
//! It waits for three things: commands, what the shim says, and the ends of its own
//! effects. Each is dealt with in a short function that writes down the new state, shows
//! it to everybody, and begins the next effect if there is one. Effects are child tasks,
//! so nothing that takes long stands between a command and its turn.

mod containers;
mod resources;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use sandbox::controller::{Connected, Sandbox, SandboxEvent};
use sandbox::lifecycle::container::{ContainerState, Exit, ExitCause, Observed};
use sandbox::lifecycle::pod::{Claim, PodEvent, PodState, StopCause};
use sandbox::protocol;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::claims::{self, Prepared};
use super::delivery::{Delivery, Parcel};
use super::error::PodsError;
use super::making::Made;
use super::node::{Node, now_ns};
use super::record::{ContainerRequest, PodRecord, PodRequest, PodResources, RequestedResources};
use super::registry::PodHandle;
use super::restore::Restoration;
use super::view::PodView;
use crate::metadata::PodRow;
use containers::Container;
pub(super) use containers::Seen;

/// Where an answer goes; whoever asked may have stopped waiting.
pub(super) type Reply<T> = oneshot::Sender<Result<T, PodsError>>;

/// What a driver is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Tell when the pod is ready, or why it is not.
    Run(Reply<Parcel>),
    /// Take it down.
    Stop(Reply<()>),
    /// Take it down and forget it.
    Remove(Reply<()>),
    /// Make a container of this id, unless one of this name is being made.
    Create {
        id: String,
        request: Arc<ContainerRequest>,
        restoration: Option<Restoration>,
        reply: Reply<Parcel>,
    },
    /// All that a new pod was to have is made.
    Finish(Reply<()>),
    /// Run its program.
    Start { id: String, reply: Reply<()> },
    /// End its program.
    StopContainer { id: String, grace: Duration, reply: Reply<()> },
    /// Kill it and forget it.
    RemoveContainer { id: String, reply: Reply<()> },
    /// Change its limits.
    UpdateResources { id: String, asked: Box<RequestedResources>, reply: Reply<()> },
    /// Remember the limits of the pod's cgroup.
    UpdatePod(Box<PodResources>, Reply<()>),
}

/// The end of an effect.
enum Done {
    Prepared(Result<Box<Prepared>, PodsError>),
    Released(Claim, Result<(), PodsError>),
    Made(String, Result<Made, PodsError>),
    Started(String, Result<protocol::ContainerState, PodsError>),
    /// The container could not be killed.
    Stuck(String, PodsError),
    Freed(String, Result<(), PodsError>),
    Updated(String, Result<resources::Updated, PodsError>),
}

/// Whether the driver goes on.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    GoesOn,
    IsOver,
}

/// The driver's own.
pub(super) struct Driver {
    node: Arc<Node>,
    handle: Arc<PodHandle>,
    request: Arc<PodRequest>,
    record: PodRecord,
    containers: BTreeMap<String, Container>,
    inbox: mpsc::UnboundedReceiver<Command>,
    events: Option<mpsc::UnboundedReceiver<SandboxEvent>>,
    sandbox: Option<Arc<Sandbox>>,
    effects: JoinSet<Done>,
    runners: Vec<Reply<Parcel>>,
    stoppers: Vec<Reply<()>>,
    removers: Vec<Reply<()>>,
    /// A release is under way.
    releasing: bool,
    /// Whether somebody knows its id.
    delivery: Delivery,
    /// Why it never became ready.
    failure: Option<Arc<PodsError>>,
}

/// What a pod is when its driver begins.
pub(super) struct Beginning {
    pub(super) node: Arc<Node>,
    pub(super) handle: Arc<PodHandle>,
    pub(super) request: Arc<PodRequest>,
    pub(super) record: PodRecord,
    pub(super) inbox: mpsc::UnboundedReceiver<Command>,
}

impl Driver {
    pub(super) fn new(beginning: Beginning) -> Self {
        let Beginning { node, handle, request, record, inbox } = beginning;
        Self {
            node,
            handle,
            request,
            record,
            containers: BTreeMap::new(),
            inbox,
            events: None,
            sandbox: None,
            effects: JoinSet::new(),
            runners: Vec::new(),
            stoppers: Vec::new(),
            removers: Vec::new(),
            releasing: false,
            delivery: Delivery::default(),
            failure: None,
        }
    }

    /// Brings a new pod up, then serves it until it is removed.
    pub(super) async fn run_new(mut self, reply: Reply<Parcel>) {
        self.runners.push(reply);
        let row = self.row();
        let written = match row {
            Ok(row) => {
                self.node
                    .blocking("recording", self.id(), move |node| {
                        Ok(node.metadata.put_pod(&row)?)
                    })
                    .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            answer_all(&mut self.runners, Err(Arc::new(error)));
            self.forget();
            return;
        }
        self.publish();
        let (node, id) = (Arc::clone(&self.node), self.handle.id.clone());
        let level = self.record.selinux_level.clone();
        let taking = claims::take(node, id, Arc::clone(&self.request), level);
        self.effects.spawn(async { Done::Prepared(taking.await.map(Box::new)) });
        self.serve().await;
    }

    /// Takes over a pod of an earlier daemon, up to the first true picture of it;
    /// `connected` is its shim, if it was found.
    pub(super) async fn settle(&mut self, connected: Option<Connected>, event: Option<PodEvent>) {
        if let Some(connected) = connected {
            self.listen_to(connected.sandbox, connected.events);
        }
        if !self.containers.is_empty() {
            self.delivery.is_proven();
        }
        if let Some(event) = event {
            self.step(event);
            self.save().await;
        }
        // The exit files that say this go with the pod's directory.
        self.save_recovered().await;
        self.publish();
    }

    /// Goes on with a pod that is settled.
    pub(super) async fn run_recovered(mut self) {
        if self.go_on_down().await == Life::IsOver {
            return;
        }
        for id in self.unfinished() {
            self.free(&id);
        }
        self.serve().await;
    }

    async fn serve(mut self) {
        loop {
            // What has happened comes before what follows from it: the end of a container
            // that is killed to be removed is seen before its removal.
            let life = tokio::select! {
                biased;
                Some(event) = next_event(&mut self.events) => self.event(event).await,
                Some(done) = self.effects.join_next() => match done {
                    Ok(done) => self.done(done).await,
                    // A signal that came to be needless was called back.
                    Err(error) if error.is_cancelled() => Life::GoesOn,
                    Err(error) => {
                        tracing::error!(pod.id = %self.handle.id, %error, "an effect ended early");
                        Life::GoesOn
                    }
                },
                Some(command) = self.inbox.recv() => self.command(command).await,
                else => return,
            };
            if life == Life::IsOver {
                return;
            }
        }
    }

    async fn command(&mut self, command: Command) -> Life {
        match command {
            Command::Run(reply) => self.join(reply),
            Command::Stop(reply) => {
                self.stoppers.push(reply);
                return self.stop(StopCause::Requested).await;
            }
            Command::Remove(reply) => {
                self.removers.push(reply);
                return self.stop(StopCause::Requested).await;
            }
            Command::Create { id, request, restoration, reply } => {
                self.create(id, request, restoration, reply).await;
            }
            Command::Finish(reply) => {
                self.record.unfinished = None;
                answer(reply, self.write().await);
            }
            Command::Start { id, reply } => self.start(&id, reply).await,
            Command::StopContainer { id, grace, reply } => self.stop_container(&id, grace, reply),
            Command::RemoveContainer { id, reply } => {
                self.remove_container(&id, reply).await;
            }
            Command::UpdateResources { id, asked, reply } => {
                self.update_resources(&id, *asked, reply).await;
            }
            Command::UpdatePod(said, reply) => self.update_pod(*said, reply).await,
        }
        Life::GoesOn
    }

    async fn event(&mut self, event: SandboxEvent) -> Life {
        match event {
            SandboxEvent::Exited(state) => {
                self.container_exited(&state).await;
                Life::GoesOn
            }
            SandboxEvent::Lost => {
                self.events = None;
                self.lose_sandbox();
                self.bury_containers().await;
                if !self.releasing {
                    tracing::error!(pod.id = %self.handle.id, "the shim is lost; the pod goes down");
                    return self.stop(StopCause::ShimLost).await;
                }
                Life::GoesOn
            }
        }
    }

    async fn done(&mut self, done: Done) -> Life {
        match done {
            Done::Prepared(Ok(prepared)) => return self.ready(*prepared).await,
            Done::Prepared(Err(error)) => {
                self.failure = Some(Arc::new(error));
                self.step(PodEvent::Stop(StopCause::PrepareFailed));
                self.save().await;
                return self.go_on_down().await;
            }
            Done::Released(claim, Ok(())) => {
                self.releasing = false;
                if claim == Claim::Shim {
                    self.bury_containers().await;
                }
                self.step(PodEvent::Released(claim));
                return self.go_on_down().await;
            }
            Done::Released(claim, Err(error)) => {
                self.releasing = false;
                tracing::warn!(pod.id = %self.handle.id, ?claim, error = &error as &dyn std::error::Error, "a claim could not be released");
                self.publish();
                let error = Arc::new(error);
                let failure = self.failure.take().unwrap_or_else(|| Arc::clone(&error));
                answer_all(&mut self.runners, Err(failure));
                answer_all(&mut self.stoppers, Err(Arc::clone(&error)));
                answer_all(&mut self.removers, Err(error));
            }
            Done::Made(id, made) => self.made(&id, made).await,
            Done::Started(id, started) => self.started(&id, started).await,
            Done::Stuck(id, error) => self.stuck(&id, error),
            Done::Freed(id, freed) => return self.freed(&id, freed).await,
            Done::Updated(id, updated) => self.updated(&id, updated).await,
        }
        Life::GoesOn
    }

    // ---- up ----

    async fn ready(&mut self, prepared: Prepared) -> Life {
        let Prepared { attachment, connected } = prepared;
        self.record.attachment = attachment;
        let Connected { sandbox, events, identity, .. } = connected;
        self.listen_to(sandbox, events);
        self.step(PodEvent::Started(identity));
        self.save().await;
        self.publish();
        answer_all(&mut self.runners, Ok(self.delivery.parcel(&self.handle.id)));
        if self.stoppers.is_empty() && self.removers.is_empty() {
            return Life::GoesOn;
        }
        // Somebody asked while it came up.
        self.stop(StopCause::Requested).await
    }

    /// Answers who asks again for this pod.
    fn join(&mut self, reply: Reply<Parcel>) {
        match &self.record.state {
            PodState::Preparing { .. } => self.runners.push(reply),
            // It failed; who waits is told once everything is given back.
            PodState::Stopping { .. } if self.failure.is_some() => self.runners.push(reply),
            PodState::Ready { .. } if !self.delivery.is_made() => {
                answer(reply, Ok(self.delivery.parcel(&self.handle.id)));
            }
            _ => answer(reply, Err(self.taken())),
        }
    }

    fn listen_to(&mut self, sandbox: Sandbox, events: mpsc::UnboundedReceiver<SandboxEvent>) {
        let sandbox = Arc::new(sandbox);
        self.handle.sandbox.store(Some(Arc::clone(&sandbox)));
        self.sandbox = Some(sandbox);
        self.events = Some(events);
    }

    fn lose_sandbox(&mut self) {
        self.handle.sandbox.store(None);
        self.sandbox = None;
    }

    // ---- down ----

    async fn stop(&mut self, cause: StopCause) -> Life {
        match &self.record.state {
            // What is being taken comes to its end first; then it is given back.
            PodState::Preparing { .. } => return Life::GoesOn,
            PodState::Ready { .. } => {
                self.step(PodEvent::Stop(cause));
                self.save().await;
                self.publish();
            }
            PodState::Stopping { .. } | PodState::Stopped { .. } | PodState::Removing => {}
        }
        self.go_on_down().await
    }

    /// Releases the next claim, or answers when there is none left.
    async fn go_on_down(&mut self) -> Life {
        if self.releasing {
            return Life::GoesOn;
        }
        if let Some(claim) = self.record.state.next_release() {
            self.releasing = true;
            let ending = (claim == Claim::Shim)
                .then(|| self.sandbox.take().zip(self.events.take()))
                .flatten();
            if claim == Claim::Shim {
                self.lose_sandbox();
            }
            let cgroups =
                self.containers.values().map(|one| one.record.cgroup_path.clone()).collect();
            let releasing = claims::release(
                Arc::clone(&self.node),
                self.handle.id.clone(),
                Arc::clone(&self.request),
                self.record.clone(),
                claim,
                cgroups,
                ending,
            );
            self.effects.spawn(async move { Done::Released(claim, releasing.await) });
            return Life::GoesOn;
        }
        match self.record.state {
            PodState::Stopped { .. } => self.stopped().await,
            PodState::Removing => self.removed().await,
            _ => Life::GoesOn,
        }
    }

    async fn stopped(&mut self) -> Life {
        self.record.attachment = None;
        let never_ready = self.record.stop_cause() == Some(StopCause::PrepareFailed);
        if never_ready {
            self.step(PodEvent::Remove);
            return self.removed().await;
        }
        self.save().await;
        self.publish();
        answer_all(&mut self.stoppers, Ok(()));
        if self.removers.is_empty() {
            return Life::GoesOn;
        }
        let all: Vec<String> = self.containers.keys().cloned().collect();
        if all.is_empty() {
            self.step(PodEvent::Remove);
            return self.removed().await;
        }
        for id in all {
            self.free(&id);
        }
        Life::GoesOn
    }

    async fn removed(&mut self) -> Life {
        let id = self.handle.id.clone();
        let row = id.clone();
        let deleted = self
            .node
            .blocking("forgetting", &id, move |node| Ok(node.metadata.delete_pod(&row)?));
        if let Err(error) = deleted.await {
            answer_all(&mut self.removers, Err(Arc::new(error)));
            return Life::GoesOn;
        }
        self.forget();
        if let Some(failure) = self.failure.take() {
            answer_all(&mut self.runners, Err(failure));
        }
        answer_all(&mut self.stoppers, Ok(()));
        answer_all(&mut self.removers, Ok(()));
        Life::IsOver
    }

    fn forget(&mut self) {
        self.node.registry.remove(&self.handle.id);
        self.node.rates.forget(&self.handle.id);
        self.node.registry.release(&self.request.unique_name());
        self.handle.show_nothing(&self.node.events);
    }

    // ---- the record ----

    fn step(&mut self, event: PodEvent) {
        match self.record.state.clone().step(event) {
            Ok(state) => self.record.state = state,
            Err(refused) => {
                tracing::error!(pod.id = %self.handle.id, %refused, "a step out of turn");
            }
        }
    }

    fn row(&self) -> Result<PodRow, PodsError> {
        Ok(PodRow {
            id: self.handle.id.clone(),
            request: self.request.encode(),
            record: self.record.encode()?,
        })
    }

    /// Writes the record. A failure is logged: the state in memory goes on, and a restart
    /// finds the state before, from which it gets here again.
    async fn save(&self) {
        if let Err(error) = self.write().await {
            tracing::error!(pod.id = %self.handle.id, error = &error as &dyn std::error::Error, "the record was not written");
        }
    }

    async fn write(&self) -> Result<(), PodsError> {
        let (id, record) = (self.handle.id.clone(), self.record.encode()?);
        let update = move |node: &Node| Ok(node.metadata.update_pod(&id, &record)?);
        self.node.blocking("recording", &self.handle.id, update).await
    }

    /// Shows everybody the new picture.
    fn publish(&self) {
        let containers = self.containers.iter();
        let view = PodView {
            id: self.handle.id.clone(),
            at_ns: 0,
            request: Arc::clone(&self.request),
            record: self.record.clone(),
            containers: containers.map(|(id, one)| (id.clone(), one.view(id, self.id()))).collect(),
        };
        self.handle.show(view, &self.node.events);
    }

    fn id(&self) -> &str {
        &self.handle.id
    }

    fn taken(&self) -> PodsError {
        PodsError::NameTaken {
            kind: "pod",
            name: self.request.unique_name(),
            id: self.handle.id.clone(),
        }
    }
}

async fn next_event(
    events: &mut Option<mpsc::UnboundedReceiver<SandboxEvent>>,
) -> Option<SandboxEvent> {
    match events {
        Some(events) => Some(events.recv().await.unwrap_or(SandboxEvent::Lost)),
        None => std::future::pending().await,
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, PodsError>) {
    // Whoever asked may have stopped waiting.
    let _ = reply.send(result);
}

fn answer_all<T: Clone>(replies: &mut Vec<Reply<T>>, result: Result<T, Arc<PodsError>>) {
    for reply in replies.drain(..) {
        answer(reply, result.clone().map_err(PodsError::Shared));
    }
}

/// What the shim, or the exit file that it left, says of a container.
pub(super) fn observed(state: &protocol::ContainerState) -> Observed {
    let started_at_ns = (state.started_at_ns > 0).then_some(state.started_at_ns);
    match (&state.exit, started_at_ns) {
        (Some(exit), _) => {
            let cause = match started_at_ns {
                None => ExitCause::StartFailed,
                Some(_) if exit.oom_killed => ExitCause::OomKilled,
                Some(_) => ExitCause::Ended,
            };
            let exit = Exit { code: exit.code, finished_at_ns: exit.finished_at_ns, cause };
            Observed::Ended { exit, started_at_ns }
        }
        (None, Some(started_at_ns)) => Observed::Alive { started_at_ns },
        (None, None) => Observed::Waiting,
    }
}

/// What the shim, or the exit file that it left, has to say of a container's end.
pub(super) fn end_message(state: &protocol::ContainerState) -> String {
    state.exit.as_ref().map(|exit| exit.message.clone()).unwrap_or_default()
}

/// Whether a container's program may still be doing something.
fn is_live(state: &ContainerState) -> bool {
    matches!(
        state,
        ContainerState::Created | ContainerState::Starting | ContainerState::Running { .. }
    )
}

/// The time to give to an end that nobody saw.
pub(super) fn unseen() -> Observed {
    Observed::Nothing { now_ns: now_ns() }
}
