//! Which devices the processes of a group may make, read and write.
//!
//! A list of rules is read in order; for each of the three kinds of access the last rule that
//! matches the device decides, and what no rule matches is denied. On v2 the list becomes an
//! eBPF program with exactly this meaning. The v1 files know only one default and exceptions from
//! it, so there a list that denies a part of what it allows is refused.
//!
//! Specification:
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#allowed-device-list>

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxDeviceCgroup;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::file::{self, FileError};
use super::group::Cgroup;
use super::hierarchies::{Controller, Version};
use crate::sys::bpf;

/// The list as exceptions from a default: the v1 files.
mod exceptions;
/// The list as an eBPF program.
mod program;
/// One rule.
mod rule;
#[cfg(test)]
mod tests;

use rule::Rule;

/// Why the device rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum DeviceRuleError {
    /// A rule that means nothing.
    #[error("device rule {rule:?} is not valid")]
    InvalidRule {
        /// The rule.
        rule: String,
    },
    /// A list that the v1 files cannot hold.
    #[error("device rule {rule:?} takes back a part of an earlier rule, which cgroup v1 cannot do")]
    TooFine {
        /// The rule that cannot be kept.
        rule: String,
    },
    /// No hierarchy for device rules is mounted.
    #[error("this host has no device controller")]
    NoController,
    /// A v1 file failed.
    #[error("change the device rules of a cgroup")]
    Change {
        /// The file.
        #[source]
        source: FileError,
    },
    /// The group could not be opened.
    #[error("open the cgroup {}", .directory.display())]
    Open {
        /// The group.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The kernel did not take the program.
    #[error("load a device program of {instructions} instructions")]
    Load {
        /// Its length.
        instructions: usize,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The program in force could not be found.
    #[error("list the device programs of {}", .directory.display())]
    Query {
        /// The group.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The program could not be put in force.
    #[error("attach a device program to {}", .directory.display())]
    Attach {
        /// The group.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

impl Cgroup {
    /// Puts a list of rules in force, in the place of the one before. An empty list changes
    /// nothing.
    pub(super) fn apply_devices(&self, list: &[LinuxDeviceCgroup]) -> Result<(), DeviceRuleError> {
        if list.is_empty() {
            return Ok(());
        }
        let rules = list.iter().map(Rule::parse).collect::<Result<Vec<_>, _>>()?;
        match self.directory(Controller::Devices).ok_or(DeviceRuleError::NoController)? {
            (Version::V1, directory) => write_exceptions(&directory, &rules),
            (Version::V2, directory) => attach_program(&directory, &rules),
        }
    }
}

/// Brings the v1 files from what they hold to what the rules say. What stays allowed is never
/// denied in between, so running processes do not notice.
fn write_exceptions(directory: &Path, rules: &[Rule]) -> Result<(), DeviceRuleError> {
    let wanted = exceptions::Exceptions::of(rules)?;
    let change = || {
        let present = file::read(&directory.join("devices.list"))?;
        wanted
            .changes_from(&present)
            .iter()
            .try_for_each(|(name, line)| file::write(&directory.join(name), line))
    };
    change().map_err(|source| DeviceRuleError::Change { source })
}

/// Attaches the new program and takes away those that were there, so that at no time the group is
/// without one.
fn attach_program(directory: &Path, rules: &[Rule]) -> Result<(), DeviceRuleError> {
    let open = |source| DeviceRuleError::Open { directory: directory.to_path_buf(), source };
    let query = |source| DeviceRuleError::Query { directory: directory.to_path_buf(), source };
    let attach = |source| DeviceRuleError::Attach { directory: directory.to_path_buf(), source };

    let instructions = program::compile(rules);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = rustix::fs::open(directory, flags, Mode::empty()).map_err(open)?;
    let new = bpf::load_device_program(&instructions)
        .map_err(|source| DeviceRuleError::Load { instructions: instructions.len(), source })?;
    let old = bpf::device_programs(group.as_fd())
        .and_then(|ids| ids.into_iter().map(bpf::open_program).collect::<Result<Vec<OwnedFd>, _>>())
        .map_err(query)?;
    let mut old = old.iter();
    // One step where there is one program, as there is unless somebody else attached theirs.
    let replaced = old.next().map(AsFd::as_fd);
    bpf::attach_device_program(group.as_fd(), new.as_fd(), replaced).map_err(attach)?;
    old.try_for_each(|one| bpf::detach_device_program(group.as_fd(), one.as_fd())).map_err(attach)
}
