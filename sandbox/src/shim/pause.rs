//! Process 1 of a PID namespace that a pod's containers share.
//!
//! It reaps what is orphaned there and does nothing else. It has an empty, read-only
//! root, no capabilities and no descriptors, since the containers can see it. A container
//! that lives in its namespace dies with it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::UnshareFlags;

use crate::oci::builtin::capabilities::ProcessCapabilities;
use crate::sys::spawn::{self, Cloned};

/// Starts it. It ends with the shim's word, or with the PID namespace. `context` is the SELinux
/// context of its root, if that is to have one.
pub(super) fn start(context: &str) -> std::io::Result<(Pid, OwnedFd)> {
    let shim = this_process()?;
    match spawn::clone_child(UnshareFlags::NEWPID, None)? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => run(context, &shim),
    }
}

/// This process, for children of it in other PID namespaces, which see no parent.
pub(super) fn this_process() -> std::io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)
}

/// What process 1 does. On failure it ends at once, and so does the attempt to start a
/// container in its namespace: the error appears there. `shim` is its parent.
pub(super) fn run(context: &str, shim: &OwnedFd) -> ! {
    let is_confined = confine(context).is_some() && !has_ended(shim);
    if is_confined && spawn::close_from(0).is_ok() {
        reap_for_ever();
    }
    spawn::exit_now(1)
}

fn confine(label: &str) -> Option<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).ok()?;
    rustix::thread::set_name(c"orlop-pause").ok()?;
    rustix::process::setsid().ok()?;
    spawn::unshare(UnshareFlags::NEWNS).ok()?;
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    if !label.is_empty() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "context", label).ok()?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).ok()?;
    let root = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .ok()?;
    crate::oci::builtin::enter_root(&root).ok()?;
    let nothing = ProcessCapabilities::from_oci(None);
    nothing.drop_bounding().ok()?;
    nothing.apply_sets().ok()?;
    // No cgroup of a container holds it: it ends with the shim, however that ends.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).ok()
}

/// Whether a process has ended; what ends with it is told of no end before it asked for that.
fn has_ended(process: &OwnedFd) -> bool {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    !matches!(rustix::event::poll(&mut ended, Some(&Timespec::default())), Ok(0))
}

fn reap_for_ever() -> ! {
    loop {
        // With no child at all it sleeps until a signal; SIGCHLD is blocked and pending
        // when one appears, so a short sleep is the bound.
        while rustix::process::wait(WaitOptions::empty()).is_ok() {}
        spawn::wait_for_child_signal();
    }
}
