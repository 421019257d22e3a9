//! Killing a program with what it started, of a container where others go on.
//!
//! Whatever is of its session or descends from it belongs to it. Each runtime gives an exec
//! a session of its own; jobs of an interactive shell stay in it, daemons do not.

use std::collections::{HashMap, HashSet};

use rustix::process::{Pid, Signal, getsid, kill_process};

use crate::cgroup::Cgroup;

/// How often those that were forked meanwhile are looked for.
const ROUNDS: usize = 20;

/// Kills `leader`, which is not reaped yet, and what belongs to it.
pub(super) fn kill(cgroup: &Cgroup, leader: Pid) {
    // Until it has one, it is in the shim's, as are other execs that just begin.
    let shims = getsid(None).ok();
    let session = getsid(Some(leader)).ok().filter(|session| Some(*session) != shims);
    let mut family = HashSet::from([leader]);
    let mut killed = HashSet::new();
    for _ in 0..ROUNDS {
        // Parents are known only until they die, so this comes before the first kill.
        gather(&mut family, cgroup, session);
        let news: Vec<Pid> = family.iter().copied().filter(|pid| killed.insert(*pid)).collect();
        if news.is_empty() {
            return;
        }
        for pid in news {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Adds those of the cgroup who belong to `family` or are of its session.
fn gather(family: &mut HashSet<Pid>, cgroup: &Cgroup, session: Option<Pid>) {
    let mut parents: HashMap<Pid, Pid> = HashMap::new();
    for pid in cgroup.processes().unwrap_or_default() {
        if session.is_some() && getsid(Some(pid)).ok() == session {
            family.insert(pid);
        } else if let Some(parent) = parent(pid) {
            parents.insert(pid, parent);
        }
    }
    loop {
        let known = family.len();
        for (child, parent) in &parents {
            if family.contains(parent) {
                family.insert(*child);
            }
        }
        if family.len() == known {
            return;
        }
    }
}

/// The fourth field of `stat`, counted after the command, which may hold anything.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Pid::from_raw(fields.split(' ').nth(1)?.parse().ok()?)
}
