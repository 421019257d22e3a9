//! RPCs about what is there, or is not: by id, by state, by filter.

use anyhow::{Context, Result};
use cri_api::v1::*;
use e2e::client::{Cri, container};
use e2e::fixtures::DEMO;

use super::{Scene, Table};

/// An id that nothing has, and one that nothing can have.
const STRANGERS: [(&str, &str); 4] =
    [("no id", ""), ("unknown id", "f00f00"), ("odd id", "../\0\n"), ("long id", LONG)];

const LONG: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0";

pub(super) async fn mistakes(scene: &mut Scene, table: &mut Table) -> Result<()> {
    for (cause, id) in STRANGERS {
        of_pods(&mut scene.cri, table, cause, id).await;
        of_containers(&mut scene.cri, table, cause, id).await;
    }
    ambiguous(scene, table).await?;
    states(scene, table).await;
    commands(scene, table).await;
    attachments(scene, table).await?;
    filters(&mut scene.cri, table).await;
    checkpoints(scene, table).await;
    restores(scene, table).await;
    Ok(())
}

async fn of_pods(cri: &mut Cri, table: &mut Table, cause: &str, id: &str) {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    table.add("PodSandboxStatus", cause, cri.runtime.pod_sandbox_status(request).await);
    let request = PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
    table.add("PodSandboxStats", cause, cri.runtime.pod_sandbox_stats(request).await);
    let request = PortForwardRequest { pod_sandbox_id: id.to_owned(), port: vec![80] };
    table.add("PortForward", cause, cri.runtime.port_forward(request).await);
    table.add("StopPodSandbox", cause, cri.stop_pod(id).await);
    table.add("RemovePodSandbox", cause, cri.remove_pod(id).await);
    let request =
        UpdatePodSandboxResourcesRequest { pod_sandbox_id: id.to_owned(), ..Default::default() };
    let outcome = cri.runtime.update_pod_sandbox_resources(request).await;
    table.add("UpdatePodSandboxResources", cause, outcome);
    let request = CreateContainerRequest {
        pod_sandbox_id: id.to_owned(),
        config: Some(container("c", DEMO, &["true"])),
        sandbox_config: None,
    };
    table.add("CreateContainer", cause, cri.runtime.create_container(request).await);
}

async fn of_containers(cri: &mut Cri, table: &mut Table, cause: &str, id: &str) {
    let container_id = id.to_owned();
    let request = ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
    table.add("ContainerStatus", cause, cri.runtime.container_status(request).await);
    table.add("StartContainer", cause, cri.start(id).await);
    table.add("StopContainer", cause, cri.stop(id, 0).await);
    table.add("RemoveContainer", cause, cri.remove(id).await);
    table.add("ExecSync", cause, cri.exec(id, &["true"]).await);
    let request = ReopenContainerLogRequest { container_id: container_id.clone() };
    table.add("ReopenContainerLog", cause, cri.runtime.reopen_container_log(request).await);
    let request = ContainerStatsRequest { container_id: container_id.clone() };
    table.add("ContainerStats", cause, cri.runtime.container_stats(request).await);
    let cmd = vec!["true".to_owned()];
    let request =
        ExecRequest { container_id: container_id.clone(), cmd, stdout: true, ..Default::default() };
    table.add("Exec", cause, cri.runtime.exec(request).await);
    let request =
        AttachRequest { container_id: container_id.clone(), stdout: true, ..Default::default() };
    table.add("Attach", cause, cri.runtime.attach(request).await);
    let linux = Some(LinuxContainerResources::default());
    let request = UpdateContainerResourcesRequest { container_id, linux, ..Default::default() };
    let outcome = cri.runtime.update_container_resources(request).await;
    table.add("UpdateContainerResources", cause, outcome);
}

/// The letter that two of these ids begin with.
fn shared<'a>(ids: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut letters: Vec<_> = ids.filter_map(|id| id.get(..1)).collect();
    letters.sort_unstable();
    letters.windows(2).find(|two| two[0] == two[1]).map(|two| two[0].to_owned())
}

