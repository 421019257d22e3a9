//! The daemon's own limit of open descriptors.
//!
//! Service managers start everything with a soft limit of 1024 for the sake of `select`.
//! The daemon raises its own; what it starts must not inherit that, so [`raise_open_files`]
//! returns what there was.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors to the hard one; returns the former limits.
pub(super) fn raise_open_files() -> Rlimit {
    let former = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: former.maximum, maximum: former.maximum };
    if let Err(refusal) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %refusal, "cannot raise the limit of open descriptors");
    }
    former
}
