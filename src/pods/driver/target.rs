//! The container whose processes another one is to see (`NamespaceMode::TARGET`, which
//! debug containers use).

use sandbox::lifecycle::container::ContainerState;
use sandbox::protocol::PidMode;

use super::Driver;
use crate::pods::error::{PodsError, RequestError};
use crate::pods::record::ContainerRequest;

impl Driver {
    /// Whose processes the container of `request` is to see, by full id.
    ///
    /// # Errors
    /// The target is not there, is another pod's, or does not run.
    pub(super) fn pid_mode(&self, request: &ContainerRequest) -> Result<PidMode, PodsError> {
        let PidMode::Target(asked) = request.pid_mode() else { return Ok(request.pid_mode()) };
        let (pod, target) = self.node.registry.container(&asked)?;
        let id = target.id.clone();
        let Some(container) = self.containers.get(&id) else {
            return Err(RequestError::TargetElsewhere { id, pod: pod.id.clone() }.into());
        };
        match container.record.state {
            ContainerState::Running { .. } => Ok(PidMode::Target(id)),
            _ => Err(container.wrong_state("share its processes", &id)),
        }
    }
}
