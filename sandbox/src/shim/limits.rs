//! Limits that were changed between a container's creation and its start.
//!
//! Whoever started it as created would let it run under limits that nobody wants any
//! more. What a running container is limited by is changed by the daemon, in the cgroup:
//! the kernel may reclaim memory for as long as it likes before it accepts a limit, and
//! this process has outputs to read.

use oci_spec::runtime::LinuxResources;

use super::container::{OciRuntime, Phase};
use super::containers::{not_found, step};
use super::event_loop::Shim;
use crate::oci::builtin::rlimits::set_oom_score_adj;
use crate::oci::external;
use crate::protocol::{Failed, FailedKind, Start};

impl Shim {
    /// Applies what `start` says has changed; nothing for one that was started before.
    pub(super) fn change_limits(&mut self, start: &Start) -> Result<(), Failed> {
        let id = &start.container;
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        let resources = parse(&start.resources)?;
        if resources.is_none() && start.oom_score_adj.is_none() {
            return Ok(());
        }
        match (&container.phase, &mut container.runtime) {
            (Phase::Created { first }, OciRuntime::Builtin { oom_score_adj, .. }) => {
                if let Some(resources) = &resources {
                    container.cgroup.apply(resources).map_err(|e| step("limit the cgroup", &e))?;
                }
                if let Some(score) = start.oom_score_adj {
                    set_oom_score_adj(Some(first.pid), score)
                        .map_err(|e| step("set oom_score_adj", &e))?;
                    *oom_score_adj = Some(score);
                }
                Ok(())
            }
            (Phase::Dumped { .. }, OciRuntime::Builtin { oom_score_adj, .. }) => {
                if let Some(resources) = &resources {
                    container.cgroup.apply(resources).map_err(|e| step("limit the cgroup", &e))?;
                }
                *oom_score_adj = start.oom_score_adj.or(*oom_score_adj);
                Ok(())
            }
            (Phase::Prepared { .. }, OciRuntime::External { process, .. }) => {
                if let Some(score) = start.oom_score_adj {
                    process.set_oom_score_adj(Some(score));
                }
                external::change_limits(&container.directory, resources, start.oom_score_adj)
                    .map_err(|e| step("change the bundle", &e))
            }
            _ => Ok(()),
        }
    }
}

fn parse(json: &[u8]) -> Result<Option<LinuxResources>, Failed> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(json)
        .map(Some)
        .map_err(|error| Failed::new(FailedKind::Invalid, format!("read the limits: {error}")))
}
