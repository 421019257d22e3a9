//! Which system calls a container may make.
//!
//! `RuntimeDefault` is a list of what is allowed; everything else fails with `EPERM`. The
//! list names what ordinary programs use, and grows with the capabilities of the
//! container: who may administer mounts may call `mount`. Never in it without a
//! capability: keyrings, BPF, performance events, user fault handling, kernel modules, new
//! namespaces. Never in it at all: `io_uring`, whose operations no filter sees, and
//! sockets of the families `AF_ALG` and `AF_VSOCK` (the kernel's crypto parsers, and a way
//! out of the network namespace).
//!
//! `clone3` passes its flags in memory, where a filter cannot look: without
//! `CAP_SYS_ADMIN` it answers `ENOSYS`, so that a C library falls back to `clone`, whose
//! flags are checked.
//!
//! # References
//! - [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html), [syscalls(2)](https://man7.org/linux/man-pages/man2/syscalls.2.html)
//! - [OCI runtime-spec, seccomp](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp)

use std::collections::HashSet;

use cri_api::v1;
use oci_spec::{
    OciSpecError,
    runtime::{
        Arch, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
        LinuxSeccompArgBuilder, LinuxSeccompOperator as Op, LinuxSyscall,
    },
};

use super::{
    Privilege,
    security::{Profile, SecurityError},
};

mod table;

/// `EPERM` and `ENOSYS` of Linux, on every architecture listed below.
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// A seccomp profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The kind of profile is unknown.
    #[error(transparent)]
    Request(#[from] SecurityError),
    /// A `Localhost` profile is a file.
    #[error("seccomp profile {path:?} is not an absolute path")]
    Path {
        /// As given.
        path: String,
    },
    /// The caller could not give the content.
    #[error("seccomp profile {path:?} is not available")]
    NotAvailable {
        /// As given.
        path: String,
    },
    /// The content is no profile in OCI's form.
    #[error("seccomp profile {path:?} is not in the form of the OCI runtime spec")]
    Parse {
        /// As given.
        path: String,
        /// Where it fails.
        #[source]
        source: serde_json::Error,
    },
    /// A rule of the default profile does not build.
    #[error("the default seccomp profile does not build")]
    Default(#[source] OciSpecError),
}

/// The `linux.seccomp` section; none means unconfined.
pub(super) fn seccomp(
    security: Option<&v1::LinuxContainerSecurityContext>,
    privilege: Privilege,
    capabilities: &HashSet<Capability>,
    localhost: Option<&[u8]>,
) -> Result<Option<LinuxSeccomp>, SeccompError> {
    let Some(security) = security else { return Ok(None) };
    match requested(security)? {
        _ if privilege == Privilege::Privileged => Ok(None),
        None | Some(Profile::Unconfined) => Ok(None),
        Some(Profile::RuntimeDefault) => default_profile(capabilities).map(Some),
        Some(Profile::Localhost(path)) => parse(path, localhost).map(Some),
    }
}

/// The path of the `Localhost` profile, unless the container is privileged.
pub(super) fn localhost_path(security: &v1::LinuxContainerSecurityContext) -> Option<&str> {
    match requested(security) {
        Ok(Some(Profile::Localhost(path))) if !security.privileged => Some(path),
        _ => None,
    }
}

fn requested(
    security: &v1::LinuxContainerSecurityContext,
) -> Result<Option<Profile<'_>>, SecurityError> {
    #[expect(deprecated, reason = "older clients send the string only")]
    let deprecated = &security.seccomp_profile_path;
    Profile::parse("seccomp", security.seccomp.as_ref(), deprecated)
}

fn parse(path: &str, content: Option<&[u8]>) -> Result<LinuxSeccomp, SeccompError> {
    let path = || path.to_owned();
    if !path().starts_with('/') {
        return Err(SeccompError::Path { path: path() });
    }
    let content = content.ok_or_else(|| SeccompError::NotAvailable { path: path() })?;
    serde_json::from_slice(content).map_err(|source| SeccompError::Parse { path: path(), source })
}

/// The profile that `RuntimeDefault` means for a container with these capabilities.
///
/// # Errors
/// [`SeccompError::Default`] if a rule of the table is malformed, which a test excludes.
pub fn default_profile(capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp, SeccompError> {
    let mut rules = vec![allow(table::ALWAYS.concat(), None)];
    for (capability, groups) in table::WITH_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(allow(groups.concat(), None));
        }
    }
    rules.extend(by_argument(capabilities).map_err(SeccompError::Default)?);

    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(architectures()))
        .set_flags(None)
        .set_listener_path(None)
        .set_listener_metadata(None)
        .set_syscalls(Some(rules));
    Ok(profile)
}

/// System calls that are allowed for some values of their first argument. Each value is a
/// rule of its own; rules for one call are alternatives.
fn by_argument(capabilities: &HashSet<Capability>) -> Result<Vec<LinuxSyscall>, OciSpecError> {
    let mut rules = Vec::new();
    for value in table::PERSONALITIES {
        let equal = first(Op::ScmpCmpEq).value(value).build()?;
        rules.push(allow(vec!["personality"], Some(equal)));
    }
    for (mask, value) in table::SOCKET_FAMILIES {
        rules.push(allow(vec!["socket", "socketpair"], Some(masked(mask, value)?)));
    }
    for (mask, value) in table::SOCKETCALLS {
        rules.push(allow(vec!["socketcall"], Some(masked(mask, value)?)));
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        let no_namespace = masked(table::CLONE_NEW_NAMESPACES, 0)?;
        rules.push(allow(vec!["clone"], Some(no_namespace)));
        let mut clone3 = allow(vec!["clone3"], None);
        clone3.set_action(Action::ScmpActErrno).set_errno_ret(Some(ENOSYS));
        rules.push(clone3);
    }
    Ok(rules)
}

/// `argument & mask == value`.
fn masked(mask: u64, value: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    first(Op::ScmpCmpMaskedEq).value(mask).value_two(value).build()
}

fn first(op: Op) -> LinuxSeccompArgBuilder {
    LinuxSeccompArgBuilder::default().index(0_usize).op(op)
}

fn allow(names: Vec<&str>, argument: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(str::to_owned).collect())
        .set_action(Action::ScmpActAllow)
        .set_errno_ret(None)
        .set_args(argument.map(|argument| vec![argument]));
    rule
}

/// The architecture of this program and the 32-bit one that its kernel also runs. Not x32,
/// which nobody uses and which has numbers of its own.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        "riscv64" => vec![Arch::ScmpArchRiscv64],
        _ => vec![Arch::ScmpArchNative],
    }
}

#[cfg(test)]
mod tests;
