//! Checkpoints by the real criu: what is written, who is refused, and that a container runs on
//! whatever happens to criu, to the daemon and to whoever asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::{
    CheckpointContainerRequest, CheckpointContainerResponse, CheckpointPodRequest, ContainerConfig,
    ContainerState, IdMapping, Mount, NamespaceMode, UserNamespace,
};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::crictl::Crictl;
use e2e::fixtures::DEMO;
use e2e::host::{self, SmallDisk, processes_marked};
use e2e::node::{Node, Settings};
use e2e::programs::{criu, runc};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::{Code, Response, Status};

/// How long a container that was let go may take until it counts on.
const SOON: Duration = Duration::from_secs(20);

/// What a checkpoint of a container has at least.
const MEMBERS: [&str; 7] = [
    "checkpoint/inventory.img",
    "checkpoint/descriptors.json",
    "config.dump",
    "dump.log",
    "rootfs-diff.tar",
    "spec.dump",
    "stats-dump",
];

/// A checkpoint that somebody waits for.
type Asked = tokio::task::JoinHandle<Result<Response<CheckpointContainerResponse>, Status>>;

/// A node with one pod, whose criu is `criu`.
struct Scene {
    node: Node,
    cri: Cri,
    pod: Pod,
    /// Where checkpoints are asked for.
    output: TempDir,
}

impl Scene {
    async fn set(criu: &Path, more: &str) -> Result<Self> {
        host::require_root()?;
        let more = format!("[pods]\ncriu = \"{}\"\n{more}", criu.display());
        let node = Node::start(Settings { more, ..Settings::default() }).await?;
        node.import_demo()?;
        let mut cri = node.connect().await?;
        let pod = cri.run_pod(node.pod("pod"), "").await?;
        let output = tempfile::Builder::new().prefix("orlop-e2e-checkpoint-").tempdir()?;
        Ok(Self { node, cri, pod, output })
    }

    fn location(&self) -> PathBuf {
        self.output.path().join("archive.tar")
    }

    async fn checkpoint(&mut self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: self.location().to_string_lossy().into_owned(),
            timeout,
        };
        self.cri.runtime.checkpoint_container(request).await.map(drop)
    }

    /// Asks for a checkpoint that hangs, and waits until it does.
    async fn begin_checkpoint(&self, id: &str, criu: &Path) -> Result<Asked> {
        let mut cri = self.cri.clone();
        let request = CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: self.location().to_string_lossy().into_owned(),
            timeout: 0,
        };
        let asked = tokio::spawn(async move { cri.runtime.checkpoint_container(request).await });
        let deadline = Instant::now() + SOON;
        while !criu.join("hangs").exists() {
            if Instant::now() > deadline {
                bail!("criu was not started:\n{}", self.node.end_of_log());
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert!(self.has_output()?, "it is not in the middle of it");
        assert!(!self.location().exists(), "it is not finished");
        Ok(asked)
    }

    async fn checkpoint_pod(&mut self, ids: &[&str]) -> Result<(), Status> {
        let request = self.of_pod(ids);
        self.cri.runtime.checkpoint_pod(request).await.map(drop)
    }

    fn of_pod(&self, ids: &[&str]) -> CheckpointPodRequest {
        CheckpointPodRequest {
            pod_sandbox_id: self.pod.id.clone(),
            output_path: self.output.path().to_string_lossy().into_owned(),
            container_ids: ids.iter().map(|&id| id.to_owned()).collect(),
            ..Default::default()
        }
    }

    fn expect_no_output(&self) -> Result<()> {
        let found = host::paths_below(self.output.path())?;
        assert!(found.is_empty(), "left: {found:?}");
        let records = host::paths_below(&self.node.root().join("checkpoints"))?;
        assert!(records.is_empty(), "left: {records:?}");
        Ok(())
    }

    fn has_output(&self) -> Result<bool> {
        let records = host::paths_below(&self.node.root().join("checkpoints"))?;
        Ok(!records.is_empty() || !host::paths_below(self.output.path())?.is_empty())
    }

    /// Waits until what is unfinished is gone.
    async fn wait_no_output(&self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while self.has_output()? && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        self.expect_no_output()
    }

    /// The last number that a container has logged.
    fn count(&self, config: &ContainerConfig) -> Result<u64> {
        let log = fs::read_to_string(self.pod.log_path(config)).unwrap_or_default();
        let last = log.lines().rev().find_map(|line| line.rsplit_once(' ')?.1.parse().ok());
        Ok(last.unwrap_or(0))
    }

    /// Waits until a container counts on from wherever it is, by one.
    async fn expect_counting(&self, config: &ContainerConfig) -> Result<()> {
        let (from, deadline) = (self.count(config)?, Instant::now() + SOON);
        while self.count(config)? < from + 2 {
            if Instant::now() > deadline {
                bail!("it does not count on from {from}:\n{}", self.node.end_of_log());
            }
            sleep(Duration::from_millis(20)).await;
        }
        let log = fs::read_to_string(self.pod.log_path(config))?;
        let counted = log.lines().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        assert!(counted.zip(1..).all(|(number, expected)| number == expected), "{log}");
        Ok(())
    }
}

