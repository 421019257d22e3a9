//! Pure state machines of pods and containers: no I/O, no clock, no async.
//!
//! Everything that decides is here and is tested exhaustively; everything that acts asks
//! here first. The word for what is taken from the host is a *claim*: it is written down
//! before it is taken and crossed out after it was given back.

use serde::{Deserialize, Serialize};

/// A container, from creating to removing.
pub mod container;
/// A pod, from preparing to stopped.
pub mod pod;

/// A process that cannot be confused with a later one of the same id: ids are reused,
/// but not within one clock tick of the same boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id in the daemon's PID namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}
