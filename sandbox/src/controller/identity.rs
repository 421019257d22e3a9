//! Finding a process again, and never another one in its place.

use std::io;

use rustix::process::{Pid, PidfdFlags, Signal};

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

/// Kills the process if it is still that one. Its id cannot pass to another while the
/// pidfd is open, so checking after opening is enough.
pub fn kill(identity: ProcessIdentity) {
    let Some(pidfd) = open(identity.pid) else { return };
    if of(identity.pid).ok() == Some(identity) {
        // It may end by itself in this moment.
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
}

/// Kills whichever process has the id now.
pub fn kill_pid(pid: u32) {
    if let Some(pidfd) = open(pid) {
        // It may end by itself in this moment.
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
}

fn open(pid: u32) -> Option<std::os::fd::OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
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
        kill(ProcessIdentity { start_ticks: own.start_ticks + 1, ..own });
    }
}
