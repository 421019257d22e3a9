//! Why there is no checkpoint.

use std::io;
use std::path::PathBuf;

use crate::snapshots::DiffError;

/// Why containers could not be checkpointed. Whatever it is, they run on, and nothing is left.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is switched off, or criu does not work with this kernel; the log says which. The
    /// words are those by which the kubelet's tests know it.
    #[error("checkpoint/restore support not available")]
    NotAvailable,
    /// There is no criu that would do. The words likewise.
    #[error("CRIU binary not found or too old (<31600). Failed to {what} {subject}: {why}")]
    NoCriu {
        /// What it is needed for.
        what: &'static str,
        /// The container or pod.
        subject: String,
        /// What was looked for, and found.
        why: String,
    },
    /// Where the archive is to be.
    #[error("the location {location:?} is not an absolute path of a file")]
    Location {
        /// As asked.
        location: PathBuf,
    },
    /// Where a pod's checkpoint is to be.
    #[error("{} is not an existing, empty directory", .path.display())]
    Output {
        /// As asked.
        path: PathBuf,
    },
    /// An option that does not exist; there are none.
    #[error("there is no option {name:?}")]
    UnknownOption {
        /// Its name.
        name: String,
    },
    /// No container.
    #[error("no container of pod {pod} is named")]
    NoContainers {
        /// The pod.
        pod: String,
    },
    /// A container more than once.
    #[error("container {id} is named twice")]
    Twice {
        /// Which.
        id: String,
    },
    /// Another pod's.
    #[error("container {id} is not of pod {pod}")]
    Foreign {
        /// Which.
        id: String,
        /// The pod.
        pod: String,
    },
    /// The pod's running containers are others.
    #[error("container {id} of pod {pod} runs and is not named")]
    Unnamed {
        /// Which.
        id: String,
        /// The pod.
        pod: String,
    },
    /// A file or directory on the way.
    #[error("{step} {}", .path.display())]
    File {
        /// What was done.
        step: &'static str,
        /// With which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What the container wrote.
    #[error("copy what container {id} wrote")]
    Diff {
        /// The container.
        id: String,
        /// Why.
        source: DiffError,
    },
    /// It took too long.
    #[error("the checkpoint of {id} took longer than {} s", .limit.as_secs())]
    Late {
        /// Container or pod.
        id: String,
        /// The bound.
        limit: std::time::Duration,
    },
    /// Nobody waits for it.
    #[error("the checkpoint of {id} was given up")]
    GivenUp {
        /// Container or pod.
        id: String,
    },
}
