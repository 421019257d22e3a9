//! Processes of a container and what they have open, from `/proc`.
//!
//! # References
//! - [proc_pid_fd(5)](https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html)
//! - [proc_pid_limits(5)](https://man7.org/linux/man-pages/man5/proc_pid_limits.5.html)

use std::fs;

use rustix::process::Pid;
use sandbox::cgroup::Cgroup;

/// The processes of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processes {
    /// How many there are.
    pub count: u64,
    /// Open file descriptors of all of them.
    pub descriptors: u64,
    /// How many of the descriptors are sockets.
    pub sockets: u64,
}

/// How many processes are in a group and below it; none if it is gone.
pub(super) fn count(group: &Cgroup) -> u64 {
    group.processes().map_or(0, |all| u64::try_from(all.len()).unwrap_or(u64::MAX))
}

/// The processes of a group and below it; those that end meanwhile count as having nothing
/// open.
pub(super) fn read(group: &Cgroup) -> Processes {
    let all = group.processes().unwrap_or_default();
    all.into_iter().fold(Processes::default(), |mut sum, process| {
        sum.count += 1;
        for target in descriptors(process) {
            sum.descriptors += 1;
            sum.sockets += u64::from(target.is_some_and(|target| target.starts_with("socket:")));
        }
        sum
    })
}

/// Where each descriptor of a process leads, as far as it can be told.
fn descriptors(process: Pid) -> impl Iterator<Item = Option<String>> {
    let directory = format!("/proc/{}/fd", process.as_raw_nonzero());
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| {
        fs::read_link(entry.path()).ok().map(|target| target.to_string_lossy().into_owned())
    })
}

/// The soft limit on open files of a process; `None` if it is gone.
pub(super) fn open_files_soft(process: u32) -> Option<u64> {
    parse_open_files(&fs::read_to_string(format!("/proc/{process}/limits")).ok()?)
}

/// No limit is the largest number.
fn parse_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_on_open_files() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             7                    8                    processes\n\
                      Max open files            1024                 1048576              files\n";
        assert_eq!(parse_open_files(limits), Some(1024));
        assert_eq!(parse_open_files(&limits.replace("1024 ", "unlimited ")), Some(u64::MAX));
        assert_eq!(parse_open_files(""), None);
    }

    #[test]
    fn sockets_are_told_from_other_descriptors() {
        let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let targets: Vec<String> = descriptors(own).flatten().collect();
        assert!(targets.iter().any(|target| target.starts_with("socket:")), "{targets:?}");
        assert!(targets.iter().any(|target| target.starts_with('/')), "{targets:?}");
        drop(socket);
    }
}
