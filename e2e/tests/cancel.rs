//! Clients that do not wait: at each RPC, after any time. The work goes on or is undone,
//! whoever asks again gets its result, and nothing is left in the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::{
    ContainerConfig, ContainerState, CreateContainerRequest, ExecSyncRequest, GetEventsRequest,
    KeyValue, ListContainerStatsRequest, PodSandboxConfig, ReopenContainerLogRequest,
    RunPodSandboxRequest, StreamContainersRequest,
};
use e2e::client::{CALL, Cri, Pod, container, refusal};
use e2e::fixtures::{self, DEMO, OWN_REGISTRY};
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::registry::Registry;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status};

/// How long a client waits for each RPC, in milliseconds.
const PATIENCE: [u64; 8] = [0, 1, 3, 8, 20, 45, 90, 180];

/// How a client stops waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It resets the stream.
    Reset,
    /// Its deadline, which it sends along, passes.
    Deadline,
}

/// A client that waits for a while only.
#[derive(Clone, Copy, Debug)]
struct Hasty(Way, Duration);

impl Hasty {
    fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if self.0 == Way::Deadline {
            request.set_timeout(self.1);
        }
        request
    }

    /// The answer, if it came in time.
    async fn wait<T>(self, call: impl Future<Output = Result<T, Status>>) -> Option<T> {
        match self.0 {
            Way::Reset => timeout(self.1, call).await.ok().and_then(Result::ok),
            Way::Deadline => call.await.ok(),
        }
    }
}

async fn node_with_demo() -> Result<(Node, Cri)> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    node.import_demo()?;
    let cri = node.connect().await?;
    Ok((node, cri))
}

fn run_request(config: &PodSandboxConfig) -> RunPodSandboxRequest {
    RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() }
}

fn create_request(pod: &Pod, config: &ContainerConfig) -> CreateContainerRequest {
    CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(config.clone()),
        sandbox_config: Some(pod.config.clone()),
    }
}

/// The id that a repeated call gives, or that its refusal names: the answer to the first
/// one may have been under way already when its client left.
fn id_of(outcome: Result<String, Status>) -> Result<String> {
    match outcome {
        Ok(id) => Ok(id),
        Err(status) if status.code() == Code::AlreadyExists => {
            Ok(status.message().rsplit(' ').next().context("no id in the refusal")?.to_owned())
        }
        Err(status) => Err(status.into()),
    }
}

