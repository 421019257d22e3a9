//! Statistics of pods and containers under real loads.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::{
    ContainerConfig, ContainerStats, ContainerStatsRequest, LinuxContainerResources,
    ListContainerStatsRequest, ListPodSandboxStatsRequest, NamespaceMode, NamespaceOption,
    PodSandboxStats, PodSandboxStatsRequest, PodSandboxStatusRequest, UInt64Value,
};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use tokio::time::sleep;
use tonic::Code;

/// How long a load may take to show. Writable layers are measured every few seconds, and
/// the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

const MIB: u64 = 1 << 20;

fn sh(name: &str, script: &str) -> ContainerConfig {
    container(name, DEMO, &["sh", "-c", script])
}

fn number(value: Option<UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

async fn container_stats(cri: &mut Cri, id: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    let answer = cri.runtime.container_stats(request).await?.into_inner();
    answer.stats.context("ContainerStats without statistics")
}

async fn pod_stats(cri: &mut Cri, pod: &Pod) -> Result<PodSandboxStats> {
    let request = PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let answer = cri.runtime.pod_sandbox_stats(request).await?.into_inner();
    answer.stats.context("PodSandboxStats without statistics")
}

/// Asks for a container's statistics until they are as wanted.
async fn until(
    cri: &mut Cri,
    id: &str,
    what: &str,
    wanted: impl Fn(&ContainerStats) -> bool,
) -> Result<ContainerStats> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = container_stats(cri, id).await?;
        if wanted(&stats) {
            return Ok(stats);
        }
        if Instant::now() > deadline {
            bail!("{what}: still {stats:?}");
        }
        sleep(Duration::from_millis(600)).await;
    }
}

async fn node() -> Result<(Node, Cri)> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    node.import_demo()?;
    let cri = node.connect().await?;
    Ok((node, cri))
}

