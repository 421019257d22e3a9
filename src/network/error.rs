//! What can go wrong with a pod's network, by operation.

use std::io;
use std::path::PathBuf;

pub use super::bandwidth::BandwidthError;
pub use super::bridge::{AttachError, BuildError, DetachError, HostError, StartHostError};
pub use super::cni::{
    CniAddError, CniDelError, IntentError, OutcomeError, ParseListError, PluginError,
    PluginFailure, PluginStep,
};

/// Why the network cannot take pods.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotReady {
    /// A word for programs, `NetworkPluginNotReady`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl NotReady {
    /// The reason both peers give.
    pub(super) fn new(message: String) -> Self {
        Self { reason: "NetworkPluginNotReady", message }
    }
}

/// An error with its causes, for a log line or a status.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Why the component did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A private directory cannot be made.
    #[error("making the directory {path}")]
    MakeDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The built-in bridge has no thread or no netlink.
    #[error("preparing the built-in bridge")]
    Bridge(#[source] StartHostError),
}

/// Why a pod was not attached; whatever had been done for it is undone.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// There is no usable network configuration.
    #[error("the network is not ready")]
    NotReady(#[source] NotReady),
    /// CNI plugins.
    #[error("attaching pod {pod} to network {network:?}")]
    Cni {
        /// The pod.
        pod: String,
        /// The network.
        network: String,
        /// Why.
        #[source]
        source: CniAddError,
    },
    /// The bridge's thread did not answer.
    #[error("asking the built-in bridge to attach pod {pod}")]
    Host {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: HostError,
    },
    /// The built-in bridge.
    #[error("attaching pod {pod} to the built-in bridge")]
    Bridge {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: AttachError,
    },
}

/// Why a pod was not detached; call again.
#[derive(Debug, thiserror::Error)]
pub enum DelError {
    /// CNI plugins.
    #[error("detaching pod {pod}")]
    Cni {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: CniDelError,
    },
    /// The bridge's thread did not answer.
    #[error("asking the built-in bridge to detach pod {pod}")]
    Host {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: HostError,
    },
    /// The built-in bridge.
    #[error("detaching pod {pod} from the built-in bridge")]
    Bridge {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: DetachError,
    },
}

/// Why left-overs were not collected; call again.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// CNI plugins.
    #[error("releasing what CNI plugins hold for no pod")]
    Cni(#[source] CniDelError),
    /// The bridge's thread did not answer.
    #[error("asking the built-in bridge to remove left-overs")]
    Host(#[source] HostError),
    /// The built-in bridge.
    #[error("removing left-overs of the built-in bridge")]
    Bridge(#[source] DetachError),
}

/// Why an attachment is not as it was made.
#[derive(Debug, thiserror::Error)]
#[error("checking pod {pod}")]
pub struct CheckError {
    /// The pod.
    pub pod: String,
    /// Why.
    #[source]
    pub source: CniDelError,
}

/// Why a pod's network namespace was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateNetnsError {
    /// The thread for it was not started or died.
    #[error("running the creation of the network namespace {path}")]
    Run {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: tokio::task::JoinError,
    },
    /// A step failed.
    #[error("creating the network namespace {path}")]
    Create {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: sandbox::sys::ns::CreateNetnsError,
    },
}

/// Why a pod's network namespace was not removed; call again.
#[derive(Debug, thiserror::Error)]
pub enum RemoveNetnsError {
    /// The thread for it was not started or died.
    #[error("running the removal of the network namespace {path}")]
    Run {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: tokio::task::JoinError,
    },
    /// A step failed.
    #[error("removing the network namespace {path}")]
    Remove {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: sandbox::sys::ns::RemoveNetnsError,
    },
}
