//! The kernel, where `rustix` ends: thin wrappers that take typed arguments, return owned
//! descriptors or typed values, and have no policy.

/// Loading and attaching BPF programs.
pub mod bpf;
/// The mount API.
pub mod mount;
/// Namespaces.
pub mod ns;
/// Project quotas.
pub mod quota;
/// Seccomp filters.
pub mod seccomp;
/// Signals by number.
pub mod signal;
/// fork, clone3, exec.
pub mod spawn;
