//! Container lifecycle, and what a restarting daemon makes of what it finds.
//!
//! ```text
//! Creating ──▶ Created ──▶ Starting ──▶ Running ──▶ Exited ──▶ Removing ──▶ no record
//!     └──────────────────────────────────────────────────────────▲
//! ```

use serde::{Deserialize, Serialize};

/// How a container's program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal number when a signal ended it.
    pub code: i32,
    /// Nanoseconds since the epoch.
    pub finished_at_ns: i64,
    /// Why.
    pub cause: ExitCause,
}

/// Why a program is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitCause {
    /// It ended, by itself or by a signal.
    Ended,
    /// The kernel killed a process of it for lack of memory.
    OomKilled,
    /// It never started.
    StartFailed,
    /// Nobody saw: the shim died with it, or the machine did.
    Lost,
}

/// The exit code of a container whose end nobody saw.
pub const LOST_CODE: i32 = 255;

/// The durable state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Its snapshot and its place in the shim are being made.
    Creating,
    /// `CONTAINER_CREATED`.
    Created,
    /// The word to start was given, and no answer is recorded yet.
    Starting,
    /// `CONTAINER_RUNNING`.
    Running {
        /// Nanoseconds since the epoch.
        started_at_ns: i64,
    },
    /// `CONTAINER_EXITED`; final.
    Exited {
        /// How.
        exit: Exit,
        /// When its program had begun, if it ever had.
        started_at_ns: Option<i64>,
    },
    /// Not listed any more; what it holds is being given back.
    Removing,
}

/// What a restarting daemon found of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// The shim lives and knows it as set up but not started.
    Waiting,
    /// The shim lives and says that its program runs.
    Alive {
        /// Nanoseconds since the epoch.
        started_at_ns: i64,
    },
    /// The shim, or the exit file that it left, says how it ended.
    Ended {
        /// How.
        exit: Exit,
        /// When its program had begun, if it ever had.
        started_at_ns: Option<i64>,
    },
    /// There is neither shim nor exit file, or the shim does not know it.
    Nothing {
        /// The time to give to an end that nobody saw.
        now_ns: i64,
    },
}

impl ContainerState {
    /// What the state becomes when a daemon that recorded `self` finds `observed`: a
    /// total function, idempotent, under which `Exited` is final.
    #[must_use]
    pub fn reconcile(self, observed: Observed) -> Self {
        match (self, observed) {
            // Nobody was told of it yet: the kubelet will ask again.
            (Self::Creating | Self::Removing, _) => Self::Removing,
            (state @ Self::Exited { .. }, _) => state,
            (Self::Created | Self::Starting, Observed::Waiting) => Self::Created,
            (state @ Self::Running { .. }, Observed::Waiting) => state,
            (_, Observed::Alive { started_at_ns }) => Self::Running { started_at_ns },
            (_, Observed::Ended { exit, started_at_ns }) => Self::Exited { exit, started_at_ns },
            (state, Observed::Nothing { now_ns }) => {
                let started_at_ns = match state {
                    Self::Running { started_at_ns } => Some(started_at_ns),
                    _ => None,
                };
                let exit = Exit { code: LOST_CODE, finished_at_ns: now_ns, cause: ExitCause::Lost };
                Self::Exited { exit, started_at_ns }
            }
        }
    }

    /// Whether the kubelet is told of it.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        !matches!(self, Self::Creating | Self::Removing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Exit = Exit { code: 3, finished_at_ns: 9, cause: ExitCause::Ended };

    fn recorded() -> Vec<ContainerState> {
        vec![
            ContainerState::Creating,
            ContainerState::Created,
            ContainerState::Starting,
            ContainerState::Running { started_at_ns: 4 },
            ContainerState::Exited { exit: EXIT, started_at_ns: Some(4) },
            ContainerState::Removing,
        ]
    }

    fn observations() -> Vec<Observed> {
        let other = Exit { code: 0, finished_at_ns: 12, cause: ExitCause::OomKilled };
        vec![
            Observed::Waiting,
            Observed::Alive { started_at_ns: 5 },
            Observed::Ended { exit: other, started_at_ns: Some(5) },
            Observed::Nothing { now_ns: 99 },
        ]
    }

    #[test]
    fn reconciling_twice_is_reconciling_once() {
        for state in recorded() {
            for observed in observations() {
                let once = state.clone().reconcile(observed);
                assert_eq!(once.clone().reconcile(observed), once, "{state:?} {observed:?}");
            }
        }
    }

    #[test]
    fn an_exit_once_known_never_changes() {
        let exited = ContainerState::Exited { exit: EXIT, started_at_ns: Some(4) };
        for observed in observations() {
            assert_eq!(exited.clone().reconcile(observed), exited);
        }
    }

    #[test]
    fn what_was_being_created_is_removed_whatever_is_found() {
        for observed in observations() {
            assert_eq!(ContainerState::Creating.reconcile(observed), ContainerState::Removing);
        }
    }

    #[test]
    fn a_lost_container_says_so_and_keeps_its_start() {
        let state = ContainerState::Running { started_at_ns: 4 };
        let ContainerState::Exited { exit, started_at_ns } =
            state.reconcile(Observed::Nothing { now_ns: 99 })
        else {
            panic!("it must be over");
        };
        assert_eq!((exit.code, exit.cause, started_at_ns), (255, ExitCause::Lost, Some(4)));
    }
}