async fn until<F>(what: &str, mut is_so: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let deadline = Instant::now() + CALL;
    while !is_so().await? {
        if Instant::now() > deadline {
            bail!("{what}: still not so after {CALL:?}");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A pod's life; each RPC of it is given up once, then asked for again.
async fn hasty_life(node: &Node, cri: &mut Cri, hasty: Hasty) -> Result<()> {
    let config = node.pod("pod");
    let mut other = cri.clone();
    drop(hasty.wait(other.runtime.run_pod_sandbox(hasty.request(run_request(&config)))).await);
    let id = id_of(cri.run_pod(config.clone(), "").await.map(|pod| pod.id)).context("run pod")?;
    let pod = Pod { id, config };
    assert_eq!(cri.pods().await?.len(), 1);

    let sleeper = container("sleeper", DEMO, &["sleep", "1000"]);
    let request = hasty.request(create_request(&pod, &sleeper));
    drop(hasty.wait(other.runtime.create_container(request)).await);
    let id = id_of(cri.create(&pod, &sleeper).await).context("create")?;
    assert_eq!(cri.containers().await?.len(), 1);

    let _ = hasty.wait(other.start(&id)).await;
    match cri.start(&id).await {
        Ok(()) => {}
        // The first call's work goes on.
        Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}"),
    }
    until("running", || {
        let (mut cri, id) = (cri.clone(), id.clone());
        async move { Ok(cri.status(&id).await?.state() == ContainerState::ContainerRunning) }
    })
    .await?;
    hasty_reads(&mut other, &id, hasty).await;

    let command = ["sleep", "31415"].map(str::to_owned).to_vec();
    let exec = ExecSyncRequest { container_id: id.clone(), cmd: command, timeout: 0 };
    // This one never ends by itself.
    drop(timeout(CALL, Hasty(Way::Reset, hasty.1).wait(other.runtime.exec_sync(exec))).await?);
    until("the command is killed", || {
        let (mut cri, id) = (cri.clone(), id.clone());
        async move {
            let said = cri.exec(&id, &["ps", "-o", "args"]).await?;
            Ok(!String::from_utf8_lossy(&said.stdout).contains("31415"))
        }
    })
    .await?;

    let _ = hasty.wait(other.stop(&id, 0)).await;
    cri.stop(&id, 0).await.context("stop")?;
    assert_eq!(cri.status(&id).await?.state(), ContainerState::ContainerExited);
    let _ = hasty.wait(other.remove(&id)).await;
    cri.remove(&id).await.context("remove")?;
    assert!(cri.containers().await?.is_empty());
    let _ = hasty.wait(other.stop_pod(&pod.id)).await;
    cri.stop_pod(&pod.id).await.context("stop pod")?;
    let _ = hasty.wait(other.remove_pod(&pod.id)).await;
    cri.remove_pod(&pod.id).await.context("remove pod")?;
    assert!(cri.pods().await?.is_empty());
    Ok(())
}

/// What changes nothing, or changes the same however often.
async fn hasty_reads(cri: &mut Cri, id: &str, hasty: Hasty) {
    let reopen = ReopenContainerLogRequest { container_id: id.to_owned() };
    drop(hasty.wait(cri.runtime.reopen_container_log(hasty.request(reopen))).await);
    let stats = hasty.request(ListContainerStatsRequest::default());
    drop(hasty.wait(cri.runtime.list_container_stats(stats)).await);
    let list = hasty.request(StreamContainersRequest::default());
    drop(hasty.wait(cri.runtime.stream_containers(list)).await);
    let events = hasty.request(GetEventsRequest {});
    drop(hasty.wait(cri.runtime.get_container_events(events)).await);
    drop(hasty.wait(cri.containers()).await);
}

async fn every_rpc_may_be_given_up(way: Way) -> Result<()> {
    let (node, mut cri) = node_with_demo().await?;
    hasty_life(&node, &mut cri, Hasty(Way::Reset, CALL.min(Duration::from_secs(2)))).await?;
    let daemon = node.daemon().context("the daemon does not run")?;
    let before = node.holdings()?;
    let descriptors = host::descriptors(daemon)?;
    for patience in PATIENCE {
        let hasty = Hasty(way, Duration::from_millis(patience));
        let lived = hasty_life(&node, &mut cri, hasty).await;
        lived.with_context(|| format!("{way:?} after {patience} ms\n{}", node.end_of_log()))?;
    }
    node.expect_no_more_than(&before).await?;
    until("descriptors are closed", || async { Ok(host::descriptors(daemon)? <= descriptors + 4) })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_every_rpc_may_be_given_up_by_a_reset() -> Result<()> {
    every_rpc_may_be_given_up(Way::Reset).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_every_rpc_may_be_given_up_by_a_deadline() -> Result<()> {
    every_rpc_may_be_given_up(Way::Deadline).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_pulls_may_be_given_up() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let mut registry = Registry::start(&directory.path().join("registry"))?;
    registry.push("demo", &["1"], &fixtures::busybox()?)?;
    let hosts = directory.path().join("hosts");
    registry.write_hosts(&hosts, &[OWN_REGISTRY])?;
    let node = Node::start(Settings { hosts_dir: Some(hosts), ..Settings::default() }).await?;
    let mut cri = node.connect().await?;
    let name = format!("{OWN_REGISTRY}/demo:1");
    for patience in PATIENCE {
        let hasty = Hasty(Way::Reset, Duration::from_millis(patience));
        drop(hasty.wait(cri.clone().pull(&name)).await);
        let id = cri.pull(&name).await.with_context(|| format!("after {patience} ms"))?;
        assert_eq!(cri.image(&name).await?.context("it is here")?.id, id);
        let image = Some(cri_api::v1::ImageSpec { image: id, ..Default::default() });
        let request = cri_api::v1::RemoveImageRequest { image };
        drop(hasty.wait(cri.clone().images.remove_image(request.clone())).await);
        cri.images.remove_image(request).await?;
        assert_eq!(cri.image(&name).await?, None);
    }
    Ok(())
}

/// A node whose pods become ready, or fail, when a file is there.
struct Gate {
    node: Node,
    gate: PathBuf,
}

impl Gate {
    async fn start(directory: &Path, exit_code: u8) -> Result<Self> {
        host::require_root()?;
        let (conf, plugins) = (directory.join("conf"), directory.join("plugins"));
        fs::create_dir_all(&conf)?;
        fs::create_dir_all(&plugins)?;
        let gate = directory.join("gate");
        let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.9.9.2/24" }],
            "code": 101, "msg": "the gate fell" });
        let script = format!(
            "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\nuntil [ -e {} ]; do sleep 0.05; done\n\
             echo '{result}'\nexit {exit_code}\n",
            gate.display()
        );
        fs::write(plugins.join("gate"), script)?;
        fs::set_permissions(plugins.join("gate"), fs::Permissions::from_mode(0o755))?;
        let list = json!({ "cniVersion": "1.0.0", "name": "g", "plugins": [{ "type": "gate" }] });
        fs::write(conf.join("10-gate.conflist"), serde_json::to_vec(&list)?)?;
        let settings =
            Settings { conf_dir: Some(conf), plugin_dir: Some(plugins), ..Settings::default() };
        Ok(Self { node: Node::start(settings).await?, gate })
    }

    /// Asks in vain with a deadline of a millisecond, then eight times with patience,
    /// opens the gate, and says what the patient are answered.
    async fn ask(&self, config: &PodSandboxConfig) -> Result<Vec<Result<String, Status>>> {
        let mut cri = self.node.connect().await?;
        let hasty = Hasty(Way::Deadline, Duration::from_millis(1));
        let first = hasty.wait(cri.runtime.run_pod_sandbox(hasty.request(run_request(config))));
        assert!(first.await.is_none(), "the gate is closed");
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (mut cri, config) = (cri.clone(), config.clone());
            asking.spawn(async move { cri.run_pod(config, "").await.map(|pod| pod.id) });
        }
        // A different pod of this name is refused at once, though the gate is closed.
        let mut different = config.clone();
        different.labels.insert("other".into(), "yes".into());
        let status = refusal(cri.run_pod(different, "").await)?;
        assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
        assert!(cri.pods().await?.is_empty(), "nothing is ready");
        // The eight were sent before, over one connection.
        sleep(Duration::from_millis(200)).await;
        fs::write(&self.gate, "")?;
        Ok(asking.join_all().await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_who_asks_again_for_a_pod_in_the_making_joins() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gate = Gate::start(directory.path(), 0).await?;
    let config = gate.node.pod("pod");
    let answers = gate.ask(&config).await?;
    let mut cri = gate.node.connect().await?;
    let listed: Vec<_> = cri.pods().await?.into_iter().map(|pod| pod.id).collect();
    assert_eq!(listed.len(), 1);
    for answer in answers {
        assert_eq!(answer.as_ref().ok(), listed.first(), "{answer:?}");
    }
    // It is theirs now.
    let status = refusal(cri.run_pod(config, "").await)?;
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().ends_with(&listed[0]), "{status:?}");
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_who_asks_again_for_a_pod_that_fails_shares_the_failure() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gate = Gate::start(directory.path(), 1).await?;
    let before = gate.node.holdings()?;
    for answer in gate.ask(&gate.node.pod("pod")).await? {
        let status = refusal(answer)?;
        assert!(status.message().contains("the gate fell"), "{status:?}");
    }
    assert!(gate.node.connect().await?.pods().await?.is_empty());
    gate.node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_id_that_nobody_got_is_given_to_who_asks_again() -> Result<()> {
    let (mut node, mut cri) = node_with_demo().await?;
    let hasty = Hasty(Way::Deadline, Duration::from_millis(1));
    let config = node.pod("pod");
    let first = hasty.wait(cri.runtime.run_pod_sandbox(hasty.request(run_request(&config))));
    assert!(first.await.is_none(), "a pod in a millisecond");
    let listed = async |cri: &mut Cri| -> Result<String> {
        let deadline = Instant::now() + CALL;
        loop {
            if let Some(pod) = cri.pods().await?.pop() {
                return Ok(pod.id);
            }
            // The call may not have begun in its millisecond.
            if Instant::now() > deadline {
                bail!("the pod does not appear");
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let id = match timeout(Duration::from_secs(5), listed(&mut cri)).await {
        Ok(id) => Some(id?),
        Err(_elapsed) => None,
    };
    let pod = cri.run_pod(config.clone(), "").await?;
    assert_eq!(id.unwrap_or_else(|| pod.id.clone()), pod.id);
    assert_taken(cri.run_pod(config.clone(), "").await.map(|pod| pod.id), &pod.id)?;

    let mut sleeper = container("sleeper", DEMO, &["sleep", "1000"]);
    sleeper.envs = [("A", "1"), ("B", "2")].map(env).to_vec();
    let request = hasty.request(create_request(&pod, &sleeper));
    assert!(hasty.wait(cri.runtime.create_container(request)).await.is_none());
    let mut different = sleeper.clone();
    different.command = vec!["true".into()];
    let wait = timeout(Duration::from_secs(5), async {
        while cri.clone().containers().await?.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    });
    if wait.await.is_ok() {
        let id = cri.containers().await?[0].id.clone();
        assert_taken(cri.create(&pod, &different).await, &id)?;
    }
    // The kubelet's variables come in another order each time.
    sleeper.envs.reverse();
    let id = cri.create(&pod, &sleeper).await?;
    assert_taken(cri.create(&pod, &sleeper).await, &id)?;

    // A daemon does not know what its predecessor gave to whom; use proves it.
    let second = container("second", DEMO, &["sleep", "1000"]);
    let created = cri.create(&pod, &second).await?;
    cri.start(&id).await?;
    node.kill()?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    assert_eq!(cri.create(&pod, &second).await?, created);
    assert_taken(cri.create(&pod, &second).await, &created)?;
    assert_taken(cri.create(&pod, &sleeper).await, &id)?;
    assert_taken(cri.run_pod(config, "").await.map(|pod| pod.id), &pod.id)?;
    cri.remove_all().await?;
    Ok(())
}

fn env((key, value): (&str, &str)) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

/// The refusal of a name that is taken, which says by whom.
fn assert_taken(outcome: Result<String, Status>, by: &str) -> Result<()> {
    let status = refusal(outcome)?;
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert!(status.message().ends_with(by), "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_of_many_who_ask_at_once_all_get_one_container() -> Result<()> {
    let (node, mut cri) = node_with_demo().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    for round in 0..5 {
        let config = container(&format!("c-{round}"), DEMO, &["sleep", "1000"]);
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (mut cri, pod, config) = (cri.clone(), pod.clone(), config.clone());
            asking.spawn(async move { cri.create(&pod, &config).await });
        }
        let answers = asking.join_all().await;
        let given = answers.iter().filter(|answer| answer.is_ok()).count();
        let ids: std::collections::BTreeSet<_> =
            answers.into_iter().map(id_of).collect::<Result<_>>()?;
        assert!(given >= 1 && ids.len() == 1, "{ids:?}");
        assert_eq!(cri.containers().await?.len(), round + 1);
    }
    cri.remove_all().await?;
    Ok(())
}
