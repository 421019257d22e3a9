//! `ExecSync` at its bounds, by each runtime: much output, programs that stay, programs that
//! are killed with what they started.

use std::time::Duration;

use anyhow::{Context, Result};
use cri_api::v1::{
    ContainerConfig, ContainerState, ExecSyncRequest, ExecSyncResponse, NamespaceMode,
};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::{oci_runtime, runc};
use tonic::{Code, Status};

/// What clients of CRI accept in one message.
const MESSAGE: usize = 16 << 20;

async fn exec(cri: &Cri, id: &str, script: &str, timeout: i64) -> Result<ExecSyncResponse, Status> {
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
    let mut runtime = cri.runtime.clone().max_decoding_message_size(MESSAGE);
    Ok(runtime.exec_sync(request).await?.into_inner())
}

fn sleeper(mode: NamespaceMode) -> ContainerConfig {
    let mut config = container(mode.as_str_name(), DEMO, &["sleep", "1000"]);
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = mode.into();
    config
}

/// What else than its first process and the question itself runs in a container.
async fn others(cri: &Cri, id: &str) -> Result<String> {
    let said = exec(cri, id, "ps -o args | grep -E 'sleep [0-9]' | grep -v grep", 0).await?;
    let lines = String::from_utf8(said.stdout)?;
    Ok(lines.lines().filter(|line| line.trim() != "sleep 1000").collect::<Vec<_>>().join("; "))
}

