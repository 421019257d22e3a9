//! CRI v1: wire to domain and back, nothing else.

/// Messages to and from the words of the modules below.
pub mod convert;
/// Clients' deadlines.
pub mod deadline;
mod status;
