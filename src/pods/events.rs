//! What happens to pods and containers, told to whoever listens.
//!
//! Nobody announces an event. Events are what differs between two pictures of a pod, and
//! are found where one picture takes the place of the other ([`Events::tell`]); so none is
//! forgotten, and each carries the picture that it is about. A pod has stopped when it is
//! not ready and none of its containers runs: its event is the last one.
//!
//! Listeners share one ring, and each has a place of its own in it. Telling waits for
//! nobody. Who falls behind by a whole ring loses his place, is told so, and must list
//! again, as he must when he comes.
//!
//! Pods are recovered before anybody can listen. Therefore the first listener who comes
//! soon after the start hears everything since then, what ended meanwhile included.
//!
//! # References
//! - [Evented PLEG](https://github.com/kubernetes/enhancements/tree/master/keps/sig-node/3386-kubelet-evented-pleg)

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast::{self, error::RecvError};

use super::view::{ContainerState, ContainerView, PodView};

/// How many events a listener may be behind: a node's pods coming and going at once.
const RING: usize = 1024;

/// How long after the start what happened since is kept for the first listener. The
/// kubelet connects again within seconds.
const EARLY: Duration = Duration::from_secs(60);

/// Something that happened to a pod or to one of its containers.
#[derive(Debug, Clone)]
pub struct Event {
    /// The id of the container, or of the pod itself.
    pub id: String,
    /// What.
    pub kind: EventKind,
    /// The instant that the picture is of, in nanoseconds since the epoch. Of one pod it
    /// never goes back.
    pub at_ns: i64,
    /// The pod and its containers at that instant; none once the pod is forgotten.
    pub pod: Option<Arc<PodView>>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It is listed.
    Created,
    /// A pod is ready; a container's program runs.
    Started,
    /// A pod or a container is over.
    Stopped,
    /// It is not listed any more.
    Deleted,
}

/// Why a listener hears nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// He did not listen fast enough.
    #[error("{missed} events were not read in time and are lost: list, and listen again")]
    Missed {
        /// How many.
        missed: u64,
    },
    /// Nobody tells any more.
    #[error("the daemon ends")]
    Ending,
}

/// One listener's place.
#[derive(Debug)]
pub struct Listener(Option<broadcast::Receiver<Event>>);

impl Listener {
    /// The next event.
    ///
    /// # Errors
    /// There is none, and there will be none.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Event, Silence> {
        let Some(receiver) = &mut self.0 else { return Err(Silence::Ending) };
        receiver.recv().await.map_err(|error| match error {
            RecvError::Lagged(missed) => Silence::Missed { missed },
            RecvError::Closed => Silence::Ending,
        })
    }
}

/// Where events are told and heard; nothing inside once it is closed.
#[derive(Debug)]
pub(super) struct Events(Mutex<Option<Ring>>);

#[derive(Debug)]
struct Ring {
    sender: broadcast::Sender<Event>,
    /// The place of the first listener, until then.
    early: Option<(broadcast::Receiver<Event>, Instant)>,
    size: usize,
}

impl Default for Events {
    fn default() -> Self {
        Self::new(RING)
    }
}

impl Events {
    fn new(size: usize) -> Self {
        let (sender, receiver) = broadcast::channel(size);
        let early = Some((receiver, Instant::now() + EARLY));
        Self(Mutex::new(Some(Ring { sender, early, size })))
    }

    /// Tells what happened to a pod between two pictures of it, either of which may be
    /// missing. Waits for nobody.
    pub(super) fn tell(&self, old: Option<&PodView>, new: Option<&Arc<PodView>>, at_ns: i64) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ring) = ring.as_mut() else { return };
        if ring.sender.receiver_count() == 0 {
            return;
        }
        let told = between(old, new.map(Arc::as_ref));
        ring.forget_early(told.len());
        for (id, kind) in told {
            // The pod is gone for good: its last picture is of no use to anybody.
            let forgotten = kind == EventKind::Deleted && new.is_none_or(|pod| pod.id == id);
            let pod = new.filter(|_| !forgotten).cloned();
            // The last listener may have left just now.
            let _ = ring.sender.send(Event { id, kind, at_ns, pod });
        }
    }

    pub(super) fn listen(&self) -> Listener {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ring) = ring.as_mut() else { return Listener(None) };
        ring.forget_early(0);
        let early = ring.early.take().map(|(receiver, _)| receiver);
        Listener(Some(early.unwrap_or_else(|| ring.sender.subscribe())))
    }

    /// Ends every listener, after what was told.
    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Ring {
    /// Gives up the first listener's place if he is late, or if it has no room for `more`.
    fn forget_early(&mut self, more: usize) {
        let stale = |(receiver, until): &mut (broadcast::Receiver<Event>, Instant)| {
            receiver.len() + more > self.size || *until < Instant::now()
        };
        self.early.take_if(stale);
    }
}

