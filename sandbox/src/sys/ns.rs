//! Network namespaces: creating one that lives without a process, pinned by a bind mount,
//! and running code inside it.
//!
//! `unshare` and `setns` change the calling thread for good, so each function here works on
//! a thread of its own that ends with the call; the caller's thread never moves.
//!
//! Specification: network_namespaces(7), namespaces(7).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A pinned mount may lie over another one when a creator was killed and its name used
/// again; more layers than this are not ours.
const STACKED_PINS_MAX: usize = 16;

/// Why a network namespace was not created and pinned; nothing is left at the path.
#[derive(Debug, thiserror::Error)]
pub enum CreateNetnsError {
    /// The file that carries the pin was not made.
    #[error("making the file that pins the network namespace")]
    MakeFile(#[source] io::Error),
    /// The thread that enters the namespace was not started.
    #[error("starting a thread for the network namespace")]
    StartThread(#[source] io::Error),
    /// The thread ended without an answer.
    #[error("the thread of the network namespace died")]
    ThreadDied,
    /// `unshare(CLONE_NEWNET)`.
    #[error("creating a network namespace")]
    Unshare(#[source] Errno),
    /// `lo` stayed down.
    #[error("bringing up the loopback interface")]
    LoopbackUp(#[source] Errno),
    /// The bind mount of `/proc/thread-self/ns/net`.
    #[error("pinning the network namespace")]
    Pin(#[source] Errno),
}

/// Why a pin was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveNetnsError {
    /// `umount2`.
    #[error("unmounting the pinned network namespace")]
    Unmount(#[source] Errno),
    /// `unlink`.
    #[error("removing the file that pinned the network namespace")]
    Unlink(#[source] io::Error),
}

/// Why a closure did not run in a namespace.
#[derive(Debug, thiserror::Error)]
pub enum EnterNetnsError {
    /// The thread was not started.
    #[error("starting a thread for the network namespace")]
    StartThread(#[source] io::Error),
    /// `setns`.
    #[error("entering the network namespace")]
    SetNs(#[source] Errno),
    /// The closure did not return.
    #[error("the thread of the network namespace died")]
    ThreadDied,
}

/// Creates a network namespace with `lo` up and pins it on the file `path`, mode 0600, whose
/// directory exists. It lives until [`remove_pinned_netns`], whatever happens to processes.
///
/// Blocks for about a millisecond.
///
/// # Errors
/// - [`CreateNetnsError::MakeFile`] if `path` exists or cannot be made.
/// - The other variants name the step; the file is removed again.
///
/// # Crash safety
/// A crash leaves at most an empty or mounted file at `path`, which [`remove_pinned_netns`]
/// removes.
pub fn create_pinned_netns(path: &Path) -> Result<(), CreateNetnsError> {
    make_pin(path)?;
    let created = thread::scope(|scope| {
        thread::Builder::new()
            .name("netns-create".to_owned())
            .spawn_scoped(scope, || unshare_and_pin(path))
            .map_err(CreateNetnsError::StartThread)?
            .join()
            .unwrap_or(Err(CreateNetnsError::ThreadDied))
    });
    if created.is_err() {
        // The reason of the failure is worth more than that of a failing clean-up, and the
        // caller removes the path anyway.
        let _ = remove_pinned_netns(path);
    }
    created
}

/// Pins the network namespace of the process `pid` on the new file `path`, as
/// [`create_pinned_netns`] does with a new one. `lo` stays as it is.
///
/// # Errors
/// [`CreateNetnsError::MakeFile`] and [`CreateNetnsError::Pin`]; the file is removed again.
pub fn pin_netns_of(pid: Pid, path: &Path) -> Result<(), CreateNetnsError> {
    make_pin(path)?;
    let namespace = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    mount_bind(namespace, path).map_err(|errno| {
        let _ = remove_pinned_netns(path);
        CreateNetnsError::Pin(errno)
    })
}

fn make_pin(path: &Path) -> Result<(), CreateNetnsError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map(drop).map_err(CreateNetnsError::MakeFile)
}

fn unshare_and_pin(path: &Path) -> Result<(), CreateNetnsError> {
    // SAFETY: `unshare_unsafe` asks that no thread observes descriptors of an unshared
    // descriptor table; only NEWNET is given, the table stays shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(CreateNetnsError::Unshare)?;
    loopback_up().map_err(CreateNetnsError::LoopbackUp)?;
    mount_bind("/proc/thread-self/ns/net", path).map_err(CreateNetnsError::Pin)
}

/// Undoes [`create_pinned_netns`]. A path that was never created, is not mounted, or was
/// removed before is fine. Processes in the namespace keep it alive, unpinned.
///
/// # Errors
/// The step that failed; calling again goes on with what is left.
pub fn remove_pinned_netns(path: &Path) -> Result<(), RemoveNetnsError> {
    for _ in 0..STACKED_PINS_MAX {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: not a mount point.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => return Err(RemoveNetnsError::Unmount(errno)),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RemoveNetnsError::Unlink(error))
        }
        _ => Ok(()),
    }
}

/// Runs `work` on a fresh thread inside the network namespace `netns` and returns what it
/// returns. A socket made there belongs to that namespace for good, wherever it is used.
///
/// Blocks until `work` is done.
///
/// # Errors
/// See [`EnterNetnsError`]; unless it is [`EnterNetnsError::ThreadDied`], `work` did not run.
pub fn in_netns<T, F>(netns: BorrowedFd<'_>, work: F) -> Result<T, EnterNetnsError>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                    .map_err(EnterNetnsError::SetNs)?;
                Ok(work())
            })
            .map_err(EnterNetnsError::StartThread)?
            .join()
            .unwrap_or(Err(EnterNetnsError::ThreadDied))
    })
}

/// Moves the calling thread, for good, into a new network namespace with `lo` up.
///
/// For threads that end soon after; threads started later by this one inherit the namespace.
///
/// # Errors
/// The errno of `unshare`, or of bringing `lo` up.
pub fn unshare_net() -> Result<(), Errno> {
    // SAFETY: `unshare_unsafe` asks that no thread observes descriptors of an unshared
    // descriptor table; only NEWNET is given, the table stays shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    loopback_up()
}

/// Sets IFF_UP on interface 1, which is `lo` in every network namespace, of this thread's.
///
/// # Errors
/// What the kernel answers.
pub fn loopback_up() -> Result<(), Errno> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    const NLMSG_ERROR: u16 = 2;
    const LO_INDEX: i32 = 1;
    const IFF_UP: u32 = 1;