async fn nothing_else_runs(cri: &Cri, id: &str, when: &str) -> Result<()> {
    for _ in 0..500 {
        if others(cri, id).await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{when}: {}", others(cri, id).await?)
}

async fn holds(cri: &mut Cri, pod: &Pod) -> Result<()> {
    let id = cri.launch(pod, &sleeper(NamespaceMode::Container)).await?;

    // Both outputs together fit into a message, and the program goes on to its end.
    let much = "head -c 12000000 /dev/zero; head -c 12000000 /dev/zero >&2; exit 5";
    let said = exec(cri, &id, much, 0).await?;
    let length = said.stdout.len() + said.stderr.len();
    assert_eq!(said.exit_code, 5);
    assert!(length < MESSAGE && length > MESSAGE - (1 << 20), "{length}");

    // Who is left behind with the pipes in hand holds nobody up.
    let said = exec(cri, &id, "sleep 1001 & echo $!; exit 6", 0).await?;
    assert_eq!(said.exit_code, 6);
    assert_eq!(others(cri, &id).await?.trim(), "sleep 1001", "it was not asked to be killed");
    let kill = format!("kill {}", String::from_utf8(said.stdout)?.trim());
    assert_eq!(exec(cri, &id, &kill, 0).await?.exit_code, 0);
    nothing_else_runs(cri, &id, "after a kill").await?;

    // A timeout is the end of the program and of its children, jobs of their own included.
    let late = exec(cri, &id, "set -m; sleep 1002 & sleep 1003 & sleep 1004; true", 1).await;
    assert_eq!(refusal(late)?.code(), Code::DeadlineExceeded);
    nothing_else_runs(cri, &id, "after a timeout").await?;

    // So is a client that goes away.
    let call = exec(cri, &id, "sleep 1005 & sleep 1006; true", 0);
    let gone = tokio::time::timeout(Duration::from_millis(300), call).await;
    assert!(gone.is_err(), "{gone:?}");
    nothing_else_runs(cri, &id, "after its client left").await?;
    cri.remove(&id).await?;
    Ok(())
}

/// A stopped container's execs end with it, in whichever PID namespace.
async fn ends_with_its_container(cri: &mut Cri, pod: &Pod, mode: NamespaceMode) -> Result<()> {
    let id = cri.launch(pod, &sleeper(mode)).await?;
    let (other, container) = (cri.clone(), id.clone());
    let running = tokio::spawn(async move {
        exec(&other, &container, "touch /tmp/begun; sleep 2001 & sleep 2002; true", 0).await
    });
    while exec(cri, &id, "test -e /tmp/begun", 0).await?.exit_code != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cri.stop(&id, 0).await?;
    assert_eq!(cri.status(&id).await?.state(), ContainerState::ContainerExited);
    let ended = tokio::time::timeout(e2e::client::CALL, running).await;
    let ended = ended.context("the exec outlives its container")??;
    assert_eq!(ended?.exit_code, 137, "{mode:?}");
    let refused = refusal(exec(cri, &id, "true", 0).await)?;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    cri.remove(&id).await?;
    Ok(())
}

async fn all(handler: &str, more: String) -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    let before = node.holdings()?;
    let mut config = node.pod("pod");
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = NamespaceMode::Node.into();
    let pod = cri.run_pod(config, handler).await?;
    holds(&mut cri, &pod).await.context("bounds")?;
    for mode in [NamespaceMode::Container, NamespaceMode::Node] {
        ends_with_its_container(&mut cri, &pod, mode).await?;
    }
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_exec_sync_keeps_its_bounds() -> Result<()> {
    all("", String::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_exec_sync_keeps_its_bounds_by_crun() -> Result<()> {
    let program = oci_runtime("crun").context("no crun: hack/test installs it")?;
    all("crun", format!("[runtimes.crun]\npath = \"{}\"\n", program.display())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_exec_sync_keeps_its_bounds_by_runc() -> Result<()> {
    let program = runc().context("no runc: set ORLOP_RUNC, as hack/test does")?;
    all("runc", format!("[runtimes.runc]\npath = \"{}\"\n", program.display())).await
}

fn on_processors(name: &str, cpus: &str) -> ContainerConfig {
    let mut config = container(name, DEMO, &["sleep", "1000"]);
    let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
    resources.cpuset_cpus = cpus.to_owned();
    config
}

/// What a command in a container may run on.
async fn processors(cri: &Cri, id: &str) -> Result<String> {
    let said = exec(cri, id, "grep Cpus_allowed_list /proc/self/status", 0).await?;
    let said = String::from_utf8(said.stdout)?;
    Ok(said.trim().rsplit_once('\t').context("no list")?.1.to_owned())
}

/// What an external runtime is told of where commands begin.
fn told(node: &Node, id: &str) -> Result<serde_json::Value> {
    let paths = host::paths_below(&node.state())?;
    let mut paths = paths.iter().filter(|path| path.ends_with(format!("{id}/config.json")));
    let path = paths.next().context("no config.json")?;
    let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(spec["process"]["execCPUAffinity"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_commands_begin_where_the_handler_says() -> Result<()> {
    host::require_root()?;
    let crun = oci_runtime("crun").context("no crun: hack/test installs it")?;
    let path = crun.display();
    let more = format!(
        "[pods]\nexec_cpu_affinity = \"first\"\n[runtimes.any]\npath = \"{path}\"\n\
         [runtimes.first]\npath = \"{path}\"\nexec_cpu_affinity = \"first\"\n"
    );
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    // They end on all processors of the container, whichever one they began on.
    let pod = cri.run_pod(node.pod("built-in"), "").await?;
    for cpus in ["0", "1", "0-1"] {
        let id = cri.launch(&pod, &on_processors(cpus, cpus)).await?;
        assert_eq!(processors(&cri, &id).await?, cpus);
    }
    // Each handler has a word of its own.
    for (handler, cpus, begin) in [
        ("first", "1", serde_json::json!({ "initial": "1" })),
        ("first", "0-1", serde_json::json!({ "initial": "0" })),
        ("first", "", serde_json::Value::Null),
        ("any", "1", serde_json::Value::Null),
    ] {
        let name = format!("{handler}-{cpus}");
        let pod = cri.run_pod(node.pod(&name), handler).await?;
        let id = cri.launch(&pod, &on_processors(&name, cpus)).await?;
        assert_eq!(told(&node, &id)?, begin, "{name}");
    }
    cri.remove_all().await?;
    Ok(())
}
