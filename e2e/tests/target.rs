//! A container that sees another one's processes, as debug containers do.

use anyhow::{Context, Result};
use cri_api::v1::{ContainerConfig, ContainerState, NamespaceMode, NamespaceOption};
use e2e::client::{Cri, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::runc;
use tonic::Code;

fn sleeper(name: &str, seconds: &str, pid: NamespaceOption) -> ContainerConfig {
    let mut config = container(name, DEMO, &["sleep", seconds]);
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options = Some(pid);
    config
}

/// A container with a PID namespace of its own, as the kubelet asks for it.
fn own(name: &str, seconds: &str) -> ContainerConfig {
    let pid = NamespaceMode::Container.into();
    sleeper(name, seconds, NamespaceOption { pid, ..Default::default() })
}

fn targeting(name: &str, target: &str) -> ContainerConfig {
    let (pid, target_id) = (NamespaceMode::Target.into(), target.to_owned());
    sleeper(name, "2000", NamespaceOption { pid, target_id, ..Default::default() })
}

async fn node() -> Result<Node> {
    host::require_root()?;
    let runc = runc().context("no runc: set ORLOP_RUNC, as hack/test does")?;
    let more = format!("[runtimes.runc]\npath = \"{}\"\n", runc.display());
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    Ok(node)
}

/// The command lines of the processes that a container sees.
async fn processes(cri: &mut Cri, id: &str) -> Result<String> {
    let said = cri.exec(id, &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).await?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The PID namespace that a container's processes are in.
async fn namespace(cri: &mut Cri, id: &str) -> Result<Vec<u8>> {
    Ok(cri.exec(id, &["readlink", "/proc/self/ns/pid"]).await?.stdout)
}

async fn shares_processes(handler: &str) -> Result<()> {
    let node = node().await?;
    let mut cri = node.connect().await?;
    let before = node.holdings()?;
    let pod = cri.run_pod(node.pod("target"), handler).await?;
    let target = cri.launch(&pod, &own("target", "1000")).await?;
    let alone = cri.launch(&pod, &own("alone", "3000")).await?;
    let debug = cri.launch(&pod, &targeting("debug", &target)).await?;
    for id in [&target, &debug] {
        let seen = processes(&mut cri, id).await?;
        assert!(seen.contains("sleep 1000") && seen.contains("sleep 2000"), "{seen}");
        assert!(!seen.contains("sleep 3000"), "{seen}");
    }
    let shared = namespace(&mut cri, &target).await?;
    assert_eq!(shared, namespace(&mut cri, &debug).await?);
    assert_ne!(shared, namespace(&mut cri, &alone).await?);

    cri.stop(&debug, 0).await?;
    assert_eq!(cri.wait_exited(&debug).await?.exit_code, 137);
    let status = cri.status(&target).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    let seen = processes(&mut cri, &target).await?;
    assert!(seen.contains("sleep 1000") && !seen.contains("sleep 2000"), "{seen}");

    // A short id will do. The end of the target, process 1, is the end of all.
    let short = target.get(..13).context("a long id")?;
    let second = cri.launch(&pod, &targeting("second", short)).await?;
    let waiting = cri.create(&pod, &targeting("waiting", &target)).await?;
    cri.stop(&target, 0).await?;
    cri.wait_exited(&target).await?;
    cri.wait_exited(&second).await?;
    refusal(cri.start(&waiting).await).context("its target is over")?;
    let status = cri.status(&alone).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_targeting_container_sees_its_target() -> Result<()> {
    shares_processes("").await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_targeting_container_sees_its_target_by_runc() -> Result<()> {
    shares_processes("runc").await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_target_that_cannot_be_is_refused() -> Result<()> {
    let node = node().await?;
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let other = cri.run_pod(node.pod("other"), "").await?;
    let sleeper = own("sleeper", "1000");
    let elsewhere = cri.launch(&other, &sleeper).await?;
    let created = cri.create(&pod, &sleeper).await?;
    let ended = cri.launch(&pod, &container("ended", DEMO, &["true"])).await?;
    cri.wait_exited(&ended).await?;
    for (target, code, words) in [
        (elsewhere.as_str(), Code::InvalidArgument, format!("in another pod, {}", other.id)),
        (&created, Code::FailedPrecondition, format!("{created} is created and not started")),
        (&ended, Code::FailedPrecondition, format!("{ended} is exited")),
        ("0123456789abcdef", Code::NotFound, "0123456789abcdef".to_owned()),
    ] {
        let refused = refusal(cri.create(&pod, &targeting("debug", target)).await)?;
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(&words), "{refused:?}");
    }
    assert_eq!(cri.containers().await?.len(), 3, "no refused one is listed");
    cri.remove_all().await?;
    Ok(())
}
