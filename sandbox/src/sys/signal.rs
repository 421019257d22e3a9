//! Signals by number: the real-time ones, which `rustix` does not name, included.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

/// Sends signal `number` to the process of a pidfd.
///
/// # Errors
/// `ESRCH` when it has ended, `EINVAL` when there is no such signal.
///
/// # References
/// - [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html)
pub fn send(process: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    const NO_FLAGS: libc::c_uint = 0;
    let pidfd = process.as_raw_fd();
    let no_details = ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed and so stays open; the kernel checks that it is
    // one of a process, and the number; a null siginfo is allowed and nothing is written.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, number, no_details, NO_FLAGS) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