/// Counts into its log, a child of it at each step.
fn counter(name: &str) -> ContainerConfig {
    let script = "echo kept > /written; rm /etc/passwd; i=0; \
                  while :; do i=$((i+1)); echo $i; /bin/sleep 0.05; done";
    container(name, DEMO, &["sh", "-c", script])
}

/// A program in `directory` that does `script` when it is to dump, and what the real criu
/// does otherwise, which is `$criu`.
fn wrapper(directory: &Path, script: &str) -> Result<PathBuf> {
    let path = directory.join("criu");
    let real = real_criu()?;
    let text = format!(
        "#!/bin/sh\ncriu={}\n[ \"$1\" = dump ] || exec $criu \"$@\"\n{script}\n",
        real.display()
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A program that begins to dump and never ends; it makes the file `hangs` then, and has the
/// directory's name in its environment.
fn hanging(directory: &Path) -> Result<PathBuf> {
    let hangs = directory.join("hangs");
    let mark = format!("exec env DIRECTORY={} sleep 1000", directory.display());
    wrapper(directory, &format!("echo x > {}; {mark}", hangs.display()))
}

fn real_criu() -> Result<PathBuf> {
    criu().context("no criu: set ORLOP_CRIU, as hack/test does")
}

/// Waits until no process has a directory in its command line or environment.
async fn wait_no_process(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let left = processes_marked(&[&directory.to_string_lossy()])?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes are left: {left:?}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The files of an archive and their content.
fn members(archive: impl std::io::Read) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        found.insert(name, content);
    }
    Ok(found)
}

/// Whether the files of one container's checkpoint say what it was.
fn expect_whole(files: &BTreeMap<String, Vec<u8>>, id: &str) -> Result<()> {
    for name in MEMBERS {
        assert!(files.contains_key(name), "no {name} in {:?}", files.keys());
    }
    let spec: serde_json::Value = serde_json::from_slice(&files["spec.dump"])?;
    assert_eq!(spec["process"]["args"][0], "sh");
    let config: serde_json::Value = serde_json::from_slice(&files["config.dump"])?;
    assert_eq!(config["id"], id);
    assert_eq!(config["rootfsImageName"], DEMO);
    let written = members(files["rootfs-diff.tar"].as_slice())?;
    assert_eq!(written["written"], b"kept\n");
    assert!(written.contains_key("etc/.wh.passwd"), "{:?}", written.keys());
    Ok(())
}

/// What is in a directory, by name.
fn names(directory: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_runs_on_beside_its_archive() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let volume = tempfile::tempdir()?;
    let mut config = counter("counter");
    config.mounts.push(Mount {
        container_path: "/with space".to_owned(),
        host_path: volume.path().to_string_lossy().into_owned(),
        ..Default::default()
    });
    let id = scene.cri.launch(&scene.pod, &config).await?;
    scene.expect_counting(&config).await?;
    let before = scene.node.holdings()?;
    // Another one takes the place of the first.
    for _ in 0..2 {
        scene.checkpoint(&id, 0).await?;
        scene.expect_counting(&config).await?;
        assert_eq!(names(scene.output.path())?, ["archive.tar".to_owned()].into());
        let mode = fs::metadata(scene.location())?.permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        expect_whole(&members(File::open(scene.location())?)?, &id)?;
    }
    fs::remove_file(scene.location())?;
    let export = format!("checkpoint --export={} {id}", scene.location().display());
    Crictl::new(&scene.node)?.run(&export)?;
    expect_whole(&members(File::open(scene.location())?)?, &id)?;
    scene.expect_counting(&config).await?;
    let deadline = Instant::now() + SOON;
    loop {
        let mut held = scene.node.holdings()?;
        // The `sleep` of the moment; or it is just ending or beginning.
        held.processes.retain(|_, line| !line.starts_with("/bin/sleep"));
        let more = held.beyond(&before);
        if more.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{more:?}");
    }
    assert_eq!(scene.cri.exec(&id, &["echo", "well"]).await?.stdout, b"well\n");
    scene.cri.stop(&id, 0).await?;
    assert_eq!(scene.cri.wait_exited(&id).await?.exit_code, 137);
    let status = refusal(scene.checkpoint(&id, 0).await)?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_terminals_and_shared_pid_namespaces_are_dumped() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let mut terminal = container("terminal", DEMO, &["sh"]);
    (terminal.tty, terminal.stdin) = (true, true);
    let mut config = scene.node.pod("shared");
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into();
    let shared = scene.cri.run_pod(config, "").await?;
    let mut sleeper = container("sleeper", DEMO, &["sleep", "1000"]);
    let security = sleeper.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into();
    for (pod, config) in [(scene.pod.clone(), terminal), (shared, sleeper)] {
        let id = scene.cri.launch(&pod, &config).await?;
        scene.checkpoint(&id, 0).await.with_context(|| config.log_path.clone())?;
        assert_eq!(scene.cri.exec(&id, &["echo", "well"]).await?.stdout, b"well\n");
        fs::remove_file(scene.location())?;
    }
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_containers_of_user_namespaces_and_of_runc_are_dumped() -> Result<()> {
    let runc = runc().context("no runc: set ORLOP_RUNC, as hack/test does")?;
    let more = format!("[runtimes.runc]\npath = \"{}\"\n", runc.display());
    let mut scene = Scene::set(&real_criu()?, &more).await?;
    let ids = vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    let mut mapped = scene.node.pod("mapped");
    let security = mapped.linux.get_or_insert_default().security_context.get_or_insert_default();
    let options = security.namespace_options.get_or_insert_default();
    options.userns_options =
        Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids });
    let options = options.clone();
    let mapped = scene.cri.run_pod(mapped, "").await?;
    let mut config = counter("mapped");
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options = Some(options);
    let other = scene.node.pod("runc");
    let other = scene.cri.run_pod(other, "runc").await?;
    for (pod, config) in [(mapped, config), (other, counter("runc"))] {
        scene.pod = pod;
        let id = scene.cri.launch(&scene.pod, &config).await?;
        scene.expect_counting(&config).await?;
        scene.checkpoint(&id, 0).await.with_context(|| config.log_path.clone())?;
        scene.expect_counting(&config).await?;
        expect_whole(&members(File::open(scene.location())?)?, &id)?;
        fs::remove_file(scene.location())?;
        scene.expect_no_output()?;
    }
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_without_a_criu_that_works_the_kubelets_words_are_said() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = |name: &str, version: &str| -> Result<PathBuf> {
        let path = directory.path().join(name);
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo 'Version: {version}' && exit\nexit 1\n"
        );
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    let not_available = "checkpoint/restore support not available";
    let not_found = "CRIU binary not found or too old (<31600). Failed to checkpoint container ";
    for (criu, words) in [
        (PathBuf::new(), not_available),
        (program("unworkable", "4.1.1")?, not_available),
        (program("old", "3.15")?, not_found),
        (directory.path().join("missing"), not_found),
    ] {
        let mut scene = Scene::set(&criu, "").await?;
        let config = counter("counter");
        let id = scene.cri.launch(&scene.pod, &config).await?;
        let of_container = refusal(scene.checkpoint(&id, 0).await)?;
        let of_pod = refusal(scene.checkpoint_pod(&[&id]).await)?;
        let pod = scene.pod.id.clone();
        for (status, id) in [(of_container, id), (of_pod, pod)] {
            assert_eq!(status.code(), Code::Unknown, "{status:?}");
            if words == not_available {
                assert_eq!(status.message(), words);
            } else {
                let whole = format!("{words}{id}");
                assert!(status.message().starts_with(&whole), "{status:?}");
            }
        }
        scene.expect_no_output()?;
        scene.expect_counting(&config).await?;
        scene.cri.remove_all().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_criu_that_hangs_is_killed_and_the_container_runs_on() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = wrapper(directory.path(), "echo x > hangs; WHERE=$PWD sleep 1000; exit 1")?;
    let mut scene = Scene::set(&program, "").await?;
    let config = counter("counter");
    let id = scene.cri.launch(&scene.pod, &config).await?;
    let other = counter("other");
    let other_id = scene.cri.launch(&scene.pod, &other).await?;
    scene.expect_counting(&config).await?;
    // The limit of the request.
    let status = refusal(scene.checkpoint(&id, 1).await)?;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    scene.expect_counting(&config).await?;
    scene.expect_no_output()?;
    // The limit of the caller.
    let mut request = tonic::Request::new(scene.of_pod(&[&id, &other_id]));
    request.set_timeout(Duration::from_secs(1));
    let outcome = scene.cri.runtime.checkpoint_pod(request).await;
    refusal(outcome)?;
    scene.expect_counting(&config).await?;
    scene.expect_counting(&other).await?;
    scene.wait_no_output().await?;
    wait_no_process(scene.output.path()).await?;
    // One that is to stop does not wait for criu.
    let mut second = scene.cri.clone();
    let stopping = id.clone();
    let stop = tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        second.stop(&stopping, 0).await
    });
    let status = refusal(scene.checkpoint(&id, 30).await)?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    stop.await??;
    scene.expect_no_output()?;
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_is_in_one_checkpoint_at_a_time() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut scene = Scene::set(&hanging(directory.path())?, "").await?;
    let config = counter("counter");
    let id = scene.cri.launch(&scene.pod, &config).await?;
    scene.expect_counting(&config).await?;
    let asked = scene.begin_checkpoint(&id, directory.path()).await?;
    let unfinished = host::paths_below(scene.output.path())?;
    // The second one is refused at once, and does the first no harm.
    let status = refusal(scene.checkpoint(&id, 0).await)?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains(&format!("container {id} is being checkpointed")));
    assert!(!asked.is_finished());
    assert_eq!(host::paths_below(scene.output.path())?, unfinished);
    // The first one's caller goes.
    asked.abort();
    scene.expect_counting(&config).await?;
    scene.wait_no_output().await?;
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_shim_that_is_killed_takes_criu_along() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut scene = Scene::set(&hanging(directory.path())?, "").await?;
    let config = counter("counter");
    let id = scene.cri.launch(&scene.pod, &config).await?;
    scene.expect_counting(&config).await?;
    let shim = scene.node.shim(&scene.pod.id)?;
    let asked = scene.begin_checkpoint(&id, directory.path()).await?;
    kill_process(shim, Signal::KILL)?;
    refusal(asked.await?)?;
    assert_eq!(scene.cri.wait_exited(&id).await?.exit_code, 255);
    scene.wait_no_output().await?;
    wait_no_process(directory.path()).await?;
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_full_disk_fails_the_checkpoint_and_nothing_else() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let mut config = counter("counter");
    let writes = "dd if=/dev/zero of=/big bs=1M count=8; ";
    config.command.last_mut().context("no script")?.insert_str(0, writes);
    let id = scene.cri.launch(&scene.pod, &config).await?;
    scene.expect_counting(&config).await?;
    // For criu's images, for what the container wrote, for the archive of both.
    for (size, is_enough) in [("16k", false), ("6m", false), ("12m", false), ("40m", true)] {
        let path = scene.output.path().to_owned();
        let disk = SmallDisk::mount(&path, size)?;
        let outcome = scene.checkpoint(&id, 0).await;
        scene.expect_counting(&config).await?;
        if is_enough {
            outcome?;
            assert_eq!(names(&path)?, ["archive.tar".to_owned()].into());
        } else {
            let status = refusal(outcome)?;
            let message = status.message().to_lowercase();
            assert!(message.contains("no space left"), "{size}: {status:?}");
            scene.expect_no_output()?;
        }
        drop(disk);
    }
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_given_up_at_any_moment_the_container_runs_on() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let config = counter("counter");
    let id = scene.cri.launch(&scene.pod, &config).await?;
    scene.expect_counting(&config).await?;
    let mut given_up = 0;
    for moment in (0..240).step_by(6).map(Duration::from_millis) {
        match tokio::time::timeout(moment, scene.checkpoint(&id, 0)).await {
            Ok(finished) => {
                finished.with_context(|| format!("within {moment:?}"))?;
                fs::remove_file(scene.location())?;
            }
            Err(_elapsed) => given_up += 1,
        }
        scene.expect_counting(&config).await.with_context(|| format!("after {moment:?}"))?;
        // It may have been finished a moment later.
        let _given_up = fs::remove_file(scene.location());
        scene.wait_no_output().await?;
    }
    assert!(given_up > 5, "{given_up}");
    scene.cri.remove_all().await?;
    Ok(())
}

