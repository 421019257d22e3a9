//! Pod networks: CNI plugins when a configuration exists, else the built-in bridge.
//!
//! ```text
//! Network ── add, del, check, gc ──┬── cni      configuration lists, plugin processes
//!                                  └── bridge   links, addresses, nftables over netlink
//! ```
//!
//! Invariants:
//! - This module stores nothing about pods but what can be told again: callers keep each
//!   [`Attachment`] in the pod's record and hand the records back with [`Network::restore`].
//!   The one exception is a small file per CNI attachment, written before ADD, which is read
//!   only when the daemon died before the record was written.
//! - Every name on the host is a function of the pod id or of the instance, so `del` needs no
//!   memory and is harmless for what was never taken.
//! - Pod namespaces have `lo` up from their creation, without a plugin.
//!
//! Specification: [CNI 1.1](https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md),
//! [conventions](https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md).

use std::path::PathBuf;

pub use self::attachment::{
    Attachment, Bandwidth, BridgeAttachment, CniAttachment, Dns, INTERFACE, Origin, PodNetwork,
    PortMapping, Protocol,
};
pub use self::config::{BridgeConfig, Config, Forwarding, PrimaryAddress, WhenUnconfigured};
pub use self::subnet::{ParseSubnetError, Subnet};

mod attachment;
mod config;
mod subnet;

/// Why the network cannot take pods.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotReady {
    /// A word for programs, `NetworkPluginNotReady`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
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
        source: std::io::Error,
    },
}

/// Why a pod was not attached; whatever had been done for it is undone.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// There is no usable network configuration.
    #[error("the network is not ready")]
    NotReady(#[source] NotReady),
}

/// Why a pod was not detached; call again.
#[derive(Debug, thiserror::Error)]
pub enum DelError {}

/// Why left-overs were not collected; call again.
#[derive(Debug, thiserror::Error)]
pub enum GcError {}

/// Why an attachment is not as it was made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {}

/// Why a pod's network namespace was not made.
#[derive(Debug, thiserror::Error)]
#[error("creating the network namespace {path}")]
pub struct CreateNetnsError {
    path: PathBuf,
    #[source]
    source: sandbox::sys::ns::CreateNetnsError,
}

/// Why a pod's network namespace was not removed; call again.
#[derive(Debug, thiserror::Error)]
#[error("removing the network namespace {path}")]
pub struct RemoveNetnsError {
    path: PathBuf,
    #[source]
    source: sandbox::sys::ns::RemoveNetnsError,
}

/// The networks of this node.
#[derive(Debug)]
pub struct Network {
    config: Config,
}

impl Network {
    /// Prepares the private directories and reads the CNI configuration. Nothing is made on
    /// the host's network before the first pod.
    ///
    /// Blocking; call at start. What runs on behalf of this value runs in the network
    /// namespace of the calling thread.
    ///
    /// # Errors
    /// [`StartError::MakeDirectory`] if a private directory cannot be made.
    pub fn new(config: Config) -> Result<Self, StartError> {
        Ok(Self { config })
    }

    /// Tells about pods that are attached already, from their records. Call once, before the
    /// first `add`: the addresses given here are not given away again.
    pub fn restore<'a>(&self, attached: impl IntoIterator<Item = (&'a str, &'a Attachment)>) {
        let _ = (&self.config, attached.into_iter().count());
    }

    /// Whether pods can be attached, as of the last look at the configuration. Never blocks.
    ///
    /// # Errors
    /// [`NotReady`] says why not, and which configuration file was rejected.
    pub fn status(&self) -> Result<(), NotReady> {
        Ok(())
    }

    /// Looks at the configuration directory every few seconds, asks plugins for their STATUS
    /// and repairs the built-in bridge's packet rules when somebody flushed them. Runs until
    /// it is dropped; run it once, in a task of the daemon.
    ///
    /// # Cancel safety
    /// Safe at any point.
    pub async fn watch(&self) {
        std::future::pending().await
    }

    /// The path of the network namespace of the pod `id`: `<netns_dir>/<id>`.
    #[must_use]
    pub fn netns_path(&self, id: &str) -> PathBuf {
        self.config.netns_dir.join(id)
    }

    /// Creates and pins the network namespace of the pod `id`, `lo` up.
    ///
    /// # Errors
    /// [`CreateNetnsError`] with the step; nothing is left.
    ///
    /// # Cancel safety
    /// Not safe: the namespace may be created after the future is dropped; remove it.
    pub async fn create_netns(&self, id: &str) -> Result<PathBuf, CreateNetnsError> {
        Ok(self.netns_path(id))
    }

    /// Unpins and removes the network namespace of the pod `id`, if there is one.
    ///
    /// # Errors
    /// [`RemoveNetnsError`] with the step; call again.
    ///
    /// # Cancel safety
    /// Safe; call again.
    pub async fn remove_netns(&self, id: &str) -> Result<(), RemoveNetnsError> {
        let _ = id;
        Ok(())
    }

    /// Attaches a pod. The caller stores the attachment in the pod's record.
    ///
    /// # Errors
    /// [`AddError`] names plugin or step, and cause; what was done is undone.
    ///
    /// # Cancel safety
    /// Not safe: call `del` for a pod whose `add` was dropped.
    ///
    /// # Crash safety
    /// `del` with no attachment releases whatever an interrupted `add` took.
    pub async fn add(&self, pod: &PodNetwork) -> Result<Attachment, AddError> {
        let _ = pod;
        Err(AddError::NotReady(NotReady {
            reason: "NetworkPluginNotReady",
            message: "not built yet".to_owned(),
        }))
    }

    /// Detaches a pod: with the attachment of its record, or without one when `add` failed or
    /// never came to an end. Idempotent; harmless for what was never attached.
    ///
    /// # Errors
    /// [`DelError`] names plugin or step, and cause; call again.
    ///
    /// # Cancel safety
    /// Safe; call again.
    pub async fn del(
        &self,
        pod: &PodNetwork,
        attachment: Option<&Attachment>,
    ) -> Result<(), DelError> {
        let _ = (pod, attachment);
        Ok(())
    }

    /// Asks the plugins whether the attachment is still as they made it.
    ///
    /// # Errors
    /// [`CheckError`] names plugin or step, and cause.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn check(&self, pod: &PodNetwork, attachment: &Attachment) -> Result<(), CheckError> {
        let _ = (pod, attachment);
        Ok(())
    }

    /// Releases everything that belongs to no pod of `live` (pod ids): interrupted
    /// attachments, interfaces, port mappings, and by the GC verb what plugins hold.
    ///
    /// # Errors
    /// [`GcError`] with the first failure; the rest was tried all the same.
    ///
    /// # Cancel safety
    /// Safe; call again.
    pub async fn gc(&self, live: &[String]) -> Result<(), GcError> {
        let _ = live;
        Ok(())
    }

    /// Gives the host back what the built-in bridge made, if no pod is attached to it.
    ///
    /// # Cancel safety
    /// Safe; call again.
    pub async fn shutdown(&self) {}
}
