//! What running pods and containers use, read from the kernel when somebody asks.
//!
//! Nothing is collected while nobody asks. What needs an earlier reading (the processor
//! rate) keeps the last one of each group. What is expensive (the size of a writable layer)
//! is the snapshotter's last measurement, kept fresh while somebody asks.
//! Each pod and container is read by itself: one that ends meanwhile, or cannot be read, is
//! left out and drops no other.

mod metrics;
mod network;
mod processes;
mod rates;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use sandbox::cgroup::{
    BlockIo, CpuDetail, MemoryDetail, MemoryStats, PidsStats, Pressure, PressureLine,
};
use sandbox::cgroup::{Cgroup, Detail, Stats};

pub use metrics::Metrics;
pub use network::Interface;
pub use processes::Processes;
pub(super) use rates::Rates;

use super::error::PodsError;
use super::node::{Node, now_ns};
use super::view::{ContainerView, PodView};
use crate::snapshots::{SnapshotKey, Usage};

/// How old the size of a writable layer should not be, and how long a list may take for
/// that: new layers are small, and old ones are measured in the background. Only who asks
/// for the first time in a while may see an older size, and can ask again.
const MEASUREMENT_AGE: Duration = Duration::from_secs(10);
const MEASUREMENT_PATIENCE: Duration = Duration::from_millis(200);

/// How many groups are worth a thread of their own.
const LEAST_SHARE: usize = 16;

/// What one container uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// What its cgroup says.
    pub group: GroupUsage,
    /// What it wrote over its image, if that could be measured.
    pub writable: Option<WritableLayer>,
    /// More, for metrics.
    pub detail: Option<ContainerDetail>,
}

/// What only metrics tell of a container.
#[derive(Debug, Clone, Copy)]
pub struct ContainerDetail {
    /// Its processes.
    pub processes: Processes,
    /// How many of them the kernel has killed for want of memory.
    pub oom_kills: u64,
    /// How many files its first process may open before it raises the limit itself.
    pub open_files_soft: Option<u64>,
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
    /// Its path in every hierarchy.
    pub path: String,
    /// When it was read, nanoseconds since the epoch.
    pub read_at_ns: i64,
    /// Processor, memory and the rest; empty if there is no such group.
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
    node.snapshots.freshen_usage(MEASUREMENT_AGE, MEASUREMENT_PATIENCE).await;
    let read = |node: &Node, one| read_container(node, one, Detail::Usage);
    read_all(node, "containers", containers, read).await
}

/// Reads what each of `pods` uses; those that are not ready are left out.
pub(super) async fn of_pods(
    node: &Arc<Node>,
    pods: Vec<Arc<PodView>>,
) -> Result<Vec<(Arc<PodView>, PodUsage)>, PodsError> {
    node.snapshots.freshen_usage(MEASUREMENT_AGE, MEASUREMENT_PATIENCE).await;
    read_all(node, "pods", pods, |node, one| read_pod(node, one, Detail::Usage)).await
}

/// Reads everything about `pods`; those that are not ready are left out.
pub(super) async fn metrics(
    node: &Arc<Node>,
    pods: Vec<Arc<PodView>>,
) -> Result<Metrics, PodsError> {
    node.snapshots.freshen_usage(MEASUREMENT_AGE, MEASUREMENT_PATIENCE).await;
    let read = read_all(node, "pods", pods, |node, one| read_pod(node, one, Detail::All)).await?;
    node.blocking("reading metrics", "pods", move |node| {
        Ok(Metrics::new(read, node.snapshots.filesystem().ok()))
    })
    .await
}

/// What `read` makes of each, in their order. The kernel takes a tenth of a millisecond for a
/// group, and a node has hundreds, so the cores share them.
async fn read_all<T: Send + 'static, R: Send + 'static>(
    node: &Arc<Node>,
    what: &'static str,
    all: Vec<T>,
    read: impl Fn(&Node, T) -> Option<R> + Copy + Send + 'static,
) -> Result<Vec<R>, PodsError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = all.len().div_ceil(cores).max(LEAST_SHARE);
    let mut all = all.into_iter();
    let mut shares = Vec::new();
    while all.len() > 0 {
        let share: Vec<T> = all.by_ref().take(share).collect();
        shares.push(node.blocking("reading statistics", what, move |node| {
            Ok(share.into_iter().filter_map(|one| read(node, one)).collect::<Vec<R>>())
        }));
    }
    let read = futures_util::future::try_join_all(shares).await?;
    Ok(read.into_iter().flatten().collect())
}

/// `None` if it is not running, or just ended.
fn read_container(
    node: &Node,
    view: Arc<ContainerView>,
    detail: Detail,
) -> Option<(Arc<ContainerView>, ContainerUsage)> {
    if !view.is_running() {
        return None;
    }
    let cgroup = node.cgroup(&view.record.cgroup_path)?;
    let group = read_group(node, &view.id, &cgroup, detail);
    if group.stats == Stats::default() {
        return None;
    }
    let detail = (detail == Detail::All).then(|| ContainerDetail {
        processes: processes::read(&cgroup),
        oom_kills: cgroup.oom_kills().unwrap_or(0),
        open_files_soft: view.pid.and_then(processes::open_files_soft),
    });
    let writable = writable_layer(node, &view.id);
    Some((view, ContainerUsage { group, writable, detail }))
}

/// `None` if it is not ready. The group above the containers may not be there yet.
fn read_pod(node: &Node, pod: Arc<PodView>, detail: Detail) -> Option<(Arc<PodView>, PodUsage)> {
    let shim = pod.shim()?;
    let path = node.pod_cgroup(&pod.id, &pod.request);
    let group = match node.cgroup(&path) {
        // What metrics tell of a pod is in the short form.
        Some(group) => read_group(node, &pod.id, &group, Detail::Usage),
        None => {
            GroupUsage { path, read_at_ns: now_ns(), stats: Stats::default(), cpu_nano_cores: None }
        }
    };
    let listed = pod.listed_containers().cloned();
    let containers: Vec<_> = listed.filter_map(|one| read_container(node, one, detail)).collect();
    let processes = containers.iter().map(|(view, usage)| match usage.detail {
        Some(detail) => detail.processes.count,
        None => node.cgroup(&view.record.cgroup_path).map_or(0, |group| processes::count(&group)),
    });
    let usage = PodUsage {
        processes: processes.sum(),
        network: pod.request.has_own_network().then(|| network::read(shim)).flatten(),
        group,
        containers,
    };
    Some((pod, usage))
}

fn read_group(node: &Node, id: &str, group: &Cgroup, detail: Detail) -> GroupUsage {
    // A file that cannot be read is one of a group that just ended.
    let stats = group.stats(detail).unwrap_or_default();
    let (read_at_ns, now) = (now_ns(), Instant::now());
    let cpu_nano_cores = stats.cpu.and_then(|cpu| node.rates.take(id, now, cpu.usage_ns));
    GroupUsage { path: group.path().to_string(), read_at_ns, stats, cpu_nano_cores }
}

fn writable_layer(node: &Node, container: &str) -> Option<WritableLayer> {
    let key = SnapshotKey::parse(container).ok()?;
    let measured = node.snapshots.measured(&key)?;
    let age_ns = i64::try_from(measured.at.elapsed().as_nanos()).unwrap_or(0);
    Some(WritableLayer {
        measured_at_ns: now_ns() - age_ns,
        usage: measured.usage,
        directory: node.snapshots.directory().to_owned(),
    })
}
