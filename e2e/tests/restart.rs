//! The daemon is killed at any moment; pods do not notice, and nothing is lost.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use cri_api::v1::{ContainerConfig, ContainerState, PodSandboxState};
use e2e::client::{Cri, Pod, container};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use tokio::time::sleep;

/// The life of a pod with one container, step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Step {
    RunPod,
    Create,
    Start,
    Stop,
    Remove,
    StopPod,
    RemovePod,
}

const STEPS: [Step; 7] = [
    Step::RunPod,
    Step::Create,
    Step::Start,
    Step::Stop,
    Step::Remove,
    Step::StopPod,
    Step::RemovePod,
];

/// How long after the start of a step the daemon is killed, in milliseconds.
const MOMENTS: [u64; 6] = [0, 1, 3, 8, 20, 50];

/// What the steps so far have made.
#[derive(Clone, Debug, Default)]
struct Made {
    pod: Option<Pod>,
    container: Option<String>,
}

impl Made {
    async fn step(&mut self, step: Step, node: &Node, cri: &mut Cri) -> Result<()> {
        let pod = || self.pod.clone().context("no pod yet");
        let container_id = || self.container.clone().context("no container yet");
        match step {
            Step::RunPod => self.pod = Some(cri.run_pod(node.pod("pod"), "").await?),
            Step::Create => self.container = Some(cri.create(&pod()?, &sleeper()).await?),
            Step::Start => cri.start(&container_id()?).await?,
            Step::Stop => cri.stop(&container_id()?, 0).await?,
            Step::Remove => cri.remove(&container_id()?).await?,
            Step::StopPod => cri.stop_pod(&pod()?.id).await?,
            Step::RemovePod => cri.remove_pod(&pod()?.id).await?,
        }
        Ok(())
    }
}

fn sleeper() -> ContainerConfig {
    container("sleeper", DEMO, &["sleep", "1000"])
}

async fn node_with_demo() -> Result<Node> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    node.import_demo()?;
    Ok(node)
}

