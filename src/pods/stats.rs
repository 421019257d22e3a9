//! What running pods and containers use, read from the kernel when somebody asks.
//!
//! Nothing is collected while nobody asks. What needs an earlier reading (the processor
//! rate) keeps the last one of each group; what is expensive (the size of a writable layer)
//! comes from the snapshotter's measurements. Each pod and container is read by itself: one
//! that ends meanwhile, or cannot be read, is left out and drops no other.

mod network;
mod processes;
mod rates;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use sandbox::cgroup::{Cgroup, Detail, Stats};
pub use sandbox::cgroup::{Pressure, PressureLine};

pub use network::Interface;
pub(super) use rates::Rates;

use super::error::PodsError;
use super::node::{Node, now_ns};
use super::view::{ContainerView, PodView};
use crate::snapshots::{SnapshotKey, Usage};

/// What one container uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// What its cgroup says.
    pub group: GroupUsage,
    /// What it wrote over its image, if that could be measured.
    pub writable: Option<WritableLayer>,
}

/// What one pod uses.
#[derive(Debug, Clone)]
pub struct PodUsage {
    /// What the cgroup above its containers says.
    pub group: GroupUsage,
    /// How many processes its containers have.
    pub processes: u64,
    /// The interfaces of its network, without the loopback; none with the node's own.
    pub network: Option<Vec<Interface>>,
    /// Its running containers.
    pub containers: Vec<(Arc<ContainerView>, ContainerUsage)>,
}

/// A reading of one cgroup.
#[derive(Debug, Clone)]
pub struct GroupUsage {
    /// When it was read, nanoseconds since the epoch.
    pub read_at_ns: i64,
    /// Processor, memory and the rest.
    pub stats: Stats,
    /// Billionths of a core in use; none before the second reading.
    pub cpu_nano_cores: Option<u64>,
}

/// The size of a writable layer.
#[derive(Debug, Clone)]
pub struct WritableLayer {
    /// When it was measured, nanoseconds since the epoch.
    pub measured_at_ns: i64,
    /// What it takes.
    pub usage: Usage,
    /// Where it is.
    pub directory: PathBuf,
}

/// Reads what each of `containers` uses; those that are not running are left out.
pub(super) async fn of_containers(
    node: &Arc<Node>,
    containers: Vec<Arc<ContainerView>>,
) -> Result<Vec<(Arc<ContainerView>, ContainerUsage)>, PodsError> {
    node.blocking("reading statistics", "containers", move |node| {
        let read = containers.into_iter().filter_map(|one| read_container(node, one));
        Ok(read.collect())
    })
    .await
}

/// Reads what each of `pods` uses; those that are not ready are left out.
pub(super) async fn of_pods(
    node: &Arc<Node>,
    pods: Vec<Arc<PodView>>,
) -> Result<Vec<(Arc<PodView>, PodUsage)>, PodsError> {
    node.blocking("reading statistics", "pods", move |node| {
        let read =
            pods.into_iter().filter_map(|one| read_pod(node, &one).map(|usage| (one, usage)));
        Ok(read.collect())
    })
    .await
}

/// `None` if it is gone, or going.
fn read_container(
    node: &Node,
    container: Arc<ContainerView>,
) -> Option<(Arc<ContainerView>, ContainerUsage)> {
    if !container.is_running() {
        return None;
    }
    let group = read_group(node, &container.id, &container.record.cgroup_path)?;
    group.stats.cpu?;
    let writable = writable_layer(node, &container.id);
    Some((container, ContainerUsage { group, writable }))
}

/// `None` if it is not ready. A pod whose group is not there (it has had no container yet)
/// has no numbers.
fn read_pod(node: &Node, pod: &PodView) -> Option<PodUsage> {
    let shim = pod.shim()?;
    let group = read_group(node, &pod.id, &node.pod_cgroup(&pod.id, &pod.request))?;
    let listed = pod.listed_containers().cloned();
    let containers: Vec<_> = listed.filter_map(|one| read_container(node, one)).collect();
    let processes = containers.iter().map(|(one, _)| {
        let group = node.cgroup(&one.record.cgroup_path);
        group.map_or(0, |group| processes::count(&group))
    });
    Some(PodUsage {
        processes: processes.sum(),
        network: pod.request.has_own_network().then(|| network::read(shim)).flatten(),
        group,
        containers,
    })
}

/// A file that cannot be read is one of a group that just ended.
fn read_group(node: &Node, id: &str, path: &str) -> Option<GroupUsage> {
    let group: Cgroup = node.cgroup(path)?;
    let stats = group.stats(Detail::Usage).ok()?;
    let (read_at_ns, now) = (now_ns(), Instant::now());
    let rate = stats.cpu.and_then(|cpu| node.rates.take(id, now, cpu.usage_ns));
    Some(GroupUsage { read_at_ns, stats, cpu_nano_cores: rate })
}

fn writable_layer(node: &Node, container: &str) -> Option<WritableLayer> {
    let key = SnapshotKey::parse(container).ok()?;
    let usage = node.snapshots.usage(&key).ok().flatten()?;
    let directory = node.snapshots.directory().to_owned();
    Some(WritableLayer { measured_at_ns: now_ns(), usage, directory })
}
