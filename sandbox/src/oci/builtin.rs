//! orlop's own OCI runtime: namespaces, mounts, confinement, exec.

/// Capability sets of a process.
pub mod capabilities;
/// Device rules and device nodes.
pub mod devices;
/// Resource limits of a process.
pub mod rlimits;
/// OCI seccomp profiles compiled to classic BPF.
pub mod seccomp;