/// A pod with a cgroup of its own, as the kubelet makes one for each.
async fn run_pod(node: &Node, cri: &mut Cri, name: &str) -> Result<Pod> {
    let mut config = node.pod(name);
    config.linux.get_or_insert_default().cgroup_parent =
        format!("/{}/{name}", node.cgroup_parent());
    Ok(cri.run_pod(config, "").await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn root_processor_time_and_its_rate() -> Result<()> {
    let (node, mut cri) = node().await?;
    let pod = run_pod(&node, &mut cri, "busy").await?;
    let busy = cri.launch(&pod, &sh("busy", "while :; do :; done")).await?;
    let idle = cri.launch(&pod, &sh("idle", "exec sleep 1000")).await?;

    let rate = |stats: &ContainerStats| stats.cpu.and_then(|cpu| number(cpu.usage_nano_cores));
    let first = container_stats(&mut cri, &busy).await?;
    assert_eq!(rate(&first), None, "one reading is no rate");
    // Others want the processors too; a loop that shows as half a core is busy.
    until(&mut cri, &busy, "a busy loop", |stats| {
        rate(stats).is_some_and(|rate| (500_000_000..1_200_000_000).contains(&rate))
    })
    .await?;
    let idle = until(&mut cri, &idle, "an idle container", |stats| rate(stats).is_some()).await?;
    assert!(rate(&idle).is_some_and(|rate| rate < 100_000_000), "{idle:?}");

    let container = container_stats(&mut cri, &busy).await?;
    let pod = pod_stats(&mut cri, &pod).await?.linux.context("no numbers")?;
    let used = |cpu: Option<cri_api::v1::CpuUsage>| {
        cpu.and_then(|cpu| number(cpu.usage_core_nano_seconds)).unwrap_or_default()
    };
    assert!(used(pod.cpu) >= used(container.cpu), "a pod uses what its containers use");
    assert_eq!(pod.containers.len(), 2);
    let processes = pod.process.and_then(|process| number(process.process_count));
    assert_eq!(processes, Some(2), "each container has one process");
    if std::path::Path::new("/proc/pressure/cpu").exists() {
        assert!(pod.cpu.is_some_and(|cpu| cpu.psi.is_some()), "{:?}", pod.cpu);
        assert!(pod.io.is_some_and(|io| io.psi.is_some()), "{:?}", pod.io);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_memory_and_what_is_left_of_a_limit() -> Result<()> {
    let (node, mut cri) = node().await?;
    let pod = run_pod(&node, &mut cri, "eager").await?;
    let script = "x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 1000; echo $x";
    let mut config = sh("limited", script);
    let limit = 128 * MIB;
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: i64::try_from(limit)?,
        memory_swap_limit_in_bytes: i64::try_from(limit)?,
        ..Default::default()
    });
    let limited = cri.launch(&pod, &config).await?;
    let free = cri.launch(&pod, &sh("free", "exec sleep 1000")).await?;

    let stats = until(&mut cri, &limited, "30 MB in use", |stats| {
        stats.memory.and_then(|memory| number(memory.rss_bytes)).unwrap_or(0) > 20 * MIB
    })
    .await?;
    let memory = stats.memory.context("no memory")?;
    let working_set = number(memory.working_set_bytes).context("no working set")?;
    assert!(working_set > 20 * MIB, "{memory:?}");
    assert!(number(memory.usage_bytes).is_some_and(|usage| usage >= working_set), "{memory:?}");
    assert_eq!(number(memory.available_bytes), Some(limit - working_set));
    assert!(number(memory.page_faults).is_some_and(|faults| faults > 1000), "{memory:?}");
    let swap = stats.swap.context("no swap")?;
    assert_eq!(number(swap.swap_available_bytes).unwrap_or(0), 0, "it may not swap");

    let memory = container_stats(&mut cri, &free).await?.memory.context("no memory")?;
    assert_eq!(memory.available_bytes, None, "nothing is left of no limit");
    let pod = pod_stats(&mut cri, &pod).await?.linux.context("no numbers")?;
    let pod = pod.memory.and_then(|memory| number(memory.rss_bytes));
    assert!(pod.is_some_and(|bytes| bytes > 20 * MIB), "{pod:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_bytes_of_the_network() -> Result<()> {
    let (node, mut cri) = node().await?;
    let pod = run_pod(&node, &mut cri, "wired").await?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let status = cri.runtime.pod_sandbox_status(request).await?.into_inner().status;
    let ip = status.and_then(|status| status.network).context("no network")?.ip;
    let eth0 = |stats: PodSandboxStats| -> Result<_> {
        let network = stats.linux.and_then(|linux| linux.network).context("no network")?;
        assert!(network.interfaces.iter().all(|one| one.name != "eth0" && one.name != "lo"));
        let interface = network.default_interface.context("no default interface")?;
        assert_eq!(interface.name, "eth0");
        Ok(interface)
    };
    let before = eth0(pod_stats(&mut cri, &pod).await?)?;
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    for _ in 0..100 {
        // The pod refuses them, which the next call would be told.
        let _refused = socket.send_to(&[0; 1000], (ip.as_str(), 9));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let after = eth0(pod_stats(&mut cri, &pod).await?)?;
        let grown = |a: Option<UInt64Value>, b: Option<UInt64Value>| {
            number(a).zip(number(b)).map(|(a, b)| a - b)
        };
        if grown(after.rx_bytes, before.rx_bytes) > Some(50_000) {
            break;
        }
        assert!(Instant::now() < deadline, "before {before:?}, now {after:?}");
        sleep(Duration::from_millis(50)).await;
    }

    let mut config = node.pod("on-the-host");
    let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options =
        Some(NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() });
    let pod = cri.run_pod(config, "").await?;
    let stats = pod_stats(&mut cri, &pod).await?.linux.context("no numbers")?;
    assert_eq!(stats.network, None, "the node's traffic is not the pod's");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_files_in_the_writable_layer() -> Result<()> {
    let (node, mut cri) = node().await?;
    let pod = run_pod(&node, &mut cri, "writer").await?;
    let id = cri.launch(&pod, &sh("writer", "exec sleep 1000")).await?;
    let layer = container_stats(&mut cri, &id).await?.writable_layer.context("no layer")?;
    assert!(number(layer.used_bytes).is_some_and(|bytes| bytes < MIB), "{layer:?}");
    let files = "for i in 1 2 3 4 5; do dd if=/dev/zero of=/file$i bs=1M count=1; done; sync";
    assert_eq!(cri.exec(&id, &["sh", "-c", files]).await?.exit_code, 0);
    let stats = until(&mut cri, &id, "5 files of 1 MiB", |stats| {
        let layer = stats.writable_layer.as_ref();
        let bytes = layer.and_then(|layer| number(layer.used_bytes));
        bytes.is_some_and(|bytes| bytes >= 5 * MIB)
    })
    .await?;
    let layer = stats.writable_layer.context("no layer")?;
    assert!(number(layer.inodes_used).is_some_and(|inodes| inodes >= 5), "{layer:?}");
    let place = layer.fs_id.context("no file system")?.mountpoint;
    assert!(place.starts_with(&*node.root().to_string_lossy()), "{place}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_who_is_not_ready_has_no_statistics() -> Result<()> {
    let (node, mut cri) = node().await?;
    let ready = run_pod(&node, &mut cri, "ready").await?;
    let stopped = run_pod(&node, &mut cri, "stopped").await?;
    let runs = cri.launch(&ready, &sh("runs", "exec sleep 1000")).await?;
    let ended = cri.launch(&ready, &sh("ended", "exit 0")).await?;
    cri.wait_exited(&ended).await?;
    cri.stop_pod(&stopped.id).await?;

    let listed = cri.runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await?;
    let ids = listed.into_inner().stats.into_iter().filter_map(|pod| pod.attributes);
    let ids: Vec<_> = ids.map(|attributes| attributes.id).collect();
    assert_eq!(ids, std::slice::from_ref(&ready.id));
    let listed = cri.runtime.list_container_stats(ListContainerStatsRequest::default()).await?;
    let ids = listed.into_inner().stats.into_iter().filter_map(|one| one.attributes);
    assert_eq!(ids.map(|attributes| attributes.id).collect::<Vec<_>>(), [runs]);

    let ask = |id: &str| PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
    let unknown = refusal(cri.runtime.pod_sandbox_stats(ask("none")).await)?;
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    let late = refusal(cri.runtime.pod_sandbox_stats(ask(&stopped.id)).await)?;
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    Ok(())
}