/// The states that the lists must show after the steps up to `last`.
async fn expect_listed(cri: &mut Cri, last: Step) -> Result<()> {
    let pods: Vec<_> = cri.pods().await?.iter().map(|pod| pod.state()).collect();
    let containers: Vec<_> =
        cri.containers().await?.iter().map(|container| container.state()).collect();
    let expected_pods = match last {
        Step::RemovePod => vec![],
        Step::StopPod => vec![PodSandboxState::SandboxNotready],
        Step::RunPod | Step::Create | Step::Start | Step::Stop | Step::Remove => {
            vec![PodSandboxState::SandboxReady]
        }
    };
    let expected_containers = match last {
        Step::Create => vec![ContainerState::ContainerCreated],
        Step::Start => vec![ContainerState::ContainerRunning],
        Step::Stop => vec![ContainerState::ContainerExited],
        Step::RunPod | Step::Remove | Step::StopPod | Step::RemovePod => vec![],
    };
    assert_eq!(pods, expected_pods, "pods after {last:?}");
    assert_eq!(containers, expected_containers, "containers after {last:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_killed_between_two_steps_it_goes_on_where_it_was() -> Result<()> {
    let mut node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let mut first = Made::default();
    for step in STEPS {
        first.step(step, &node, &mut cri).await?;
    }
    let before = node.holdings()?;
    for last in STEPS {
        let after = || format!("killed after {last:?}");
        let mut made = Made::default();
        for step in STEPS {
            made.step(step, &node, &mut cri)
                .await
                .with_context(|| format!("{step:?}, {}", after()))?;
            if step == last {
                node.kill()?;
                node.begin().await?;
                cri = node.connect().await?;
                expect_listed(&mut cri, step).await?;
            }
        }
        node.expect_no_more_than(&before).await.with_context(after)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_killed_after_any_step_everything_can_be_removed() -> Result<()> {
    let mut node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let mut first = Made::default();
    for step in STEPS {
        first.step(step, &node, &mut cri).await?;
    }
    let before = node.holdings()?;
    for last in STEPS {
        let mut made = Made::default();
        for step in STEPS.into_iter().take_while(|step| *step <= last) {
            made.step(step, &node, &mut cri).await?;
        }
        node.kill()?;
        node.begin().await?;
        cri = node.connect().await?;
        cri.remove_all().await?;
        node.expect_no_more_than(&before)
            .await
            .with_context(|| format!("killed after {last:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_killed_during_any_step_nothing_leaks() -> Result<()> {
    let mut node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let mut first = Made::default();
    for step in STEPS {
        first.step(step, &node, &mut cri).await?;
    }
    let before = node.holdings()?;
    for last in STEPS {
        for moment in MOMENTS {
            let mut made = Made::default();
            for step in STEPS.into_iter().take_while(|step| *step < last) {
                made.step(step, &node, &mut cri).await?;
            }
            let interrupted = async {
                tokio::select! {
                    _cut_short = made.step(last, &node, &mut cri) => {}
                    () = sleep(Duration::from_millis(moment)) => {}
                }
            };
            interrupted.await;
            node.kill()?;
            node.begin().await.with_context(|| format!("killed {moment} ms into {last:?}"))?;
            cri = node.connect().await?;
            cri.remove_all().await.with_context(|| format!("killed {moment} ms into {last:?}"))?;
            node.expect_no_more_than(&before)
                .await
                .with_context(|| format!("killed {moment} ms into {last:?}"))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_running_container_survives_and_its_log_goes_on() -> Result<()> {
    let mut node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let config = container(
        "counter",
        DEMO,
        &["sh", "-c", "n=0; while true; do n=$((n+1)); echo $n; sleep 0.05; done"],
    );
    let id = cri.launch(&pod, &config).await?;
    let log = pod.log_path(&config);
    let lines = || fs::read_to_string(&log).map(|text| text.lines().count()).unwrap_or(0);
    wait_until("the first lines", || lines() > 3).await?;
    let started = cri.status(&id).await?.started_at;
    node.kill()?;
    let at_kill = lines();
    wait_until("lines while no daemon runs", || lines() > at_kill + 3).await?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    let status = cri.status(&id).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(status.started_at, started);
    assert_eq!(cri.exec(&id, &["echo", "still here"]).await?.stdout, b"still here\n");
    cri.stop(&id, 0).await?;
    let text = fs::read_to_string(&log)?;
    let numbers: Vec<usize> =
        text.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "no line is lost or repeated");
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_exit_while_no_daemon_runs_is_told_truly() -> Result<()> {
    let mut node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let gate = "while [ ! -e /tmp/go ]; do sleep 0.02; done; echo last words; exit 7";
    let config = container("gate", DEMO, &["sh", "-c", gate]);
    let id = cri.launch(&pod, &config).await?;
    // The container is told to end after the daemon is gone.
    let delay = "(sleep 2; touch /tmp/go) > /dev/null 2>&1 &";
    assert_eq!(cri.exec(&id, &["sh", "-c", delay]).await?.exit_code, 0);
    let killed = nanoseconds(SystemTime::now())?;
    node.kill()?;
    let log = pod.log_path(&config);
    wait_until("the last words", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("last words"))
    })
    .await?;
    sleep(Duration::from_millis(200)).await;
    let restarted = nanoseconds(SystemTime::now())?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    let status = cri.wait_exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    let range = killed..restarted;
    assert!(range.contains(&status.finished_at), "{} is not in {range:?}", status.finished_at);
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_exit_that_no_daemon_saw_is_not_forgotten_with_its_pod() -> Result<()> {
    let mut node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let config = container("gate", DEMO, &["sh", "-c", "sleep 1; exit 7"]);
    let id = cri.launch(&pod, &config).await?;
    node.kill()?;
    let exit = node.state().join("pods").join(&pod.id).join("exits").join(&id);
    wait_until("the exit file", || exit.exists()).await?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    cri.stop_pod(&pod.id).await?;
    node.kill()?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    assert_eq!(cri.status(&id).await?.exit_code, 7);
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_graceful_end_leaves_pods_running() -> Result<()> {
    let mut node = node_with_demo().await?;
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &sleeper()).await?;
    assert!(node.stop()?.success());
    assert!(!node.holdings()?.processes.is_empty());
    node.begin().await?;
    let mut cri = node.connect().await?;
    assert_eq!(cri.status(&id).await?.state(), ContainerState::ContainerRunning);
    cri.remove_all().await?;
    Ok(())
}

async fn wait_until(what: &str, mut happened: impl FnMut() -> bool) -> Result<()> {
    let happens = async {
        while !happened() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), happens)
        .await
        .with_context(|| format!("{what} never came"))
}

fn nanoseconds(time: SystemTime) -> Result<i64> {
    Ok(i64::try_from(time.duration_since(UNIX_EPOCH)?.as_nanos())?)
}
