//! What running containers use, read from their cgroups when somebody asks.
//!
//! The processor rate needs two readings. The last one of each container is kept, and a
//! rate is taken over at least [`RATE_INTERVAL`], so that two clients who ask at once do
//! not make each other's rates meaningless.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::PodsError;
use super::node::{Node, now_ns};
use super::view::ContainerView;
use crate::snapshots::{SnapshotKey, Usage};

/// The shortest time over which a rate is taken, in nanoseconds.
const RATE_INTERVAL: i64 = 500_000_000;

/// What one container uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// When it was read, nanoseconds since the epoch.
    pub read_at_ns: i64,
    /// Processor, memory and the rest.
    pub cgroup: sandbox::cgroup::Stats,
    /// Billionths of a core in use; none before the second reading.
    pub cpu_nano_cores: Option<u64>,
    /// What it wrote over its image.
    pub writable: Usage,
    /// Where that is.
    pub writable_directory: PathBuf,
}

/// Earlier readings, by container.
#[derive(Debug, Default)]
pub(super) struct Readings(Mutex<BTreeMap<String, Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    read_at_ns: i64,
    cpu_ns: u64,
    nano_cores: Option<u64>,
}

impl Readings {
    /// Takes a reading; returns the rate since an earlier one.
    fn rate(&self, id: &str, read_at_ns: i64, cpu_ns: u64) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = Reading { read_at_ns, cpu_ns, nano_cores: None };
        let kept = all.entry(id.to_owned()).or_insert(first);
        let elapsed = read_at_ns - kept.read_at_ns;
        if elapsed >= RATE_INTERVAL {
            let used = u128::from(cpu_ns.saturating_sub(kept.cpu_ns));
            let rate = used * 1_000_000_000 / u128::from(elapsed.unsigned_abs());
            let nano_cores = u64::try_from(rate).ok();
            *kept = Reading { read_at_ns, cpu_ns, nano_cores };
        }
        kept.nano_cores
    }

    /// Forgets a container.
    pub(super) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// Reads what `container` uses; `None` if it is gone, or going.
pub(super) fn read(node: &Node, container: &ContainerView) -> Option<ContainerUsage> {
    let group = node.cgroup(&container.record.cgroup_path)?;
    // A file that cannot be read is one of a container that just ended.
    let cgroup = group.stats().ok()?;
    let read_at_ns = now_ns();
    let cpu_ns = cgroup.cpu.as_ref()?.usage_ns;
    let key = SnapshotKey::parse(&container.id).ok()?;
    let writable = node.snapshots.usage(&key).ok().flatten()?;
    Some(ContainerUsage {
        read_at_ns,
        cpu_nano_cores: node.readings.rate(&container.id, read_at_ns, cpu_ns),
        cgroup,
        writable,
        writable_directory: node.snapshots.directory().to_owned(),
    })
}

/// Reads what each of `containers` uses; those that are not running are left out.
pub(super) async fn read_all(
    node: &Arc<Node>,
    containers: Vec<Arc<ContainerView>>,
) -> Result<Vec<(Arc<ContainerView>, ContainerUsage)>, PodsError> {
    node.blocking("reading statistics", "containers", move |node| {
        let running = containers.into_iter().filter(|container| container.is_running());
        let read = running.filter_map(|one| read(node, &one).map(|usage| (one, usage)));
        Ok(read.collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_some_time_apart() {
        let readings = Readings::default();
        assert_eq!(readings.rate("a", 1_000_000_000, 5_000), None);
        assert_eq!(readings.rate("a", 1_000_000_001, 5_001), None);
        // Half a second of one core in one second.
        assert_eq!(readings.rate("a", 2_000_000_000, 500_005_000), Some(500_000_000));
        assert_eq!(readings.rate("a", 2_000_000_007, 900_000_000), Some(500_000_000));
        readings.forget("a");
        assert_eq!(readings.rate("a", 9_000_000_000, 900_000_000), None);
    }
}