/// Things are made until two ids begin alike, seventeen at the most.
async fn ambiguous(scene: &mut Scene, table: &mut Table) -> Result<()> {
    let mut made = Vec::new();
    let mut ids = vec![scene.created.clone()];
    while shared(ids.iter()).is_none() {
        let config = container(&format!("many-{}", ids.len()), DEMO, &["true"]);
        let id = scene.cri.create(&scene.pod, &config).await?;
        made.push(id.clone());
        ids.push(id);
    }
    let start = shared(ids.iter()).context("no two ids begin alike")?;
    table.names.push((format!(": {start} is"), ": <start> is".into()));
    of_containers(&mut scene.cri, table, "ambiguous id", &start).await;
    table.names.pop();
    for id in made {
        scene.cri.remove(&id).await?;
    }
    let mut pods = Vec::new();
    let mut ids = vec![scene.pod.id.clone()];
    while shared(ids.iter()).is_none() {
        let pod = scene.cri.run_pod(scene.node.pod(&format!("many-{}", ids.len())), "").await?;
        pods.push(pod.id.clone());
        ids.push(pod.id);
    }
    let start = shared(ids.iter()).context("no two ids begin alike")?;
    table.names.push((format!(": {start} is"), ": <start> is".into()));
    of_pods(&mut scene.cri, table, "ambiguous id", &start).await;
    table.names.pop();
    for id in pods {
        scene.cri.remove_pod(&id).await?;
    }
    Ok(())
}

/// What is there, but not in a state for this.
async fn states(scene: &mut Scene, table: &mut Table) {
    let Scene { cri, created, running, exited, stopped, .. } = scene;
    table.add("StartContainer", "running", cri.start(running).await);
    table.add("StartContainer", "exited", cri.start(exited).await);
    table.add("StopContainer", "created", cri.stop(created, 0).await);
    table.add("StopContainer", "exited", cri.stop(exited, 0).await);
    table.add("StopContainer", "a negative grace period", cri.stop(running, -1).await);
    let request = PodSandboxStatsRequest { pod_sandbox_id: stopped.id.clone() };
    table.add("PodSandboxStats", "stopped", cri.runtime.pod_sandbox_stats(request).await);
    table.add("StopPodSandbox", "stopped", cri.stop_pod(&stopped.id).await);
    for (cause, id) in [("created", &*created), ("exited", &*exited)] {
        table.add("ExecSync", cause, cri.exec(id, &["true"]).await);
        let request = ReopenContainerLogRequest { container_id: id.clone() };
        table.add("ReopenContainerLog", cause, cri.runtime.reopen_container_log(request).await);
        let request = ContainerStatsRequest { container_id: id.clone() };
        table.add("ContainerStats", cause, cri.runtime.container_stats(request).await);
    }
}

async fn commands(scene: &mut Scene, table: &mut Table) {
    let Scene { cri, running, .. } = scene;
    for (cause, words, timeout) in [
        ("no command", &[][..], 5),
        ("an empty word", &[""], 5),
        ("NUL in a word", &["echo", "a\0b"], 5),
        ("a negative limit", &["true"], -1),
        ("program not there", &["/no/such/program"], 5),
        ("program no program", &["/etc/passwd"], 5),
        ("longer than its limit", &["sleep", "1000"], 1),
    ] {
        let request = ExecSyncRequest {
            container_id: running.clone(),
            cmd: words.iter().map(|&word| word.to_owned()).collect(),
            timeout,
        };
        table.add("ExecSync", cause, cri.runtime.exec_sync(request).await);
    }
}

/// The scene's running container has no terminal.
async fn attachments(scene: &mut Scene, table: &mut Table) -> Result<()> {
    let Scene { cri, pod, running, .. } = scene;
    let attach = |id: &str, tty, stderr| {
        let container_id = id.to_owned();
        AttachRequest { container_id, tty, stdout: true, stderr, ..Default::default() }
    };
    for (cause, tty, stderr) in
        [("a terminal that it lacks", true, false), ("a terminal and errors", true, true)]
    {
        table.add("Attach", cause, cri.runtime.attach(attach(running, tty, stderr)).await);
    }
    let mut config = container("with-terminal", DEMO, &["sleep", "1000"]);
    config.tty = true;
    let id = cri.launch(pod, &config).await?;
    table.name(&id, "on terminal");
    let outcome = cri.runtime.attach(attach(&id, false, false)).await;
    table.add("Attach", "no terminal where one is", outcome);
    let outcome = cri.runtime.attach(attach(&id, true, false)).await;
    table.add("Attach", "as it is", outcome);
    table.names.pop();
    cri.remove(&id).await?;
    Ok(())
}

