//! The user namespace of a pod, as its containers' processes enter it.
//!
//! A process does first what only the host's root may: it joins the cgroups, opens the
//! sources of mounts, makes the root and the device nodes. Then it enters, and from then on
//! it is root of this namespace and of nothing else. It enters no later than before it makes
//! its mount namespace, which then belongs to this namespace too.
//!
//! On disk nothing knows of all this: layers, the writable directory and volumes are mounted
//! with mapped ids.
//!
//! # References
//! - [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::LinuxIdMapping;
use rustix::io::Errno;
use rustix::thread::ThreadNameSpaceType;

use super::capabilities::{self, CredentialError};
use crate::protocol;

/// As the OCI runtime spec has them.
type Ranges = Vec<LinuxIdMapping>;

/// A user namespace did not become this process's.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// `setns`.
    #[error("enter the user namespace")]
    SetNs(#[source] Errno),
    /// Its root has no ids there.
    #[error("become root of the user namespace")]
    Root(#[source] CredentialError),
}

/// A user namespace, open, with its ids.
#[derive(Debug)]
pub struct UserNamespace {
    namespace: OwnedFd,
    ids: protocol::UserNamespace,
}

impl UserNamespace {
    /// The one behind the descriptor, whose ids are these.
    #[must_use]
    pub fn new(namespace: OwnedFd, ids: protocol::UserNamespace) -> Self {
        Self { namespace, ids }
    }

    /// What its root is on the host: user and group.
    #[must_use]
    pub fn root(&self) -> (u32, u32) {
        (self.ids.host_uid, self.ids.host_gid)
    }

    /// Its name for other processes, as long as this one lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let descriptor = self.namespace.as_raw_fd();
        format!("/proc/{}/fd/{descriptor}", std::process::id()).into()
    }

    /// Whether a mount with these mappings of users and groups has its ids.
    pub(super) fn is_of(&self, mappings: (&Option<Ranges>, &Option<Ranges>)) -> bool {
        let is_range = |ranges: &Option<Ranges>, host: u32, length: u32| {
            ranges.as_deref().is_some_and(|ranges| match ranges {
                [range] => {
                    (range.container_id(), range.host_id(), range.size()) == (0, host, length)
                }
                _ => false,
            })
        };
        let (uids, gids) = mappings;
        is_range(uids, self.ids.host_uid, self.ids.uids)
            && is_range(gids, self.ids.host_gid, self.ids.gids)
    }

    /// Makes this process its root.
    pub(super) fn enter(&self) -> Result<(), EnterError> {
        rustix::thread::move_into_thread_name_spaces(
            self.namespace.as_fd(),
            ThreadNameSpaceType::USER,
        )
        .map_err(EnterError::SetNs)?;
        become_root()
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// What a user of this namespace, or of the host, is on the host.
pub(super) fn host_uid(namespace: Option<&UserNamespace>, uid: u32) -> u32 {
    // A user that the namespace does not have is refused when it is to be become.
    namespace.map_or(uid, |namespace| namespace.ids.host_uid.saturating_add(uid))
}

/// Takes the ids of root in the user namespace that this process has just entered. Until
/// then its ids are the host's, which do not exist there.
///
/// # Errors
/// The namespace has no root.
pub fn become_root() -> Result<(), EnterError> {
    capabilities::set_ids(0, 0, &[]).map_err(EnterError::Root)
}
