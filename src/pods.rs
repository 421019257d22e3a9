//! Pods and their containers.

/// CRI configuration to OCI runtime spec.
pub mod spec;