async fn filters(cri: &mut Cri, table: &mut Table) {
    let state = Some(PodSandboxStateValue { state: 99 });
    let filter = Some(PodSandboxFilter { state, ..Default::default() });
    let request = ListPodSandboxRequest { filter: filter.clone() };
    table.add("ListPodSandbox", "state 99", cri.runtime.list_pod_sandbox(request).await);
    let request = StreamPodSandboxesRequest { filter };
    table.add("StreamPodSandboxes", "state 99", cri.runtime.stream_pod_sandboxes(request).await);
    let state = Some(ContainerStateValue { state: 99 });
    let filter = Some(ContainerFilter { state, ..Default::default() });
    let request = ListContainersRequest { filter: filter.clone() };
    table.add("ListContainers", "state 99", cri.runtime.list_containers(request).await);
    let request = StreamContainersRequest { filter };
    table.add("StreamContainers", "state 99", cri.runtime.stream_containers(request).await);
    let filter = Some(ContainerFilter { id: "no\nid".into(), ..Default::default() });
    let request = ListContainersRequest { filter };
    table.add("ListContainers", "no such id", cri.runtime.list_containers(request).await);
}

/// The machine has no criu as far as this daemon can see.
async fn checkpoints(scene: &mut Scene, table: &mut Table) {
    let somewhere = scene.node.directory().join("no-cni").to_string_lossy().into_owned();
    let archive = format!("{somewhere}/archive.tar");
    let (running, created, exited) = (&scene.running, &scene.created, &scene.exited);
    for (cause, id, location, timeout) in [
        ("no id", "", archive.as_str(), 0),
        ("unknown id", "f00f00", archive.as_str(), 0),
        ("no location", running, "", 0),
        ("relative location", running, "archive.tar", 0),
        ("location is a directory", running, somewhere.as_str(), 0),
        ("negative timeout", running, archive.as_str(), -1),
        ("created", created, archive.as_str(), 0),
        ("exited", exited, archive.as_str(), 0),
        ("no criu", running, archive.as_str(), 0),
    ] {
        let request = CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.to_owned(),
            timeout,
        };
        let outcome = scene.cri.runtime.checkpoint_container(request).await;
        table.add("CheckpointContainer", cause, outcome);
    }
    let full = scene.node.directory().to_string_lossy().into_owned();
    let (pod, stopped) = (&scene.pod.id, &scene.stopped.id);
    for (cause, id, output, containers, option) in [
        ("no id", "", &somewhere, vec![running], None),
        ("unknown id", "f00f00", &somewhere, vec![running], None),
        ("stopped", stopped, &somewhere, vec![], None),
        ("no containers", pod, &somewhere, vec![], None),
        ("a container twice", pod, &somewhere, vec![running, running], None),
        ("a created container", pod, &somewhere, vec![running, created], None),
        ("an exited container", pod, &somewhere, vec![exited], None),
        ("an unknown option", pod, &somewhere, vec![running], Some("fast")),
        ("output not empty", pod, &full, vec![running], None),
        ("no criu", pod, &somewhere, vec![running], None),
    ] {
        let options = option.into_iter().map(|name: &str| (name.to_owned(), String::new()));
        let request = CheckpointPodRequest {
            pod_sandbox_id: id.to_owned(),
            output_path: output.clone(),
            container_ids: containers.into_iter().cloned().collect(),
            options: options.collect(),
        };
        let outcome = scene.cri.runtime.checkpoint_pod(request).await;
        table.add("CheckpointPod", cause, outcome);
    }
}

/// What is wrong with a checkpoint is tried in `restore.rs`.
async fn restores(scene: &mut Scene, table: &mut Table) {
    let config = Some(scene.node.pod("restored"));
    let whole = RestorePodRequest {
        checkpoint_path: "/nonexistent".to_owned(),
        config,
        ..Default::default()
    };
    let no_path = RestorePodRequest { checkpoint_path: String::new(), ..whole.clone() };
    let no_config = RestorePodRequest { config: None, ..whole.clone() };
    let unknown = [("fast".to_owned(), "yes".to_owned())].into();
    let option = RestorePodRequest { options: unknown, ..whole.clone() };
    let handler = RestorePodRequest { runtime_handler: "none".to_owned(), ..whole.clone() };
    let unnamed =
        RestorePodRequest { container_configs: vec![Default::default()], ..whole.clone() };
    for (cause, request) in [
        ("no path", no_path),
        ("no config", no_config),
        ("an unknown option", option),
        ("an unknown handler", handler),
        ("a container without a name", unnamed),
        ("no criu", whole),
    ] {
        let outcome = scene.cri.runtime.restore_pod(request).await;
        table.add("RestorePod", cause, outcome);
    }
}
