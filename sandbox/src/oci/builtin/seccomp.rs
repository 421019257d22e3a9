//! OCI seccomp profiles compiled to classic BPF.
//!
//! A profile is compiled once, by [`Filter::compile`], and installed in the container's init and
//! in every exec by [`Filter::install`], so both carry the same filter.
//!
//! # What a profile means
//! As in runc and crun (both by libseccomp), so that a profile tested there does the same here:
//!
//! - A rule whose action and errno are those of the default does nothing.
//! - A rule without `args` decides for its system call, whatever other rules say; of several such
//!   rules the first decides.
//! - Among rules with `args` the first that matches decides. All conditions of a rule must hold;
//!   but when a rule has two conditions on one argument, each of its conditions is a rule.
//! - `SCMP_CMP_MASKED_EQ` compares under the mask on both sides; on i386 only the 32 bits count that
//!   an argument has.
//! - Where rules with different actions match one call, libseccomp's choice depends on its sorting;
//!   here the order of the profile decides.
//! - Names that this kernel architecture does not have are left out.
//! - A system call newer than every one the profile names fails with `ENOSYS`, so that a C
//!   library can fall back to an older one, unless the default lets calls pass.
//! - A system call of an architecture that the profile does not list kills the process.
//!
//! Specification: <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};
use rustix::io::Errno;

use crate::sys::seccomp::{FilterFlags, Instruction, set_mode_filter};

/// Architectures and numbers.
mod arch;
/// Decisions to BPF.
mod assemble;
/// Profiles to decisions.
mod decide;
/// Names and numbers.
mod table;
#[cfg(test)]
mod tests;

use arch::Machine;

/// The longest filter that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Why a profile could not be compiled or installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// An action this runtime cannot serve.
    #[error("seccomp action {action:?} is not supported")]
    UnsupportedAction {
        /// The action.
        action: LinuxSeccompAction,
    },
    /// A filter flag this runtime cannot serve.
    #[error(
        "seccomp flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs SCMP_ACT_NOTIFY, which is not supported"
    )]
    UnsupportedFlag,
    /// An errno that the kernel would cut.
    #[error("seccomp errno {errno} is above 4095")]
    InvalidErrno {
        /// The number.
        errno: u32,
    },
    /// A system call has six arguments.
    #[error("seccomp rule for {syscall} compares argument {index}, there are only 0 to 5")]
    InvalidArgument {
        /// The first name of the rule.
        syscall: String,
        /// The index asked for.
        index: usize,
    },
    /// The kernel takes 4096 instructions at most.
    #[error("seccomp profile needs {instructions} instructions, the kernel takes 4096")]
    TooLong {
        /// The length of the filter.
        instructions: usize,
    },
    /// This machine's architecture has no table of system calls here.
    #[error("seccomp is not supported on this architecture")]
    UnsupportedArchitecture,
    /// The kernel refused the filter.
    #[error("install a seccomp filter of {instructions} instructions")]
    Install {
        /// The length of the filter.
        instructions: usize,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

/// A compiled profile.
#[derive(Debug, Clone)]
pub struct Filter {
    instructions: Vec<Instruction>,
    flags: FilterFlags,
}

impl Filter {
    /// Compiles a profile for this machine.
    ///
    /// # Errors
    /// The first thing in the profile that cannot be kept.
    pub fn compile(profile: &LinuxSeccomp) -> Result<Self, SeccompError> {
        let machine = Machine::own().ok_or(SeccompError::UnsupportedArchitecture)?;
        Ok(Self { instructions: compile(profile, machine)?, flags: flags(profile)? })
    }

    /// The instructions, for tests and `doctor`.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Installs the filter on the calling thread, for good.
    ///
    /// Needs `no_new_privs`, or `CAP_SYS_ADMIN` in the user namespace.
    ///
    /// # Errors
    /// [`SeccompError::Install`].
    pub fn install(&self) -> Result<(), SeccompError> {
        set_mode_filter(&self.instructions, self.flags).map_err(|source| SeccompError::Install {
            instructions: self.instructions.len(),
            source,
        })
    }
}

/// Compiles a profile for a machine.
fn compile(profile: &LinuxSeccomp, machine: Machine) -> Result<Vec<Instruction>, SeccompError> {
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let decisions = machine
        .abis(listed)
        .into_iter()
        .map(|abi| decide::decisions(profile, abi).map(|decisions| (abi, decisions)))
        .collect::<Result<Vec<_>, _>>()?;
    let filter = assemble::assemble(&decisions);
    if filter.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong { instructions: filter.len() });
    }
    Ok(filter)
}

/// The flags of a profile; one that does not speak of flags leaves the mitigation off that would
/// slow the container down, as other runtimes do. A container has one thread when its filter is
/// installed, so `SECCOMP_FILTER_FLAG_TSYNC` changes nothing.
fn flags(profile: &LinuxSeccomp) -> Result<FilterFlags, SeccompError> {
    let Some(listed) = profile.flags() else {
        return Ok(FilterFlags { spec_allow: true, ..FilterFlags::default() });
    };
    if listed.contains(&LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv) {
        return Err(SeccompError::UnsupportedFlag);
    }
    Ok(FilterFlags {
        log: listed.contains(&LinuxSeccompFilterFlag::SeccompFilterFlagLog),
        spec_allow: listed.contains(&LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow),
        tsync: false,
    })
}
