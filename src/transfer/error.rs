//! Why a pull failed.
//!
//! Each variant is a step; its message names the blob, and the chain of causes ends
//! with what each host said. [`PullError::failure`] says the same for a program.

use std::error::Error;
use std::io;

use tokio::task::JoinError;

use rustix::io::Errno;

use super::config_blob::ConfigError;
use super::fetch::FetchError;
use super::manifest::ManifestError;
use super::platform::Platform;
use super::registry::{HostsError, HostsFailed, RequestFailure};
use super::tasks::Lost;
use super::trust::{SignatureError, VerifierError};
use crate::content::{ContentError, Digest};

/// The step of a pull that failed; the caller knows of which reference. Nothing of the pull is left but blobs and layers that were
/// complete, which are collected unless another pull uses them.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The configuration of the registry's hosts is wrong.
    #[error("cannot find the hosts of {registry}")]
    Hosts {
        /// The registry.
        registry: String,
        /// The file and the fault.
        #[source]
        source: Box<HostsError>,
    },
    /// No host says what the reference names, or the caller may not know.
    #[error("cannot resolve the reference")]
    Resolve {
        /// Every host tried.
        #[source]
        source: HostsFailed,
    },
    /// The manifest does not come.
    #[error("cannot fetch manifest {digest}")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// Every host tried.
        #[source]
        source: HostsFailed,
    },
    /// The manifest came, and is not one.
    #[error("cannot read manifest {digest}")]
    InvalidManifest {
        /// The manifest.
        digest: Digest,
        /// The fault.
        #[source]
        source: ManifestError,
    },
    /// The image is not built for this machine.
    #[error("there is no image for {platform}; it has {}", list(offered))]
    NoPlatform {
        /// What was wanted.
        platform: Platform,
        /// What there is.
        offered: Vec<Platform>,
    },
    /// Indexes that name indexes, too deep or too many.
    #[error("the reference leads to more than {limit} indexes inside each other")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// The image configuration does not come.
    #[error("cannot fetch config {digest}")]
    Config {
        /// The configuration.
        digest: Digest,
        /// Every host tried.
        #[source]
        source: HostsFailed,
    },
    /// The image configuration came, and does not fit the manifest.
    #[error("cannot read config {digest}")]
    InvalidConfig {
        /// The configuration.
        digest: Digest,
        /// The fault.
        #[source]
        source: ConfigError,
    },
    /// The signature policy does not let it in.
    #[error(transparent)]
    Signature(Box<SignatureError>),
    /// The operator's verifiers block it.
    #[error(transparent)]
    Verifier(Box<VerifierError>),
    /// A layer could not be fetched, verified or unpacked.
    #[error("cannot pull layer {digest}")]
    Layer {
        /// The compressed layer.
        digest: Digest,
        /// The step and its cause.
        #[source]
        source: Box<FetchError>,
    },
    /// A manifest or a configuration could not be stored or read back.
    #[error("cannot store {digest}")]
    Store {
        /// The blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: ContentError,
    },
    /// Blocking work ended without a result, because the daemon stops or a bug was hit.
    #[error("cannot wait for the pull's work")]
    Task(#[source] Lost),
    /// The task of a layer ended without a result, for the same reasons.
    #[error("cannot wait for a layer")]
    LayerTask(#[source] JoinError),
}

/// No session with a registry can be prepared.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The configuration of the registry's hosts is wrong.
    #[error("cannot find the hosts of {registry}")]
    Hosts {
        /// The registry.
        registry: String,
        /// The file and the fault.
        #[source]
        source: Box<HostsError>,
    },
    /// Blocking work ended without a result, because the daemon stops or a bug was hit.
    #[error("cannot wait for the work of a transfer")]
    Task(#[source] Lost),
}

impl From<SessionError> for PullError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Hosts { registry, source } => Self::Hosts { registry, source },
            SessionError::Task(lost) => Self::Task(lost),
        }
    }
}

/// What a failed pull means, whatever its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullFailure {
    /// The registry is not there, or cannot work now; asking later may help.
    RegistryUnavailable,
    /// The registry does not have the image.
    NotFound,
    /// The registry does not give the image to this caller.
    Unauthorized,
    /// The operator does not let it in.
    Blocked,
    /// It is not signed as the operator demands.
    Unsigned,
    /// The bytes are not those that a digest or a size promised.
    Corrupt,
    /// The image is there and cannot be used: its form, its platform, its archives.
    Unusable,
    /// No space is left on the disk.
    DiskFull,
    /// Something on this machine: host configuration, file system, a lost task.
    Local,
}

impl PullError {
    /// What the error means.
    #[must_use]
    pub fn failure(&self) -> PullFailure {
        if is_disk_full(self) {
            return PullFailure::DiskFull;
        }
        match self {
            Self::Resolve { source, .. }
            | Self::Manifest { source, .. }
            | Self::Config { source, .. } => failure_of_hosts(source),
            Self::InvalidManifest { .. }
            | Self::NoPlatform { .. }
            | Self::TooDeep { .. }
            | Self::InvalidConfig { .. } => PullFailure::Unusable,
            Self::Layer { source, .. } => source.failure(),
            Self::Verifier(_) => PullFailure::Blocked,
            Self::Signature(error) => failure_of_signature(error),
            Self::Hosts { .. } | Self::Store { .. } | Self::Task(_) | Self::LayerTask(_) => {
                PullFailure::Local
            }
        }
    }
}

fn failure_of_signature(error: &SignatureError) -> PullFailure {
    match error {
        SignatureError::Policy(_) | SignatureError::Task(_) => PullFailure::Local,
        SignatureError::Fetch { source, .. } => failure_of_hosts(source),
        SignatureError::Rejected { .. }
        | SignatureError::Unsupported { .. }
        | SignatureError::Unsigned { .. }
        | SignatureError::Unacceptable { .. } => PullFailure::Unsigned,
    }
}

/// What it means that no host gave something.
pub(super) fn failure_of_hosts(failed: &HostsFailed) -> PullFailure {
    match failed.failure() {
        RequestFailure::Unavailable => PullFailure::RegistryUnavailable,
        RequestFailure::NotFound => PullFailure::NotFound,
        RequestFailure::Unauthorized => PullFailure::Unauthorized,
        RequestFailure::Corrupt => PullFailure::Corrupt,
        RequestFailure::Settings => PullFailure::Local,
        RequestFailure::Refused => PullFailure::Unusable,
    }
}

/// Whether a cause is a disk or a quota without room.
pub(crate) fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    any_io_error(error, |io| matches!(io.kind(), StorageFull | QuotaExceeded))
}

/// Whether `error` or one of its causes is an I/O error of this sort.
pub(super) fn any_io_error(error: &(dyn Error + 'static), is: impl Fn(&io::Error) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let errno = || error.downcast_ref::<Errno>().map(|errno| io::Error::from(*errno));
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(&is) || errno().is_some_and(|io| is(&io)) {
            return true;
        }
        next = error.source();
    }
    false
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}
