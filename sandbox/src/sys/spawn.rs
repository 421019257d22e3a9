//! fork, clone3, exec: how the single-threaded shim makes processes.
//!
//! **Invariant.** A child made here may allocate and call any function before it execs,
//! because its parent had exactly one thread: no lock can have been held by another
//! thread at the moment of the clone. [`clone_child`] proves that with one system call
//! (`unshare(CLONE_THREAD)` succeeds only in a single-threaded process) and refuses
//! otherwise, so the daemon cannot call it by mistake.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::{io, ptr};

use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

/// The child starts with default dispositions for what its parent handled
/// (`linux/sched.h`; beyond the 32 bits that `libc` has room for).
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// The child starts in the cgroup of `clone_args.cgroup` (`linux/sched.h`).
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Which side of the clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The old process, with the new one's id in its own PID namespace and its pidfd.
    Parent {
        /// Process id of the child.
        pid: Pid,
        /// Descriptor that cannot be confused with a later process of the same id.
        pidfd: OwnedFd,
    },
}

/// Makes a child of this single-threaded process, as `fork` does, with a pidfd.
///
/// `namespaces` are made anew for the child (`NEWPID` and the like); `cgroup` is the
/// cgroup v2 directory in which it begins.
///
/// # Errors
/// `EINVAL` if this process has more than one thread; else what clone3 says.
///
/// # References
/// - [clone3(2)](https://man7.org/linux/man-pages/man2/clone3.2.html), Linux 5.7
///   (`CLONE_INTO_CGROUP`)
pub fn clone_child(namespaces: UnshareFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // SAFETY: unshare takes no pointers. CLONE_THREAD changes nothing: it succeeds when
    // the process has one thread and fails with EINVAL when it has more.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut pidfd: RawFd = -1;
    let mut flags = u64::from(namespaces.bits()) | libc::CLONE_PIDFD as u64;
    flags |= CLONE_CLEAR_SIGHAND;
    let mut into = 0;
    if let Some(cgroup) = cgroup {
        flags |= CLONE_INTO_CGROUP;
        into = cgroup.as_raw_fd() as u64;
    }
    let args = libc::clone_args {
        flags,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: into,
    };
    // SAFETY: `args` is a valid clone_args of the size that is passed, its only pointer,
    // `pidfd`, is valid for a write and outlives the call. Without CLONE_VM and with a
    // null stack the child gets a copy of this address space and of this stack, exactly
    // like fork; this process has one thread (checked above), so that copy is consistent.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, ptr::from_ref(&args), size_of::<libc::clone_args>())
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            let pid = Pid::from_raw(pid as i32).ok_or_else(|| io::Error::other("clone3: pid 0"))?;
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a new
            // descriptor, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Replaces this process; returns only if that fails.
///
/// # References
/// - [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html)
pub fn execve(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let terminated = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, env) = (terminated(argv), terminated(env));
    // SAFETY: `program` is NUL-terminated; both arrays end with a null pointer and hold
    // pointers into CStrings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Has a program end when the thread that starts it does, however that ends (what the program
/// starts in turn does not), and begin with the signal state that programs expect, but for
/// SIGXFSZ: to write more than its limit of a file's size allows is an error, no death.
///
/// # References
/// - [PR_SET_PDEATHSIG(2const)](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html)
/// - [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html), `RLIMIT_FSIZE`
pub fn end_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        reset_signals()?;
        // SAFETY: SIG_IGN is a valid disposition; no handler code is installed.
        if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before that.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    };
    // SAFETY: between fork and exec `prepare` makes system calls only: it allocates nothing,
    // takes no lock, and touches no memory but its own stack.
    unsafe { command.pre_exec(prepare) };
}

/// Ends this process at once, without running destructors or exit functions.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Gives this single-threaded process new namespaces.
///
/// # Errors
/// What unshare says.
///
/// # References
/// - [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html)
pub fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    let only_namespaces = namespaces - UnshareFlags::FILES;
    // SAFETY: the one hazard of unshare_unsafe is CLONE_FILES, which makes descriptors of
    // other threads mean something else; it is removed above.
    Ok(unsafe { rustix::thread::unshare_unsafe(only_namespaces) }?)
}