    // No protocol is 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;

    // struct nlmsghdr (16 bytes), struct ifinfomsg (16 bytes).
    let mut request = Vec::with_capacity(32);
    request.extend_from_slice(&32u32.to_ne_bytes());
    request.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    request.extend_from_slice(&[0; 8]); // sequence, port
    request.extend_from_slice(&[0; 4]); // family, padding, type
    request.extend_from_slice(&LO_INDEX.to_ne_bytes());
    request.extend_from_slice(&IFF_UP.to_ne_bytes()); // flags
    request.extend_from_slice(&IFF_UP.to_ne_bytes()); // which of them change
    send(socket.as_fd(), &request, SendFlags::empty())?;

    let mut answer = [0u8; 256];
    let (length, _) = recv(socket.as_fd(), &mut answer, RecvFlags::empty())?;
    // struct nlmsgerr follows the header; its first field is the negated errno.
    let (Some(kind), Some(code)) = (answer.get(4..6), answer.get(16..20)) else {
        return Err(Errno::PROTO);
    };
    if length < 20 || kind != NLMSG_ERROR.to_ne_bytes() {
        return Err(Errno::PROTO);
    }
    match code.try_into().map(i32::from_ne_bytes) {
        Ok(0) => Ok(()),
        Ok(negated) => Err(Errno::from_raw_os_error(-negated)),
        Err(_) => Err(Errno::PROTO),
    }
}

#[cfg(test)]
mod tests;
