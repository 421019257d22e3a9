//! The sandbox of a pod: what is realised on the host for it, and nothing of Kubernetes.
//!
//! The daemon talks to a per-pod process, the shim, which starts containers and execs,
//! writes their logs and remembers their exits.
#![deny(unsafe_code)]

/// cgroups: v1 and v2, resources, events.
pub mod cgroup;
/// The daemon's side: start a shim, talk to it.
pub mod controller;
/// Pure state machines of pods and containers.
pub mod lifecycle;
/// Starting containers from an OCI runtime spec.
pub mod oci;
/// The messages between daemon and shim.
pub mod protocol;
/// The per-pod process.
pub mod shim;
/// The kernel, where `rustix` ends.
#[expect(unsafe_code, reason = "the only place that talks to the kernel in C")]
pub mod sys;
