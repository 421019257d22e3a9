//! Why nothing is restored.

use std::io;
use std::path::PathBuf;

use crate::images::TransferError;

/// Why a pod could not be restored. Whatever it is, nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// An option that does not exist; there are none.
    #[error("there is no option {name:?}")]
    UnknownOption {
        /// Its name.
        name: String,
    },
    /// What criu cannot restore here.
    #[error("a {what} cannot be restored")]
    Unsupported {
        /// What it is.
        what: &'static str,
    },
    /// Where the checkpoint is to be.
    #[error("the checkpoint path {path:?} is not absolute")]
    Path {
        /// As asked.
        path: PathBuf,
    },
    /// A file of the checkpoint.
    #[error("read {path:?} of the checkpoint")]
    File {
        /// Which, from the checkpoint's directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is none of a checkpoint, or that others than root could have written.
    #[error("{path:?} of the checkpoint {why}")]
    Unsafe {
        /// Which, from the checkpoint's directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What is written there is not what should be.
    #[error("{path:?} of the checkpoint is damaged: {why}")]
    Damaged {
        /// Which, from the checkpoint's directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The request names a container that the checkpoint does not have.
    #[error("the checkpoint has no container {name:?}; it has {names}")]
    NoSuchContainer {
        /// As asked.
        name: String,
        /// Those that it has.
        names: String,
    },
    /// The request names one more than once.
    #[error("container {name:?} is named twice")]
    Twice {
        /// Which.
        name: String,
    },
    /// The checkpoint has a container that the request does not name.
    #[error("container {name:?} of the checkpoint is not named")]
    Unnamed {
        /// Which.
        name: String,
    },
    /// The processes would be other ones than the configuration says.
    #[error("the configuration of container {name:?} differs from its checkpoint: {what}")]
    Differs {
        /// Which.
        name: String,
        /// In what.
        what: String,
    },
    /// What the container wrote.
    #[error("unpack what container {name:?} wrote")]
    Unpack {
        /// Which.
        name: String,
        /// Why not.
        source: Box<TransferError>,
    },
    /// criu's images cannot be kept.
    #[error("copy the images to {}", .path.display())]
    Copy {
        /// To where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody waits for it.
    #[error("the restoration of pod {pod} was given up")]
    GivenUp {
        /// Its id.
        pod: String,
    },
}
