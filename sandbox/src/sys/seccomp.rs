//! `seccomp(2)`: installing a filter on the calling thread.

use rustix::io::Errno;

/// One instruction of classic BPF.
pub type Instruction = libc::sock_filter;

/// What the kernel does besides filtering.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterFlags {
    /// Log every action but allow (`SECCOMP_FILTER_FLAG_LOG`).
    pub log: bool,
    /// Leave the speculative store bypass mitigation off (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`).
    pub spec_allow: bool,
    /// Bind all threads of the process (`SECCOMP_FILTER_FLAG_TSYNC`).
    pub tsync: bool,
}

impl FilterFlags {
    fn bits(self) -> libc::c_ulong {
        let one = |on: bool, bit| if on { bit } else { 0 };
        one(self.log, libc::SECCOMP_FILTER_FLAG_LOG)
            | one(self.spec_allow, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW)
            | one(self.tsync, libc::SECCOMP_FILTER_FLAG_TSYNC)
    }
}

/// Installs a filter on the calling thread, for good.
///
/// # Errors
/// `INVAL` for a filter the kernel does not accept, `ACCES` when the thread has neither
/// `no_new_privs` nor `CAP_SYS_ADMIN`, `RANGE` for a filter too long to be described.
///
/// # References
/// - [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html), Linux 3.17
pub fn set_mode_filter(filter: &[Instruction], flags: FilterFlags) -> Result<(), Errno> {
    let Ok(len) = libc::c_ushort::try_from(filter.len()) else {
        return Err(Errno::RANGE);
    };
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: seccomp(SECCOMP_SET_MODE_FILTER) reads a `sock_fprog` and the `len` instructions it
    // points to. `program` lives over the call; its pointer and length are those of the borrowed
    // slice `filter`; the kernel only reads through it, so the cast to mutable is never used.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            flags.bits(),
            &raw const program,
        )
    };
    match answer {
        0 => Ok(()),
        -1 => Err(last_errno()),
        // With TSYNC the kernel answers the id of a thread that could not be bound.
        _ => Err(Errno::SRCH),
    }
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::INVAL, Errno::from_raw_os_error)
}
