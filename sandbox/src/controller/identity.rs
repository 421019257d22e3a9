//! Finding a process again, and never another one in its place.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::lifecycle::ProcessIdentity;

/// The identity of a living process.
///
/// # Errors
/// It is gone, or `/proc` is not there.
///
/// # References
/// - [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)
pub fn of(pid: u32) -> io::Result<ProcessIdentity> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let start_ticks =
        start_ticks(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is odd")))?;
    Ok(ProcessIdentity { pid, start_ticks })
}

/// Field 22, counted after the command, which may itself hold spaces and parentheses. A
/// zombie is not a living process.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// How long a killed process may take to be gone. One that waits in the kernel may take
/// for ever; whoever wants it gone goes on without.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process, and never another one of its id. If it is a child of this process, it is
/// buried when it is let go of, so that no zombie stays.
#[derive(Debug)]
pub struct Held(OwnedFd);

impl Held {
    /// Whichever process has the id now; `None` if none has.
    #[must_use]
    pub fn any(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok().map(Self)
    }

    /// The process if it is still that one. Its id cannot pass to another while it is
    /// held, so checking after that is enough.
    #[must_use]
    pub fn exactly(identity: ProcessIdentity) -> Option<Self> {
        Self::any(identity.pid).filter(|_| of(identity.pid).ok() == Some(identity))
    }

    /// Kills it and waits until it is gone.
    pub fn end(self) {
        // It may end by itself in this moment.
        let _ = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
        let timeout = Timespec::try_from(PATIENCE).ok();
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        // Interrupted, or out of time: it is buried later, by whoever is its parent.
        let _ = rustix::event::poll(&mut ended, timeout.as_ref());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // Not a child of this process, or buried already: nothing to do.
        let _ = rustix::process::waitid(WaitId::PidFd(self.0.as_fd()), options);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(start_ticks(stat), Some(4711));
    }

    #[test]
    fn a_zombie_does_not_live() {
        let stat = "12 (a) Z 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(start_ticks(stat), None);
    }

    #[test]
    fn this_process_is_itself_and_not_another_of_its_id() {
        let own = of(std::process::id()).unwrap();
        assert_eq!(of(own.pid).unwrap(), own);
        let other = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own };
        assert!(Held::exactly(other).is_none());
    }

    #[test]
    fn an_ended_child_is_buried() {
        #[expect(clippy::zombie_processes, reason = "who buries it is what is tested")]
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = of(child.id()).unwrap();
        Held::exactly(identity).unwrap().end();
        assert!(!std::path::Path::new(&format!("/proc/{}", child.id())).exists());
    }
}
