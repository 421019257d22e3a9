//! Shims that are killed, and shims that hang: what they hold is given back, and nobody
//! waits for them for ever.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cri_api::v1::{
    ContainerConfig, ContainerState, CreateContainerRequest, ExecSyncRequest, NamespaceMode,
    PodSandboxState, ReopenContainerLogRequest,
};
use e2e::client::{CALL, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::runc;
use rustix::process::{Pid, Signal};
use tokio::time::sleep;
use tonic::Code;

fn sleeper(name: &str) -> ContainerConfig {
    container(name, DEMO, &["sleep", "1000"])
}

async fn node_with_demo() -> Result<Node> {
    host::require_root()?;
    let runc = runc().context("no runc: set ORLOP_RUNC, as hack/test does")?;
    let more = format!("[runtimes.runc]\npath = \"{}\"\n", runc.display());
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    Ok(node)
}

fn signal(process: Pid, signal: Signal) -> Result<()> {
    rustix::process::kill_process(process, signal).context("signal the shim")
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_shim_that_is_killed_takes_its_pod_along() -> Result<()> {
    let node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let before = node.holdings()?;
    let mut config = node.pod("pod");
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into();
    let pod = cri.run_pod(config, "").await?;
    let id = cri.launch(&pod, &sleeper("sleeper")).await?;
    signal(node.shim(&pod.id)?, Signal::KILL)?;
    assert_eq!(cri.wait_exited(&id).await?.exit_code, 255);
    let mut ready = true;
    while ready {
        ready = cri.pods().await?.iter().any(|pod| pod.state() == PodSandboxState::SandboxReady);
        sleep(Duration::from_millis(10)).await;
    }
    cri.remove_all().await?;
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_shim_that_does_not_answer_holds_nothing_up() -> Result<()> {
    let mut node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let before = node.holdings()?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    cri.launch(&pod, &sleeper("sleeper")).await?;
    node.kill()?;
    signal(node.shim(&pod.id)?, Signal::STOP)?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    cri.remove_all().await?;
    node.expect_no_more_than(&before).await
}

/// Every call that needs the shim fails in its time and says why; what was to start does
/// not, what was to end does, also when the shim goes on later.
async fn asked_while_it_hangs(handler: &str) -> Result<()> {
    let node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let before = node.holdings()?;
    let pod = cri.run_pod(node.pod("pod"), handler).await?;
    // Now: the processes of containers that are not started look the same.
    let shim = node.shim(&pod.id)?;
    let running = cri.launch(&pod, &sleeper("running")).await?;
    // An external runtime's `start` returns a little before the program runs.
    wait_until("the program", || first_process(&node, &running).is_some()).await?;
    let pid = first_process(&node, &running).context("it has just been there")?;
    let created = cri.create(&pod, &sleeper("created")).await?;
    signal(shim, Signal::STOP)?;

    let [mut a, mut b, mut c, mut d, mut e] = std::array::from_fn(|_| cri.clone());
    let reopen = ReopenContainerLogRequest { container_id: running.clone() };
    let exec =
        ExecSyncRequest { container_id: running.clone(), cmd: vec!["true".to_owned()], timeout: 0 };
    let create = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(sleeper("late")),
        sandbox_config: Some(pod.config.clone()),
    };
    let (started, stopped, reopened, executed, made) = tokio::join!(
        a.start(&created),
        b.stop(&running, 0),
        c.runtime.reopen_container_log(reopen),
        d.runtime.exec_sync(exec),
        e.runtime.create_container(create),
    );
    for (what, refused) in [
        (format!("start container {created}"), refusal(started)?),
        (format!("signal container {running}"), refusal(stopped)?),
        (format!("reopen the log of container {running}"), refusal(reopened)?),
        (format!("run a command in container {running}"), refusal(executed)?),
        ("create container ".to_owned(), refusal(made)?),
    ] {
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        let message = refused.message();
        assert!(message.starts_with(&what), "{message}");
        assert!(message.ends_with(": the shim has not answered for 20 s"), "{message}");
    }
    let status = cri.status(&created).await?;
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("has not answered"), "{}", status.message);
    let ended = || is_over(pid);
    wait_until("the end of the stopped container's process", ended).await?;

    signal(shim, Signal::CONT)?;
    let status = cri.wait_exited(&running).await?;
    assert_eq!(status.exit_code, 137);
    // It was told to start the other one, and then to kill it. It answers after that.
    let third = cri.launch(&pod, &sleeper("third")).await?;
    assert_eq!(cri.exec(&third, &["true"]).await?.exit_code, 0);
    wait_until("the end of what started too late", || {
        node.holdings().is_ok_and(|held| {
            held.processes.values().filter(|line| line.starts_with("sleep")).count() == 1
        })
    })
    .await?;
    assert_eq!(cri.status(&created).await?.state(), ContainerState::ContainerExited);
    cri.remove(&created).await?;
    cri.remove_all().await?;
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_hung_shim_leaves_no_call_waiting() -> Result<()> {
    asked_while_it_hangs("").await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_hung_shim_with_an_external_runtime_leaves_no_call_waiting() -> Result<()> {
    asked_while_it_hangs("runc").await
}

/// The process of a container that runs `sleep`, told by its cgroup.
fn first_process(node: &Node, container: &str) -> Option<i32> {
    let found = node.holdings().ok()?.processes.into_iter().find(|(pid, line)| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        line.starts_with("sleep") && groups.contains(container)
    });
    Some(found?.0)
}

/// Whether a process is dead, buried or not: nobody buries while its parent hangs.
fn is_over(pid: i32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

async fn wait_until(what: &str, happened: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + CALL;
    while !happened() {
        anyhow::ensure!(Instant::now() < deadline, "{what} never came");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
