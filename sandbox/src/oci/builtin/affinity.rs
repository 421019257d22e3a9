//! On which processors an exec is made, and on which it runs (`execCPUAffinity`).
//!
//! A process begins on the processors of its parent, so the shim goes to the initial ones
//! while it clones: an exec into a container with processors of its own need not disturb
//! those before it is in the container's cgroup. The final ones are taken there; without any,
//! all that the cgroup allows. Kernels since 6.2 remember what was set before a process came
//! to a cgroup, so that the daemon's own affinity would hold in every container as well.
//!
//! # References
//! - [OCI runtime spec, process](https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-process)

use oci_spec::runtime::ExecCPUAffinity;
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A list of processors that cannot be meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no list of processors")]
pub struct AffinityError(String);

/// The processors of an exec; without any, those of its cgroup.
#[derive(Debug, Clone, Default)]
pub(super) struct Affinity {
    first: Option<CpuSet>,
    last: Option<CpuSet>,
}

impl Affinity {
    pub(super) fn from_oci(affinity: Option<&ExecCPUAffinity>) -> Result<Self, AffinityError> {
        let Some(affinity) = affinity else { return Ok(Self::default()) };
        let set = |list: &Option<String>| {
            let list = list.as_deref().filter(|list| !list.is_empty());
            list.map(|list| parse(list).ok_or_else(|| AffinityError(list.to_owned()))).transpose()
        };
        Ok(Self { first: set(affinity.initial())?, last: set(affinity.cpu_affinity_final())? })
    }

    /// Moves this process to the initial processors, until the answer is dropped.
    pub(super) fn begin(&self) -> Result<Option<Elsewhere>, Errno> {
        let Some(first) = &self.first else { return Ok(None) };
        let own = sched_getaffinity(None)?;
        sched_setaffinity(None, first)?;
        Ok(Some(Elsewhere(own)))
    }

    /// Moves this process to the final ones.
    pub(super) fn settle(&self) -> Result<(), Errno> {
        self.last.as_ref().map_or_else(settle_anywhere, |last| sched_setaffinity(None, last))
    }
}

/// Moves this process to all processors that its cgroup allows.
pub(super) fn settle_anywhere() -> Result<(), Errno> {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    sched_setaffinity(None, &all)
}

/// A process on other processors than its own.
#[derive(Debug)]
pub(super) struct Elsewhere(CpuSet);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It was there before; if those are gone, the kernel has found others.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// `0-3,7`.
fn parse(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        let set = parse("0-2,7").unwrap();
        let members: Vec<_> = (0..16).filter(|&cpu| set.is_set(cpu)).collect();
        assert_eq!(members, [0, 1, 2, 7]);
        for wrong in ["", "a", "3-1", "1,", "-1", "0-99999"] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn whoever_went_elsewhere_comes_back() {
        let own = sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| own.is_set(cpu)).unwrap();
        let affinity = Affinity { first: parse(&cpu.to_string()), last: None };
        let elsewhere = affinity.begin().unwrap();
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        drop(elsewhere);
        assert_eq!(sched_getaffinity(None).unwrap(), own);
        assert!(Affinity::default().begin().unwrap().is_none());
    }
}