/// How far something is in its life, as listeners are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Unlisted,
    Created,
    Started,
    Stopped,
}

/// What happened between two pictures, in the order in which to tell it.
fn between(old: Option<&PodView>, new: Option<&PodView>) -> Vec<(String, EventKind)> {
    let Some(id) = new.or(old).map(|pod| &pod.id) else { return Vec::new() };
    let (before, after) =
        (old.map_or(Stage::Unlisted, of_pod), new.map_or(Stage::Unlisted, of_pod));
    let ready = after == Stage::Started;
    let mut told: Vec<_> =
        steps(before, after, ready).into_iter().map(|kind| (id.clone(), kind)).collect();
    // A pod comes before its containers and goes after them.
    let first = told.iter().take_while(|(_, kind)| is_coming(*kind)).count();
    let last = told.split_off(first);
    for (id, old, new) in pairs(old, new) {
        let (before, after) =
            (old.map_or(Stage::Unlisted, of_container), new.map_or(Stage::Unlisted, of_container));
        let kinds = steps(before, after, new.is_some_and(has_started));
        told.extend(kinds.into_iter().map(|kind| (id.clone(), kind)));
    }
    told.extend(last);
    told
}

fn is_coming(kind: EventKind) -> bool {
    matches!(kind, EventKind::Created | EventKind::Started)
}

type Pair<'a> = (&'a String, Option<&'a ContainerView>, Option<&'a ContainerView>);

/// Each container that is in either picture, in both.
fn pairs<'a>(old: Option<&'a PodView>, new: Option<&'a PodView>) -> Vec<Pair<'a>> {
    let find = |pod: Option<&'a PodView>, id: &String| {
        pod.and_then(|pod| pod.containers.get(id)).map(Arc::as_ref)
    };
    let gone = old.into_iter().flat_map(|pod| pod.containers.keys());
    let gone = gone.filter(|id| find(new, id).is_none());
    let here = new.into_iter().flat_map(|pod| pod.containers.keys());
    gone.chain(here).map(|id| (id, find(old, id), find(new, id))).collect()
}

/// Every step of the way is told, also when two pictures are several steps apart.
fn steps(before: Stage, after: Stage, has_started: bool) -> Vec<EventKind> {
    let passed = |stage| before < stage && stage <= after;
    if after == Stage::Unlisted {
        return if before == Stage::Unlisted { vec![] } else { vec![EventKind::Deleted] };
    }
    [
        passed(Stage::Created).then_some(EventKind::Created),
        (passed(Stage::Started) && has_started).then_some(EventKind::Started),
        passed(Stage::Stopped).then_some(EventKind::Stopped),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn of_pod(pod: &PodView) -> Stage {
    let runs = |container: &Arc<ContainerView>| of_container(container) == Stage::Started;
    if !pod.record.state.is_listed() {
        Stage::Unlisted
    } else if pod.is_ready() || pod.containers.values().any(runs) {
        Stage::Started
    } else {
        Stage::Stopped
    }
}

fn of_container(container: &ContainerView) -> Stage {
    match container.record.state {
        ContainerState::Creating | ContainerState::Removing => Stage::Unlisted,
        ContainerState::Created | ContainerState::Starting => Stage::Created,
        ContainerState::Running { .. } => Stage::Started,
        ContainerState::Exited { .. } => Stage::Stopped,
    }
}

fn has_started(container: &ContainerView) -> bool {
    match container.record.state {
        ContainerState::Running { .. } => true,
        ContainerState::Exited { started_at_ns, .. } => started_at_ns.is_some(),
        ContainerState::Creating
        | ContainerState::Created
        | ContainerState::Starting
        | ContainerState::Removing => false,
    }
}

#[cfg(test)]
mod tests;
