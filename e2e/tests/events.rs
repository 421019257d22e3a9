//! `GetContainerEvents`: what is told, with which picture, to whom, and until when.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cri_api::v1::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};
use cri_api::v1::{
    ContainerEventResponse, ContainerEventType, ContainerState, GetEventsRequest, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxState, PodSandboxStatusRequest,
    PodSandboxStatusResponse,
};
use e2e::client::{CALL, Cri, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

/// A listener.
struct Events(Streaming<ContainerEventResponse>);

impl Events {
    async fn of(cri: &mut Cri) -> Result<Self> {
        Ok(Self(cri.runtime.get_container_events(GetEventsRequest {}).await?.into_inner()))
    }

    async fn next(&mut self) -> Result<ContainerEventResponse> {
        let event = timeout(CALL, self.0.message()).await.context("no event")??;
        event.context("the stream ended without an error")
    }

    /// The next event, which must be this one.
    async fn expect(&mut self, id: &str, kind: ContainerEventType) -> Result<Told> {
        let event = self.next().await?;
        assert_eq!((event.container_id.as_str(), event.container_event_type()), (id, kind));
        Ok(Told(event))
    }

    /// How the stream ends, once it has.
    async fn end(&mut self) -> Result<Status> {
        loop {
            match timeout(CALL, self.0.message()).await.context("the stream does not end")? {
                Ok(Some(_event)) => {}
                outcome => return refusal(outcome),
            }
        }
    }
}

/// An event.
struct Told(ContainerEventResponse);

impl Told {
    /// Checks its picture.
    fn shows(&self, pod: PodSandboxState, containers: &[ContainerState]) -> &Self {
        let status = self.0.pod_sandbox_status.as_ref();
        assert_eq!(status.map(|status| status.state()), Some(pod), "{:?}", self.0);
        let states: Vec<_> = self.0.containers_statuses.iter().map(|one| one.state()).collect();
        assert_eq!(states, containers);
        self
    }

    fn exit_codes(&self) -> Vec<i32> {
        self.0.containers_statuses.iter().map(|status| status.exit_code).collect()
    }
}

async fn node_with_demo() -> Result<(Node, Cri)> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    node.import_demo()?;
    let cri = node.connect().await?;
    Ok((node, cri))
}

