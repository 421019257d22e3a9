//! Whose processes a new container sees: its own, another's, the node's.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::process::Pid;

use super::containers::{not_found, pid_mode, step};
use super::event_loop::Shim;
use crate::oci::builtin::PidPlace;
use crate::oci::external::PidPath;
use crate::protocol::{Create, Failed, FailedKind, PidMode};

/// A PID namespace to be born in. Who has it is a child of this process that was not
/// buried, so its id is its own.
pub(super) enum Place<'a> {
    Own,
    Host,
    Of(Pid, BorrowedFd<'a>),
}

impl Shim {
    /// The namespace that `create` asks for.
    pub(super) fn pid_namespace(&self, create: &Create) -> Result<Place<'_>, Failed> {
        match pid_mode(create) {
            PidMode::Container(_) => Ok(Place::Own),
            PidMode::Node(_) => Ok(Place::Host),
            PidMode::Pod(_) => match &self.namespaces.pause {
                Some((pid, pause)) => Ok(Place::Of(*pid, pause.as_fd())),
                None => {
                    let message = "the pod's containers share no PID namespace";
                    Err(Failed::new(FailedKind::Invalid, message))
                }
            },
            PidMode::Target(id) => {
                let target = self.containers.get(&id).ok_or_else(|| not_found(&id))?;
                let first = target.first().ok_or_else(|| ended(&id))?;
                Ok(Place::Of(first.pid, first.pidfd.as_fd()))
            }
        }
    }
}

fn ended(target: &str) -> Failed {
    let message = format!("the target container {target} is not running");
    Failed::new(FailedKind::WrongState, message)
}

impl<'a> Place<'a> {
    pub(super) fn for_builtin(self) -> PidPlace<'a> {
        match self {
            Self::Own => PidPlace::Own,
            Self::Host => PidPlace::Host,
            Self::Of(_, pidfd) => PidPlace::Of(pidfd),
        }
    }

    /// For an external runtime, which wants a path and opens it when the container is
    /// started: one through a descriptor, which comes along and must stay open until
    /// then. The process may be gone by that time, and its id another's.
    pub(super) fn for_external(self) -> Result<(PidPath, Option<OwnedFd>), Failed> {
        let Self::Of(pid, _) = self else {
            let path = if matches!(self, Self::Host) { PidPath::Host } else { PidPath::New };
            return Ok((path, None));
        };
        let namespace = File::open(format!("/proc/{}/ns/pid", pid.as_raw_nonzero()))
            .map_err(|e| step("open the PID namespace to join", &e))?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        Ok((PidPath::Join(path), Some(namespace.into())))
    }
}
