//! The driver's changes of limits.
//!
//! A running container's limits are written into its cgroup by this daemon, whoever made
//! the container: the cgroup's name is ours with every runtime, the kernel has no other
//! memory of limits, and `runc update` would only read its state file, write the same
//! files, and not put them back when one is refused. Writing is an effect, one at a time
//! per container, since the kernel reclaims memory for as long as it needs to.
//!
//! **Invariants.** The record says what the cgroup holds: it changes after the cgroup did,
//! and when it cannot be written, the cgroup is changed back. Of a container that was not
//! started only the record changes; its start takes the limits from there.

use std::sync::Arc;

use sandbox::cgroup::Replaced;
use sandbox::lifecycle::container::ContainerState;
use sandbox::protocol;

use super::containers::Container;
use super::{Done, Driver, Reply, answer};
use crate::pods::error::{PodsError, RequestError};
use crate::pods::node::Node;
use crate::pods::record::{PodResources, RequestedResources, Resources};
use crate::pods::spec::{self, Change, Progress};

/// A change that is being made, or waits for its turn.
pub(super) struct Update {
    asked: RequestedResources,
    reply: Reply<()>,
}

/// A change that the cgroup took.
pub(super) struct Updated {
    after: Resources,
    replaced: Replaced,
}

impl Driver {
    // ---- containers ----

    pub(super) async fn update_resources(
        &mut self,
        id: &str,
        asked: RequestedResources,
        reply: Reply<()>,
    ) {
        let Some(container) = self.containers.get_mut(id) else {
            return answer(reply, Err(super::containers::no_container(id)));
        };
        match container.record.state {
            ContainerState::Running { .. } => {
                container.updates.push_back(Update { asked, reply });
                if container.updates.len() == 1 {
                    self.next_update(id);
                }
            }
            ContainerState::Created | ContainerState::Exited { .. } => {
                let changed = planned(container, &self.node, &asked, Progress::Waiting);
                let outcome = match changed {
                    Ok(change) => self.record_resources(id, (&change.after).into()).await,
                    Err(error) => Err(error),
                };
                answer(reply, outcome);
            }
            ContainerState::Creating | ContainerState::Starting | ContainerState::Removing => {
                answer(reply, Err(container.wrong_state("change its resources", id)));
            }
        }
    }

    /// Begins the first change of the queue; refuses those that cannot be begun.
    fn next_update(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        while let Some(update) = container.updates.front() {
            match planned(container, &self.node, &update.asked, Progress::Started) {
                Ok(change) => {
                    let (node, id) = (Arc::clone(&self.node), id.to_owned());
                    let path = container.record.cgroup_path.clone();
                    self.effects.spawn(async move {
                        let updated = write(&node, &id, path, change).await;
                        Done::Updated(id, updated)
                    });
                    return;
                }
                Err(error) => {
                    if let Some(update) = container.updates.pop_front() {
                        answer(update.reply, Err(error));
                    }
                }
            }
        }
    }

    pub(super) async fn updated(&mut self, id: &str, updated: Result<Updated, PodsError>) {
        let outcome = match updated {
            Ok(Updated { after, replaced }) => {
                let recorded = self.record_resources(id, after).await;
                if recorded.is_err() {
                    self.put_back(id, replaced).await;
                }
                recorded
            }
            Err(error) => Err(error),
        };
        let update = self.containers.get_mut(id).and_then(|one| one.updates.pop_front());
        if let Some(update) = update {
            answer(update.reply, outcome);
        }
        self.next_update(id);
    }

    /// Writes down what holds now and shows it; on failure the record stays as it was.
    async fn record_resources(&mut self, id: &str, after: Resources) -> Result<(), PodsError> {
        let Some(container) = self.containers.get_mut(id) else {
            return Err(super::containers::no_container(id));
        };
        let before = container.record.resources.replace(after);
        let written = self.write_container(id).await;
        match (&written, self.containers.get_mut(id)) {
            (Err(_), Some(container)) => container.record.resources = before,
            _ => self.publish(),
        }
        written
    }

    async fn put_back(&self, id: &str, replaced: Replaced) {
        let id = id.to_owned();
        let failed = |source| PodsError::Resources { id: id.clone(), source };
        let put_back = move || replaced.put_back();
        match tokio::task::spawn_blocking(put_back).await.map(|done| done.map_err(failed)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(container.id = %id, error = &error as &dyn std::error::Error, "limits that could not be recorded are in force");
            }
            Err(error) => {
                tracing::error!(container.id = %id, %error, "limits that could not be recorded are in force")
            }
        }
    }

    // ---- the pod ----

    /// Keeps what the kubelet says of the pod's cgroup, which it has changed itself.
    pub(super) async fn update_pod(&mut self, said: PodResources, reply: Reply<()>) {
        let before = self.record.resources.replace(said);
        let written = self.write().await;
        match written {
            Ok(()) => self.publish(),
            Err(_) => self.record.resources = before,
        }
        answer(reply, written);
    }
}

/// Tells those who wait for changes of a container that is gone.
pub(super) fn refuse_updates(id: &str, container: &mut Container) {
    for update in container.updates.drain(..) {
        answer(update.reply, Err(super::containers::no_container(id)));
    }
}

/// The word to start `container`, with the limits that changed since it was created.
pub(super) fn start_of(
    id: &str,
    container: &Container,
    node: &Node,
) -> Result<protocol::Start, PodsError> {
    let mut start = protocol::Start::from(id);
    let Some(now) = &container.record.resources else { return Ok(start) };
    let asked = container.request.resources().cloned().unwrap_or_default();
    let failed = |error| RequestError::from(spec::SpecError::from(error));
    let created: Resources = (&spec::effective(&asked, &node.facts).map_err(failed)?).into();
    if *now == created {
        return Ok(start);
    }
    let resources = spec::resources(&now.into(), &node.facts).map_err(failed)?;
    start.resources =
        serde_json::to_vec(&resources).map_err(crate::pods::record::RecordError::Encode)?;
    if now.oom_score_adj != created.oom_score_adj {
        start.oom_score_adj = i32::try_from(now.oom_score_adj).ok();
    }
    Ok(start)
}

/// What `asked` makes of the container's limits.
fn planned(
    container: &Container,
    node: &Node,
    asked: &RequestedResources,
    progress: Progress,
) -> Result<Change, PodsError> {
    let failed = |error| RequestError::from(spec::SpecError::from(error));
    let current = match &container.record.resources {
        Some(resources) => resources.into(),
        None => {
            let request = container.request.resources().cloned().unwrap_or_default();
            spec::effective(&request, &node.facts).map_err(failed)?
        }
    };
    Ok(spec::change(&current, asked, &node.facts, progress).map_err(failed)?)
}

async fn write(
    node: &Arc<Node>,
    id: &str,
    cgroup_path: String,
    change: Change,
) -> Result<Updated, PodsError> {
    let container = id.to_owned();
    node.blocking("changing the resources", id, move |node| {
        let group =
            node.cgroup(&cgroup_path).ok_or_else(|| super::containers::no_container(&container))?;
        let replaced = group
            .update(&change.write)
            .map_err(|source| PodsError::Resources { id: container, source })?;
        Ok(Updated { after: (&change.after).into(), replaced })
    })
    .await
}
