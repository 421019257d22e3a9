//! Pods and their containers: who may do what when, and what is written down before.
//!
//! ```text
//! Pods ── registry ── PodHandle ─┬─ view      a picture, read by everybody, waits for nothing
//!                                └─ commands ─▶ driver   one task per pod, owner of its state
//!                                                 │ effects: child tasks that do the work
//!                                                 ▼
//!                          claims (directory, netns, attachment, shim), containers
//! ```
//!
//! **Invariants.** One driver owns a pod's state, its containers' included. Each state is
//! in the database before the effect that it announces and after the effect that it
//! reports. A caller that goes away stops waiting and stops nothing. Nobody but the driver
//! ever waits for a pod.

mod error;
/// What is stored.
pub mod record;
mod registry;
/// CRI configuration to OCI runtime spec.
pub mod spec;
/// Pictures of pods.
pub mod view;

/// What a driver is told.
#[derive(Debug)]
pub(super) enum Command {}

pub use error::{PodsError, RequestError};
pub use registry::FindError;
