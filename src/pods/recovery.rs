//! What a starting daemon makes of the records of an earlier one.
//!
//! Each pod is asked for by itself: a record that cannot be read is logged and left
//! alone, and no pod delays another. Nothing is served before this is complete.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sandbox::controller::{self, Connected, Sandbox};
use sandbox::lifecycle::pod::{Boot, PodState};
use sandbox::protocol;
use tokio::time::timeout;

use super::driver::{Beginning, Driver, Seen, end_message, observed, unseen};
use super::error::PodsError;
use super::node::Node;
use super::record::{ContainerRecord, ContainerRequest, PodRecord, PodRequest};
use super::view::{ContainerView, PodView};
use crate::metadata::{ContainerRow, PodRow};

/// How long a shim may take to answer. Nothing is served before all have; one that does
/// not answer is of no use, and its pod goes down.
const ADOPT_DEADLINE: Duration = Duration::from_secs(15);

/// A pod of an earlier daemon.
pub(super) struct Found {
    pub(super) id: String,
    pub(super) request: Arc<PodRequest>,
    pub(super) record: PodRecord,
    containers: Vec<(String, Arc<ContainerRequest>, ContainerRecord)>,
}

impl Found {
    /// The pod as its records have it.
    pub(super) fn recorded(&self, at_ns: i64) -> PodView {
        let containers = self.containers.iter().map(|(id, request, record)| {
            let (request, record) = (Arc::clone(request), record.clone());
            let pod = self.id.clone();
            (
                id.clone(),
                Arc::new(ContainerView { id: id.clone(), pod, request, record, pid: None }),
            )
        });
        PodView {
            id: self.id.clone(),
            at_ns,
            request: Arc::clone(&self.request),
            record: self.record.clone(),
            containers: containers.collect(),
        }
    }

    /// The ids of its containers.
    pub(super) fn container_ids(&self) -> impl Iterator<Item = &str> {
        self.containers.iter().map(|(id, ..)| id.as_str())
    }
}

/// Reads all records.
pub(super) fn load(node: &Node) -> Result<Vec<Found>, PodsError> {
    let mut containers: BTreeMap<String, Vec<ContainerRow>> = BTreeMap::new();
    for row in node.metadata.load_containers()? {
        containers.entry(row.pod.clone()).or_default().push(row);
    }
    let mut found = Vec::new();
    for row in node.metadata.load_pods()? {
        let rows = containers.remove(&row.id).unwrap_or_default();
        let id = row.id.clone();
        match decode(row, rows) {
            Ok(pod) => found.push(pod),
            Err(error) => {
                tracing::error!(pod.id = %id, error = &error as &dyn std::error::Error, "a record cannot be read; its pod is left alone");
            }
        }
    }
    Ok(found)
}

fn decode(row: PodRow, rows: Vec<ContainerRow>) -> Result<Found, PodsError> {
    let containers = rows.into_iter().map(|row| {
        let request = Arc::new(ContainerRequest::decode(&row.request)?);
        Ok((row.id, request, ContainerRecord::decode(&row.record)?))
    });
    Ok(Found {
        request: Arc::new(PodRequest::decode(&row.request)?),
        record: PodRecord::decode(&row.record)?,
        containers: containers.collect::<Result<_, PodsError>>()?,
        id: row.id,
    })
}

/// Finds out what became of a pod and gives it to its driver.
pub(super) async fn recover(
    node: Arc<Node>,
    found: Found,
    beginning: Beginning,
) -> impl Future<Output = ()> + Send {
    let Found { id, record, containers, .. } = found;
    let boot = if record.boot_id == node.boot_id { Boot::Same } else { Boot::Another };
    let directory = node.pod_directory(&id);
    let connected = match (&record.state, boot) {
        (PodState::Ready { shim, .. }, Boot::Same) => {
            match timeout(ADOPT_DEADLINE, Sandbox::adopt(&directory, *shim)).await {
                Ok(Ok(connected)) => Some(connected),
                Ok(Err(error)) => {
                    tracing::warn!(pod.id = %id, error = &error as &dyn std::error::Error, "the shim is lost");
                    None
                }
                Err(_elapsed) => {
                    let deadline_s = ADOPT_DEADLINE.as_secs();
                    tracing::warn!(pod.id = %id, deadline_s, "the shim does not answer");
                    None
                }
            }
        }
        _ => None,
    };
    let event = record.state.on_restart(connected.as_ref().map(|found| found.identity), boot);
    if event.is_some() {
        let (place, recorded) = (directory.clone(), shim_of(&record));
        // What it left is dead or about to be; its exit files are read after that.
        let _ = tokio::task::spawn_blocking(move || {
            if boot == Boot::Same {
                controller::destroy(&place, recorded);
            }
        })
        .await;
    }
    let mut driver = Driver::new(beginning);
    for (container, request, record) in containers {
        let found = look(&directory, connected.as_ref(), &container);
        driver.adopt_recovered(container, request, record, found);
    }
    driver.settle(connected, event).await;
    driver.run_recovered()
}

fn shim_of(record: &PodRecord) -> Option<sandbox::lifecycle::ProcessIdentity> {
    match &record.state {
        PodState::Ready { shim, .. } => Some(*shim),
        _ => None,
    }
}

/// What there is to see of a container: in the shim, else in the exit file it left.
fn look(directory: &Path, connected: Option<&Connected>, container: &str) -> Seen {
    let known = connected.and_then(|found| {
        found.welcome.containers.iter().find(|state| state.container == container)
    });
    if let Some(state) = known {
        let pid = (state.exit.is_none() && state.pid > 0).then_some(state.pid);
        return Seen { observed: observed(state), message: end_message(state), pid };
    }
    let written = std::fs::read(directory.join("exits").join(container)).ok();
    let state = written.and_then(|bytes| protocol::decode_exit(&bytes).ok());
    Seen {
        observed: state.as_ref().map_or_else(unseen, observed),
        message: state.as_ref().map(end_message).unwrap_or_default(),
        pid: None,
    }
}