/// Killed by others, at some moments, it leaves code of its own in a process, which dies of that.
/// That cannot be helped, but the container is told to have ended then.
#[tokio::test(flavor = "multi_thread")]
async fn root_a_criu_that_is_killed_at_any_moment_leaves_nothing_frozen() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let after = directory.path().join("after");
    let script = format!(
        "$criu \"$@\" & p=$!; sleep $(cat {}); kill -9 $p; wait $p; exit 9",
        after.display()
    );
    let program = wrapper(directory.path(), &script)?;
    let mut scene = Scene::set(&program, "").await?;
    let config = counter("counter");
    let id = scene.cri.launch(&scene.pod, &config).await?;
    scene.expect_counting(&config).await?;
    let mut id = id;
    for moment in ["0", "0.01", "0.02", "0.03", "0.04", "0.05", "0.07", "0.1", "0.15", "0.3"] {
        fs::write(&after, moment)?;
        refusal(scene.checkpoint(&id, 0).await).with_context(|| moment.to_owned())?;
        scene.expect_no_output()?;
        let counting = scene.expect_counting(&config).await;
        let mut containers = scene.cri.containers().await?.into_iter();
        let state = containers.find(|one| one.id == id).context("it is not listed")?.state();
        if state == ContainerState::ContainerExited {
            scene.cri.remove(&id).await?;
            fs::remove_file(scene.pod.log_path(&config))?;
            id = scene.cri.launch(&scene.pod, &config).await?;
            scene.expect_counting(&config).await?;
        } else {
            counting.with_context(|| format!("after {moment} s"))?;
        }
        wait_no_process(scene.output.path()).await?;
    }
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_daemon_that_is_killed_leaves_the_container_running() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut scene = Scene::set(&hanging(directory.path())?, "").await?;
    let config = counter("counter");
    let id = scene.cri.launch(&scene.pod, &config).await?;
    scene.expect_counting(&config).await?;
    let before = scene.count(&config)?;
    let asked = scene.begin_checkpoint(&id, directory.path()).await?;
    scene.node.kill()?;
    refusal(asked.await?)?;
    // Without a daemon too.
    scene.expect_counting(&config).await?;
    scene.node.begin().await?;
    scene.cri = scene.node.connect().await?;
    scene.wait_no_output().await?;
    scene.expect_counting(&config).await?;
    assert!(scene.count(&config)? > before);
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pods_containers_are_dumped_together() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let configs = [counter("one"), counter("two")];
    let one = scene.cri.launch(&scene.pod, &configs[0]).await?;
    let two = scene.cri.launch(&scene.pod, &configs[1]).await?;
    let created = scene.cri.create(&scene.pod, &counter("created")).await?;
    let second = scene.node.pod("second");
    let second = scene.cri.run_pod(second, "").await?;
    let foreign = scene.cri.launch(&second, &counter("foreign")).await?;
    for config in &configs {
        scene.expect_counting(config).await?;
    }
    // What is wrong leaves nothing.
    let wrong: [(&[&str], Code); 6] = [
        (&[], Code::InvalidArgument),
        (&[&one, &two, &one], Code::InvalidArgument),
        (&[&one, &two, &foreign], Code::InvalidArgument),
        (&[&one, &two, &created], Code::FailedPrecondition),
        (&[&one, &two, "unknown"], Code::NotFound),
        (&[&one], Code::FailedPrecondition),
    ];
    for (ids, code) in wrong {
        let status = refusal(scene.checkpoint_pod(ids).await)?;
        assert_eq!(status.code(), code, "{ids:?}: {status:?}");
        scene.expect_no_output()?;
    }
    let mut request = scene.of_pod(&[&one, &two]);
    request.options.insert("fast".to_owned(), "yes".to_owned());
    let status = refusal(scene.cri.runtime.checkpoint_pod(request).await)?;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("fast"), "{status:?}");
    scene.expect_no_output()?;
    let ids = [one.as_str(), two.as_str()];
    scene.checkpoint_pod(&ids).await?;
    assert_eq!(names(scene.output.path())?, ["checkpoint".to_owned()].into());
    let whole = scene.output.path().join("checkpoint");
    assert_eq!(names(&whole)?, ["0", "1", "pod.json"].map(str::to_owned).into());
    let described: serde_json::Value = serde_json::from_slice(&fs::read(whole.join("pod.json"))?)?;
    for (index, id) in ids.into_iter().enumerate() {
        let directory = whole.join(index.to_string());
        let read = |name| Ok((String::from(name), fs::read(directory.join(name))?));
        expect_whole(&MEMBERS.into_iter().map(read).collect::<Result<_>>()?, id)?;
        assert_eq!(described["containers"][index]["id"], id);
        scene.expect_counting(&configs[index]).await?;
    }
    // It is not empty any more.
    let status = refusal(scene.checkpoint_pod(&ids).await)?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(whole.join("pod.json").exists());
    scene.cri.remove_all().await?;
    Ok(())
}
