//! The daemon's own limit of open descriptors.
//!
//! Service managers start everything with a soft limit of 1024 for the sake of `select`.
//! The daemon raises its own. Containers do not get that from it: their limit is part of
//! their spec.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors to the hard one.
pub(super) fn raise_open_files() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: hard, maximum: hard };
    if let Err(refusal) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %refusal, "cannot raise the limit of open descriptors");
    }
}
