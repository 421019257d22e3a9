//! Starting containers from an OCI runtime spec, by our own code or by an external runtime.

/// orlop's own OCI runtime.
pub mod builtin;
/// External runtimes, by their command line.
pub mod external;