async fn pod_status(cri: &mut Cri, pod: &str) -> Result<PodSandboxStatusResponse> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    Ok(cri.runtime.pod_sandbox_status(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_life_is_told_step_by_step() -> Result<()> {
    use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    use PodSandboxState::{SandboxNotready, SandboxReady};
    let (node, mut cri) = node_with_demo().await?;
    let mut events = Events::of(&mut cri).await?;
    let mut times = Vec::new();

    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let told = events.expect(&pod.id, Created).await?;
    times.push(told.shows(SandboxReady, &[]).0.created_at);
    let told = events.expect(&pod.id, Started).await?;
    times.push(told.shows(SandboxReady, &[]).0.created_at);
    let id = cri.create(&pod, &container("c", DEMO, &["sleep", "1000"])).await?;
    let told = events.expect(&id, Created).await?;
    times.push(told.shows(SandboxReady, &[ContainerCreated]).0.created_at);
    cri.start(&id).await?;
    let told = events.expect(&id, Started).await?;
    times.push(told.shows(SandboxReady, &[ContainerRunning]).0.created_at);

    // A status is the picture of the last event, of the same instant.
    let status = pod_status(&mut cri, &pod.id).await?;
    assert_eq!(status.timestamp, told.0.created_at);
    assert_eq!(status.status, told.0.pod_sandbox_status);
    assert_eq!(status.containers_statuses, told.0.containers_statuses);
    assert_eq!(told.0.containers_statuses, [cri.status(&id).await?]);

    cri.stop(&id, 0).await?;
    let told = events.expect(&id, Stopped).await?;
    assert_eq!(told.shows(SandboxReady, &[ContainerExited]).exit_codes(), [137]);
    times.push(told.0.created_at);
    cri.remove(&id).await?;
    let told = events.expect(&id, Deleted).await?;
    times.push(told.shows(SandboxReady, &[]).0.created_at);
    cri.stop_pod(&pod.id).await?;
    let told = events.expect(&pod.id, Stopped).await?;
    times.push(told.shows(SandboxNotready, &[]).0.created_at);
    cri.remove_pod(&pod.id).await?;
    let told = events.expect(&pod.id, Deleted).await?;
    assert_eq!(told.0.pod_sandbox_status, None);
    times.push(told.0.created_at);
    assert!(times.is_sorted() && times[0] > 0, "{times:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_no_step_is_left_out_however_short() -> Result<()> {
    use ContainerState::{ContainerExited, ContainerRunning};
    let (node, mut cri) = node_with_demo().await?;
    let mut events = Events::of(&mut cri).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    events.expect(&pod.id, Created).await?;
    events.expect(&pod.id, Started).await?;
    for round in 0..5 {
        let id = cri.launch(&pod, &container(&format!("short-{round}"), DEMO, &["true"])).await?;
        events.expect(&id, Created).await?;
        let told = events.expect(&id, Started).await?;
        told.shows(PodSandboxState::SandboxReady, &[ContainerRunning]);
        let told = events.expect(&id, Stopped).await?;
        assert_eq!(told.shows(PodSandboxState::SandboxReady, &[ContainerExited]).exit_codes(), [0]);
        cri.remove(&id).await?;
        events.expect(&id, Deleted).await?;
    }
    // One that cannot be started has never been.
    let id = cri.create(&pod, &container("none", DEMO, &["/no/such"])).await;
    if let Ok(id) = id {
        refusal(cri.start(&id).await)?;
        events.expect(&id, Created).await?;
        let told = events.expect(&id, Stopped).await?;
        assert_eq!(told.0.containers_statuses[0].reason, "StartError");
        cri.remove(&id).await?;
        events.expect(&id, Deleted).await?;
    }
    // Removed while it runs, it ends first; so do the containers of a pod.
    let removed = cri.launch(&pod, &container("removed", DEMO, &["sleep", "1000"])).await?;
    events.expect(&removed, Created).await?;
    events.expect(&removed, Started).await?;
    cri.remove(&removed).await?;
    events.expect(&removed, Stopped).await?;
    events.expect(&removed, Deleted).await?;
    let last = cri.launch(&pod, &container("last", DEMO, &["sleep", "1000"])).await?;
    events.expect(&last, Created).await?;
    events.expect(&last, Started).await?;
    cri.remove_pod(&pod.id).await?;
    events.expect(&last, Stopped).await?;
    let told = events.expect(&pod.id, Stopped).await?;
    told.shows(PodSandboxState::SandboxNotready, &[ContainerExited]);
    let told = events.expect(&last, Deleted).await?;
    told.shows(PodSandboxState::SandboxNotready, &[]);
    events.expect(&pod.id, Deleted).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_each_listener_hears_everything_and_none_delays_another() -> Result<()> {
    let (node, mut cri) = node_with_demo().await?;
    let mut first = Events::of(&mut cri).await?;
    let mut others = node.connect().await?;
    let mut second = Events::of(&mut others).await?;
    // This one does not read at all, and that one is gone.
    let mut third = node.connect().await?;
    let _deaf = Events::of(&mut third).await?;
    drop(Events::of(&mut node.connect().await?).await?);
    let mut pods = Vec::new();
    for n in 0..3 {
        // Annotations as long as Kubernetes allows, so that the deaf one's window is full.
        let mut config = node.pod(&format!("pod-{n}"));
        config.annotations.insert("long".into(), "x".repeat(256 << 10));
        let pod = cri.run_pod(config, "").await?;
        for events in [&mut first, &mut second] {
            events.expect(&pod.id, Created).await?;
            let told = events.expect(&pod.id, Started).await?;
            let status = told.0.pod_sandbox_status.context("no status")?;
            assert_eq!(status.annotations["long"].len(), 256 << 10);
        }
        pods.push(pod.id);
    }
    cri.remove_all().await?;
    for pod in pods {
        for events in [&mut first, &mut second] {
            events.expect(&pod, Stopped).await?;
            events.expect(&pod, Deleted).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_who_does_not_listen_is_told_that_he_missed_something() -> Result<()> {
    /// A ring's worth of events and more, four of each pod.
    const PODS: usize = 320;
    let (node, mut cri) = node_with_demo().await?;
    let mut others = node.connect().await?;
    let mut deaf = Events::of(&mut others).await?;
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let mut cri = cri.clone();
        let pods: Vec<_> =
            (worker..PODS).step_by(4).map(|n| small_pod(&node, &format!("pod-{n}"))).collect();
        workers.spawn(async move {
            for config in pods {
                let pod = cri.run_pod(config, "").await?;
                cri.remove_pod(&pod.id).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    let status = deaf.end().await?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("list"), "{status:?}");
    // Whoever comes back hears from then on.
    let mut events = Events::of(&mut others).await?;
    let pod = cri.run_pod(small_pod(&node, "last"), "").await?;
    events.expect(&pod.id, Created).await?;
    cri.remove_all().await?;
    Ok(())
}

/// A pod that is quickly made, and whose events are long.
fn small_pod(node: &Node, name: &str) -> PodSandboxConfig {
    let mut config = node.pod(name);
    config.annotations.insert("long".into(), "x".repeat(64 << 10));
    let options = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options = Some(options);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn root_streams_end_with_the_daemon_and_do_not_delay_it() -> Result<()> {
    let (mut node, mut cri) = node_with_demo().await?;
    let mut events = Events::of(&mut cri).await?;
    let begun = Instant::now();
    let ending = tokio::spawn(async move { events.end().await });
    assert!(node.stop()?.success());
    let status = ending.await??;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // It waits ten seconds for RPCs that do not end.
    assert!(begun.elapsed() < Duration::from_secs(9), "the stream held the daemon up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_ended_while_no_daemon_ran_is_told() -> Result<()> {
    use ContainerState::{ContainerExited, ContainerRunning};
    let (mut node, mut cri) = node_with_demo().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let script = "until [ -e /tmp/end ]; do sleep 0.1; done; sleep 1; exit 7";
    let ends = cri.launch(&pod, &container("ends", DEMO, &["sh", "-c", script])).await?;
    let stays = cri.launch(&pod, &container("stays", DEMO, &["sleep", "1000"])).await?;
    cri.exec(&ends, &["touch", "/tmp/end"]).await?;
    node.kill()?;
    // Its exit is written down by the shim.
    let exits = node.state().join("pods").join(&pod.id).join("exits").join(&ends);
    let deadline = Instant::now() + CALL;
    while !exits.exists() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.begin().await?;
    let mut cri = node.connect().await?;
    let mut events = Events::of(&mut cri).await?;
    let told = events.expect(&ends, Stopped).await?;
    told.shows(PodSandboxState::SandboxReady, &[ContainerRunning, ContainerExited]);
    assert_eq!(told.exit_codes(), [0, 7]);
    assert_eq!(pod_status(&mut cri, &pod.id).await?.timestamp, told.0.created_at);
    // It is told once, and nothing else had happened.
    cri.stop(&stays, 0).await?;
    events.expect(&stays, Stopped).await?;
    let mut second = Events::of(&mut cri).await?;
    cri.remove(&ends).await?;
    events.expect(&ends, Deleted).await?;
    second.expect(&ends, Deleted).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_lost_shim_is_told() -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let (node, mut cri) = node_with_demo().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &container("c", DEMO, &["sleep", "1000"])).await?;
    let status = pod_status(&mut cri, &pod.id).await?;
    let info: serde_json::Value = serde_json::from_str(&status.info["info"])?;
    let shim = info["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let mut events = Events::of(&mut cri).await?;
    // The events of before are for the first listener.
    for (id, kind) in [(&pod.id, Created), (&pod.id, Started), (&id, Created), (&id, Started)] {
        events.expect(id, kind).await?;
    }
    kill_process(shim.context("no shim")?, Signal::KILL)?;
    let told = events.expect(&id, Stopped).await?;
    assert_eq!(told.exit_codes(), [255]);
    let told = events.expect(&pod.id, Stopped).await?;
    told.shows(PodSandboxState::SandboxNotready, &[ContainerState::ContainerExited]);
    cri.remove_all().await.context("remove")?;
    Ok(())
}
