//! Many pods come and go; the host holds what it held before.

use anyhow::{Context, Result};
use e2e::client::{Cri, container};
use e2e::cni::Cni;
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use tokio::task::JoinSet;

/// Pods that run at once.
const WORKERS: usize = 4;

/// A pod with one container that runs to its end and one that is stopped.
async fn cycle(cri: &mut Cri, config: cri_api::v1::PodSandboxConfig) -> Result<()> {
    let pod = cri.run_pod(config, "").await.context("run pod")?;
    let short = cri.launch(&pod, &container("short", DEMO, &["sh", "-c", "exit 3"])).await?;
    let long = cri.launch(&pod, &container("long", DEMO, &["sleep", "1000"])).await?;
    let said = cri.exec(&long, &["echo", "hello"]).await?;
    assert_eq!(said.stdout, b"hello\n");
    assert_eq!(cri.wait_exited(&short).await?.exit_code, 3);
    cri.stop(&long, 0).await?;
    cri.remove(&long).await?;
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    Ok(())
}

/// Runs `cycles` pods, several at once, and compares.
async fn cycles_leave_nothing(node: &Node, cycles: usize) -> Result<()> {
    node.import_demo()?;
    let mut cri = node.connect().await?;
    for _ in 0..2 {
        cycle(&mut cri, node.pod("first")).await?;
    }
    let daemon = node.daemon().context("the daemon does not run")?;
    let before = node.holdings()?;
    let descriptors = host::descriptors(daemon)?;
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let mut cri = cri.clone();
        let pods: Vec<_> =
            (worker..cycles).step_by(WORKERS).map(|n| node.pod(&format!("pod-{n}"))).collect();
        workers.spawn(async move {
            for pod in pods {
                cycle(&mut cri, pod).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    node.expect_no_more_than(&before).await?;
    assert!(cri.pods().await?.is_empty());
    assert!(cri.containers().await?.is_empty());
    let now = host::descriptors(daemon)?;
    assert!(now <= descriptors + WORKERS, "the daemon had {descriptors} descriptors and has {now}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_two_hundred_pods_leave_nothing() -> Result<()> {
    host::require_root()?;
    let mut node = Node::start(Settings::default()).await?;
    cycles_leave_nothing(&node, 200).await?;
    assert!(node.stop()?.success());
    assert_eq!(node.network()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_pods_on_a_cni_network_leave_nothing() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let cni = Cni::write(directory.path(), 17)?;
    let settings = Settings { conf_dir: Some(cni.conf_dir.clone()), ..Settings::default() };
    let node = Node::start(settings).await?;
    cycles_leave_nothing(&node, 20).await?;
    let leases = host::paths_below(&directory.path().join("ipam"))?;
    let addresses = leases.iter().filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("10."))
    });
    assert_eq!(addresses.count(), 0, "addresses are still taken: {leases:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_pods_without_a_cgroup_parent_leave_no_group() -> Result<()> {
    host::require_root()?;
    let parent = format!("orlop-leaks-{}", std::process::id());
    let more = format!("[pods]\ncgroup_parent = \"/{parent}\"\n");
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    for name in ["one", "two"] {
        let mut pod = node.pod(name);
        pod.linux = None;
        cycle(&mut cri, pod).await?;
    }
    for root in host::cgroup_roots()? {
        let group = root.join(&parent);
        assert!(!group.exists(), "{} is left", group.display());
    }
    Ok(())
}
