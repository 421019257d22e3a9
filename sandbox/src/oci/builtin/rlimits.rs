//! Resource limits and the OOM score of a container process.
//!
//! Limits that the spec names are set exactly. Raising a hard limit without `CAP_SYS_RESOURCE`
//! is an error, as it is in runc and crun: a container that asked for more descriptors than the
//! host grants should not start with fewer. The limit on open files is set even when the spec
//! does not name it, so that the raised limit of the daemon never reaches a container.
//!
//! The OOM score is different: the kubelet asks for a lower score than an unprivileged host can
//! give, and such a host must still run pods, so a refused score leaves the present one.
//!
//! Specification: <https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-process>

use std::fs;
use std::io;

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};

#[cfg(test)]
mod tests;

/// The soft limit on open files of a process that has not asked for another one; more breaks
/// programs that use `select(2)` or close every possible descriptor.
pub const DEFAULT_NOFILE_SOFT: u64 = 1024;
/// The hard limit on open files that goes with it; both are what systemd gives to services.
pub const DEFAULT_NOFILE_HARD: u64 = 524_288;

/// Why a limit or the OOM score could not be set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// `setrlimit(2)` failed.
    #[error("set {kind:?} to soft {soft}, hard {hard}")]
    SetLimit {
        /// The limit.
        kind: PosixRlimitType,
        /// The soft value asked for.
        soft: u64,
        /// The hard value asked for.
        hard: u64,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The OOM score could not be read.
    #[error("read {path}")]
    ReadOomScore {
        /// The file.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The OOM score is not a number.
    #[error("{path} holds {text:?}, not a number")]
    ParseOomScore {
        /// The file.
        path: String,
        /// What it holds.
        text: String,
        /// Why it is not a number.
        #[source]
        source: std::num::ParseIntError,
    },
    /// The OOM score could not be written, for another reason than a missing capability.
    #[error("write {value} to {path}")]
    WriteOomScore {
        /// The file.
        path: String,
        /// The value.
        value: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Sets the limits of the spec on this process, and the default limit on open files when the
/// spec has none.
///
/// To be called late: a low limit on open files binds the rest of the sequence too.
///
/// # Errors
/// [`LimitError::SetLimit`] names the limit and both values.
pub fn apply(rlimits: &[PosixRlimit]) -> Result<(), LimitError> {
    for limit in rlimits {
        set(limit.typ(), limit.soft(), limit.hard())?;
    }
    if rlimits.iter().any(|limit| limit.typ() == PosixRlimitType::RlimitNofile) {
        return Ok(());
    }
    let (soft, hard) = default_nofile(getrlimit(Resource::Nofile).maximum);
    set(PosixRlimitType::RlimitNofile, soft, hard)
}

/// The default soft and hard limits on open files under the hard limit of this process.
fn default_nofile(own_hard: Option<u64>) -> (u64, u64) {
    let hard = own_hard.unwrap_or(u64::MAX).min(DEFAULT_NOFILE_HARD);
    (hard.min(DEFAULT_NOFILE_SOFT), hard)
}

fn set(kind: PosixRlimitType, soft: u64, hard: u64) -> Result<(), LimitError> {
    let new = Rlimit { current: finite(soft), maximum: finite(hard) };
    setrlimit(resource(kind), new).map_err(|source| LimitError::SetLimit {
        kind,
        soft,
        hard,
        source,
    })
}

/// The specification writes "unlimited" as the greatest number.
fn finite(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

const fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// Sets the OOM score adjustment of a process, or of this one, and returns the one in effect.
///
/// Without `CAP_SYS_RESOURCE` a score below the present one is refused by the kernel; the
/// present one then stays. The host's `/proc` must be mounted.
///
/// # Errors
/// When the file cannot be read or written for another reason.
///
/// # References
/// - [proc_pid_oom_score_adj(5)](https://man7.org/linux/man-pages/man5/proc_pid_oom_score_adj.5.html)
pub fn set_oom_score_adj(pid: Option<Pid>, value: i32) -> Result<i32, LimitError> {
    let path = pid.map_or_else(
        || "/proc/self/oom_score_adj".to_owned(),
        |pid| format!("/proc/{pid}/oom_score_adj"),
    );
    match fs::write(&path, value.to_string()) {
        Ok(()) => Ok(value),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => read_oom_score(path),
        Err(source) => Err(LimitError::WriteOomScore { path, value, source }),
    }
}

fn read_oom_score(path: String) -> Result<i32, LimitError> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(LimitError::ReadOomScore { path, source }),
    };
    match text.trim().parse() {
        Ok(value) => Ok(value),
        Err(source) => Err(LimitError::ParseOomScore { path, text, source }),
    }
}