/// Marks every descriptor from `first` up close-on-exec.
///
/// # Errors
/// What `close_range` says.
///
/// # References
/// - [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html), Linux 5.11
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let first = first as libc::c_uint;
    // SAFETY: takes no pointers; with CLOSE_RANGE_CLOEXEC no descriptor is closed now, so
    // every owner in this process keeps what it owns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from `first` up.
///
/// For a process that owns nothing it would still use: what it holds in an `OwnedFd`
/// must never be touched or dropped again, so it must end by [`exit_now`].
///
/// # Errors
/// What `close_range` says.
pub fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first as libc::c_uint, libc::c_uint::MAX)
}

/// Closes every descriptor from 3 up but `kept`, under the same conditions; it may also end
/// by becoming another program.
///
/// # Errors
/// What `close_range` says.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<_> = kept.iter().map(|fd| fd.as_raw_fd() as libc::c_uint).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes no pointers. Descriptors that are owned elsewhere in this process
    // become invalid; the callers' callers use none again, as documented.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits for a SIGCHLD, which must be blocked.
pub fn wait_for_child_signal() {
    let mut set = empty_signal_set();
    // SAFETY: `set` was initialised by sigemptyset; SIGCHLD is a valid number.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    // SAFETY: `set` is initialised; details of the signal are not asked for.
    unsafe { libc::sigwaitinfo(&raw const set, ptr::null_mut()) };
}

/// Makes `number` (0, 1 or 2) a copy of `from` that survives exec.
///
/// # Errors
/// What dup2 says.
pub fn set_stdio(from: BorrowedFd<'_>, number: StdioNumber) -> io::Result<()> {
    // SAFETY: takes no pointers; 0 to 2 are not owned by any OwnedFd of this process.
    if unsafe { libc::dup2(from.as_raw_fd(), number as RawFd) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The three descriptors that a program begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum StdioNumber {
    /// 0
    Stdin = 0,
    /// 1
    Stdout = 1,
    /// 2
    Stderr = 2,
}

/// Blocks SIGCHLD and SIGTERM, ignores SIGPIPE and SIGHUP and no other signal, and returns a
/// descriptor that is readable when one of the blocked two is pending.
///
/// # Errors
/// What sigprocmask, sigaction and signalfd say.
///
/// # References
/// - [signalfd(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html)
pub fn signals_as_descriptor() -> io::Result<OwnedFd> {
    // What somebody ignored who started the daemon, as shells do with SIGINT and SIGQUIT of what
    // runs in the background: containers would begin with it.
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition for any signal; no handler code is installed. A
        // signal that cannot be ignored is refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut set = empty_signal_set();
    for signal in [libc::SIGCHLD, libc::SIGTERM] {
        // SAFETY: `set` was initialised by sigemptyset; the signal numbers are valid.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    for signal in [libc::SIGPIPE, libc::SIGHUP] {
        // SAFETY: SIG_IGN is a valid disposition for both; no handler code is installed.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: `set` is initialised; the old set is not asked for.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: -1 asks for a new descriptor; `set` is initialised.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a new process the signal state that programs expect: nothing blocked, nothing
/// ignored, provided that [`signals_as_descriptor`] was called before. (`CLONE_CLEAR_SIGHAND` resets
/// what was handled, not what was ignored.)
///
/// # Errors
/// What sigprocmask says.
pub fn reset_signals() -> io::Result<()> {
    for signal in [libc::SIGPIPE, libc::SIGHUP] {
        // SAFETY: SIG_DFL is a valid disposition for both; no handler code is installed.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    let set = empty_signal_set();
    // SAFETY: `set` is initialised; the old set is not asked for.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn empty_signal_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set behind a valid pointer.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by sigemptyset just above, which cannot fail on a valid pointer.
    unsafe { set.assume_init() }
}
