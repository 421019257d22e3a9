//! Pod lifecycle: one durable record, one owner, one way down.
//!
//! ```text
//!  (record written with the whole plan of claims)
//!  Preparing ──Started──▶ Ready
//!      │                    │
//!      └───────Stop─────────┴──▶ Stopping ──Released──▶ Stopped ──Remove──▶ Removing ──▶ no record
//! ```
//!
//! Every name on the host is a function of the pod's id, so releasing a claim that was
//! never taken is harmless. That is why the plan can be recorded in one write before
//! anything is taken, and why a failed start, a stop and a recovery are the same walk.

use serde::{Deserialize, Serialize};

use super::ProcessIdentity;

/// One thing taken from the host for a pod, in the order of taking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Claim {
    /// The pod's state directory.
    Directory,
    /// The pinned network namespace.
    NetNs,
    /// The network attachment.
    Attachment,
    /// The shim, and with it the pod's cgroups and containers.
    Shim,
}

impl Claim {
    /// All claims, in the order of taking.
    pub const ALL: [Self; 4] = [Self::Directory, Self::NetNs, Self::Attachment, Self::Shim];
}

/// Why a pod goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopCause {
    /// Somebody asked.
    Requested,
    /// It never became ready.
    PrepareFailed,
    /// Its shim died.
    ShimLost,
    /// The machine was started anew.
    Rebooted,
}

/// The durable state. Data exists only in the state in which it is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodState {
    /// The planned claims are being taken, in order; any of them may have been.
    Preparing {
        /// The plan.
        held: Vec<Claim>,
    },
    /// `SANDBOX_READY`: all are held.
    Ready {
        /// What is held.
        held: Vec<Claim>,
        /// The process that keeps the pod.
        shim: ProcessIdentity,
    },
    /// `SANDBOX_NOTREADY`: claims are released, last first.
    Stopping {
        /// What is not yet known to be released.
        held: Vec<Claim>,
        /// Why.
        cause: StopCause,
    },
    /// `SANDBOX_NOTREADY`: nothing is held but the record.
    Stopped {
        /// Why.
        cause: StopCause,
    },
    /// Not listed any more; the record goes next.
    Removing,
}

/// What happened, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodEvent {
    /// All claims are taken and the shim runs.
    Started(ProcessIdentity),
    /// Go down.
    Stop(StopCause),
    /// A claim is known to be released.
    Released(Claim),
    /// Forget the pod.
    Remove,
}

/// The event means nothing in this state, which is handed back untouched.
#[derive(Debug, thiserror::Error)]
#[error("{event:?} is not allowed in this state")]
pub struct Refused {
    /// The state as it was.
    pub state: PodState,
    /// What was refused.
    pub event: PodEvent,
}

impl PodState {
    /// A pod that is about to take `plan`. The order of the plan does not matter.
    #[must_use]
    pub fn preparing(mut plan: Vec<Claim>) -> Self {
        plan.sort_unstable();
        plan.dedup();
        Self::Preparing { held: plan }
    }

    /// Applies one event.
    ///
    /// # Errors
    /// [`Refused`] when `event` has no meaning in `self`.
    pub fn step(self, event: PodEvent) -> Result<Self, Box<Refused>> {
        use PodEvent as E;
        match (self, event) {
            (Self::Preparing { held }, E::Started(shim)) => Ok(Self::Ready { held, shim }),
            (Self::Preparing { held } | Self::Ready { held, .. }, E::Stop(cause)) => {
                Ok(Self::going_down(held, cause))
            }
            (Self::Stopping { mut held, cause }, E::Released(claim))
                if held.last() == Some(&claim) =>
            {
                held.pop();
                Ok(Self::going_down(held, cause))
            }
            (
                state @ (Self::Stopping { .. } | Self::Stopped { .. } | Self::Removing),
                E::Stop(_),
            ) => Ok(state),
            (Self::Stopped { .. } | Self::Removing, E::Remove) => Ok(Self::Removing),
            (state, event) => Err(Box::new(Refused { state, event })),
        }
    }

    fn going_down(held: Vec<Claim>, cause: StopCause) -> Self {
        if held.is_empty() { Self::Stopped { cause } } else { Self::Stopping { held, cause } }
    }

    /// The claim to release now; one answer for stop, failed start and recovery.
    #[must_use]
    pub fn next_release(&self) -> Option<Claim> {
        match self {
            Self::Stopping { held, .. } => held.last().copied(),
            Self::Preparing { .. } | Self::Ready { .. } | Self::Stopped { .. } | Self::Removing => {
                None
            }
        }
    }

    /// What a restarting daemon does with a loaded record, given the shim that it found
    /// and whether the machine was started since.
    #[must_use]
    pub fn on_restart(&self, found: Option<ProcessIdentity>, boot: Boot) -> Option<PodEvent> {
        match (self, boot) {
            (Self::Preparing { .. }, _) => Some(PodEvent::Stop(StopCause::PrepareFailed)),
            (Self::Ready { .. }, Boot::Another) => Some(PodEvent::Stop(StopCause::Rebooted)),
            (Self::Ready { shim, .. }, Boot::Same) if found != Some(*shim) => {
                Some(PodEvent::Stop(StopCause::ShimLost))
            }
            _ => None,
        }
    }

    /// Whether the kubelet is told of the pod.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        match self {
            Self::Ready { .. } | Self::Stopping { .. } | Self::Stopped { .. } => true,
            Self::Preparing { .. } | Self::Removing => false,
        }
    }
}

/// Whether a record was written since the machine was last started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// It was.
    Same,
    /// It was written before: processes, namespaces and mounts of then are gone.
    Another,
}

#[cfg(test)]
mod tests;
