//! Capability sets and ids of a container process.
//!
//! The init sequence calls, in this order, while it is still root in its user namespace:
//!
//! 1. [`ProcessCapabilities::drop_bounding`]: needs `CAP_SETPCAP`, which later steps may take away;
//! 2. [`set_ids`]: groups, gid, uid. Keeps the permitted set over the change of the uid;
//! 3. [`ProcessCapabilities::apply_sets`]: permitted, effective, inheritable, then ambient;
//! 4. `no_new_privs` (`rustix::thread::set_no_new_privs`) and the seccomp filter. A filter without
//!    `no_new_privs` needs `CAP_SYS_ADMIN`, so it is then installed before step 2.
//!
//! Invariants: the inheritable set is empty unless the spec asks for it, so an unprivileged user
//! in the container gains nothing from file capabilities of an image (CVE-2022-24769). The
//! securebits stay at their default. An id of `u32::MAX` means "leave unchanged" to the kernel
//! and is refused here, so no range error ever leaves the process as root (CVE-2024-40635).
//!
//! Specification: <https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-process>

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Names and numbers of capabilities.
mod table;
#[cfg(test)]
mod tests;

pub use table::{ALL, name, number, parse};

/// Why the credentials of a process could not be set.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// An id that the kernel reads as "no change".
    #[error("{kind} {id} is not a valid id")]
    InvalidId {
        /// Which id: `uid`, `gid` or `supplementary gid`.
        kind: &'static str,
        /// The refused value.
        id: u32,
    },
    /// The bounding set could not be read.
    #[error("read the bounding capability set")]
    ReadBounding {
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A capability could not be dropped from the bounding set.
    #[error("drop {} from the bounding capability set", name(*.capability))]
    DropBounding {
        /// The capability.
        capability: Capability,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// `PR_SET_KEEPCAPS` failed.
    #[error("keep the capabilities while the uid changes")]
    KeepCapabilities {
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// `setgroups(2)` failed.
    #[error("set {count} supplementary groups")]
    SetGroups {
        /// How many groups were asked for.
        count: usize,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// `setresgid(2)` failed.
    #[error("set the group id to {gid}")]
    SetGid {
        /// The group id.
        gid: u32,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// `setresuid(2)` failed.
    #[error("set the user id to {uid}")]
    SetUid {
        /// The user id.
        uid: u32,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The current sets could not be read.
    #[error("read the capability sets")]
    ReadSets {
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// `capset(2)` failed.
    #[error("set the effective, permitted and inheritable capability sets")]
    SetSets {
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The ambient set could not be cleared.
    #[error("clear the ambient capability set")]
    ClearAmbient {
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A capability could not be raised in the ambient set.
    #[error("raise {} in the ambient capability set", name(*.capability))]
    RaiseAmbient {
        /// The capability.
        capability: Capability,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

/// The capabilities in the bounding set of this process: what "ALL" can mean on this host.
///
/// # Errors
/// [`CredentialError::ReadBounding`] when the kernel refuses to tell.
///
/// # References
/// - [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html)
pub fn bounding_set() -> Result<HashSet<Capability>, CredentialError> {
    let held = read_bounding()?;
    Ok(ALL.iter().copied().filter(|one| held.contains(bit(*one))).collect())
}

/// The five sets that a container process gets, as the spec names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessCapabilities {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl ProcessCapabilities {
    /// The sets of `process.capabilities`; an absent set, and an absent object, is empty.
    ///
    /// Capabilities that this host cannot give are left out when the sets are applied.
    #[must_use]
    pub fn from_oci(spec: Option<&LinuxCapabilities>) -> Self {
        let of = |set: fn(&LinuxCapabilities) -> &Option<HashSet<Capability>>| {
            spec.and_then(|spec| set(spec).as_ref()).map_or_else(CapabilitySet::empty, bits)
        };
        Self {
            bounding: of(LinuxCapabilities::bounding),
            effective: of(LinuxCapabilities::effective),
            permitted: of(LinuxCapabilities::permitted),
            inheritable: of(LinuxCapabilities::inheritable),
            ambient: of(LinuxCapabilities::ambient),
        }
    }

    /// Drops from the bounding set all that the spec does not list.
    ///
    /// # Errors
    /// [`CredentialError::ReadBounding`] and [`CredentialError::DropBounding`].
    pub fn drop_bounding(&self) -> Result<(), CredentialError> {
        let surplus = read_bounding()?.difference(self.bounding);
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if !surplus.contains(one) {
                continue;
            }
            thread::remove_capability_from_bounding_set(one).map_err(|source| {
                CredentialError::DropBounding { capability: of_number(number), source }
            })?;
        }
        Ok(())
    }

    /// Sets permitted, effective, inheritable and ambient, and ends the keeping begun by
    /// [`set_ids`].
    ///
    /// What this process does not hold cannot be given and is left out without an error, as is
    /// an ambient capability that is not also permitted and inheritable.
    ///
    /// # Errors
    /// The step that failed.
    pub fn apply_sets(&self) -> Result<(), CredentialError> {
        let held = thread::capabilities(None)
            .map_err(|source| CredentialError::ReadSets { source })?
            .permitted;
        let sets = self.sets_given(held);
        thread::clear_ambient_capability_set()
            .map_err(|source| CredentialError::ClearAmbient { source })?;
        thread::set_capabilities(None, sets)
            .map_err(|source| CredentialError::SetSets { source })?;
        let ambient = self.ambient & sets.permitted & sets.inheritable;
        for capability in ALL.iter().copied().filter(|one| ambient.contains(bit(*one))) {
            thread::configure_capability_in_ambient_set(bit(capability), true)
                .map_err(|source| CredentialError::RaiseAmbient { capability, source })?;
        }
        thread::set_keep_capabilities(false)
            .map_err(|source| CredentialError::KeepCapabilities { source })
    }

    /// What can be given by a process whose permitted set is `held`.
    fn sets_given(&self, held: CapabilitySet) -> CapabilitySets {
        let permitted = self.permitted & held;
        CapabilitySets {
            effective: self.effective & permitted,
            permitted,
            inheritable: self.inheritable & held,
        }
    }
}

/// Sets supplementary groups, group id and user id of this thread, in this order.
///
/// The permitted set survives the change to a user that is not root; [`apply_sets`] ends that.
/// `groups` replaces the supplementary groups, an empty list clears them.
///
/// [`apply_sets`]: ProcessCapabilities::apply_sets
///
/// # Errors
/// [`CredentialError::InvalidId`] before anything was changed, else the step that failed. After
/// an error the process must exit: some of its ids may have changed.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> Result<(), CredentialError> {
    let new_uid = Uid::from_raw_unchecked(valid_id("uid", uid)?);
    let new_gid = Gid::from_raw_unchecked(valid_id("gid", gid)?);
    let new_groups = groups
        .iter()
        .map(|id| valid_id("supplementary gid", *id).map(Gid::from_raw_unchecked))
        .collect::<Result<Vec<_>, _>>()?;

    thread::set_keep_capabilities(true)
        .map_err(|source| CredentialError::KeepCapabilities { source })?;
    thread::set_thread_groups(&new_groups)
        .map_err(|source| CredentialError::SetGroups { count: new_groups.len(), source })?;
    thread::set_thread_res_gid(new_gid, new_gid, new_gid)
        .map_err(|source| CredentialError::SetGid { gid, source })?;
    thread::set_thread_res_uid(new_uid, new_uid, new_uid)
        .map_err(|source| CredentialError::SetUid { uid, source })
}

fn valid_id(kind: &'static str, id: u32) -> Result<u32, CredentialError> {
    if id == u32::MAX { Err(CredentialError::InvalidId { kind, id }) } else { Ok(id) }
}

/// Reads the bounding set, one capability after the other until the kernel knows no more.
fn read_bounding() -> Result<CapabilitySet, CredentialError> {
    let mut held = CapabilitySet::empty();
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match thread::capability_is_in_bounding_set(one) {
            Ok(true) => held |= one,
            Ok(false) => {}
            Err(Errno::INVAL) => break,
            Err(source) => return Err(CredentialError::ReadBounding { source }),
        }
    }
    Ok(held)
}

fn bit(capability: Capability) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number(capability))
}

fn bits(set: &HashSet<Capability>) -> CapabilitySet {
    set.iter().fold(CapabilitySet::empty(), |all, one| all | bit(*one))
}

/// The capability of a number that the kernel knows; only used to name it in an error.
fn of_number(number: u32) -> Capability {
    usize::try_from(number)
        .ok()
        .and_then(|index| ALL.get(index).copied())
        .unwrap_or(Capability::CheckpointRestore)
}
