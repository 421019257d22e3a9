//! What everybody but the driver sees of a pod: an immutable picture, replaced at once.
//!
//! Lists and status calls read pictures; they take no lock that a pod's work holds and
//! wait for nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use sandbox::lifecycle::ProcessIdentity;
pub use sandbox::lifecycle::container::{ContainerState, Exit, ExitCause};

use super::record::{ContainerRecord, ContainerRequest, PodRecord, PodRequest};

/// A pod at one instant.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Its id.
    pub id: String,
    /// The instant, in nanoseconds since the epoch; later in each picture of the pod.
    pub at_ns: i64,
    /// What was asked for.
    pub request: Arc<PodRequest>,
    /// What is remembered.
    pub record: PodRecord,
    /// Its containers, by id, those included that the kubelet is not told of.
    pub containers: BTreeMap<String, Arc<ContainerView>>,
}

/// A container at one instant.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its id.
    pub id: String,
    /// The id of its pod.
    pub pod: String,
    /// What was asked for.
    pub request: Arc<ContainerRequest>,
    /// What is remembered.
    pub record: ContainerRecord,
    /// Its first process while there is one.
    pub pid: Option<u32>,
}

impl PodView {
    /// `SANDBOX_READY`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.record.state, sandbox::lifecycle::pod::PodState::Ready { .. })
    }

    /// Its shim while it is ready.
    #[must_use]
    pub fn shim(&self) -> Option<ProcessIdentity> {
        match &self.record.state {
            sandbox::lifecycle::pod::PodState::Ready { shim, .. } => Some(*shim),
            _ => None,
        }
    }

    /// Its addresses, the primary one first; none on the host's network, or once stopped.
    #[must_use]
    pub fn ips(&self) -> &[IpAddr] {
        self.record.attachment.as_ref().map_or(&[], |attachment| &attachment.ips)
    }

    /// The containers that the kubelet is told of.
    pub fn listed_containers(&self) -> impl Iterator<Item = &Arc<ContainerView>> {
        self.containers.values().filter(|container| container.record.state.is_listed())
    }
}

impl ContainerView {
    /// `CONTAINER_RUNNING`.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.record.state, ContainerState::Running { .. })
    }
}
