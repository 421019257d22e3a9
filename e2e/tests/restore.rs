//! Pods restored by the real criu: they go on where their checkpoints were, what is wrong is
//! refused with nothing left, and so is what nobody waits for.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::{
    Capability, CheckpointPodRequest, ContainerConfig, ContainerState, IdMapping, ImageSpec,
    Int64Value, KeyValue, LinuxContainerSecurityContext as Security, Mount, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxState, RestorePodRequest, RestorePodResponse,
    SecurityProfile, UserNamespace, security_profile,
};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host::{self, Holdings, SmallDisk, processes_marked};
use e2e::node::{Node, Settings};
use e2e::programs::{criu, runc};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::Code;

/// How long a container may take until it has counted on.
const SOON: Duration = Duration::from_secs(20);

/// A node, and the checkpoint of a pod that is gone.
struct Scene {
    node: Node,
    cri: Cri,
    output: TempDir,
    /// What was said of its containers.
    described: Vec<Vec<String>>,
}

impl Scene {
    async fn set(criu: &Path, more: &str) -> Result<Self> {
        host::require_root()?;
        let more = format!("[pods]\ncriu = \"{}\"\n{more}", criu.display());
        let node = Node::start(Settings { more, ..Settings::default() }).await?;
        node.import_demo()?;
        let cri = node.connect().await?;
        let output = tempfile::Builder::new().prefix("orlop-e2e-restore-").tempdir()?;
        Ok(Self { node, cri, output, described: Vec::new() })
    }

    /// Runs containers until each has counted a little, and takes a checkpoint. Returns what
    /// the last numbers were then, at least. The pod is gone.
    async fn checkpoint(&mut self, configs: &[ContainerConfig]) -> Result<Vec<u64>> {
        let config = self.node.pod("before");
        let pod = self.cri.run_pod(config, "").await?;
        let mut ids = Vec::new();
        for config in configs {
            ids.push(self.cri.launch(&pod, config).await?);
        }
        for config in configs {
            wait_count(&pod, config, 3).await?;
        }
        for id in &ids {
            self.described.push(described(&mut self.cri, id).await?);
        }
        let counted = configs.iter().map(|config| count(&pod, config)).collect();
        self.checkpoint_of(&pod, ids).await?;
        self.cri.remove_all().await?;
        Ok(counted)
    }

    async fn checkpoint_of(&mut self, pod: &Pod, container_ids: Vec<String>) -> Result<()> {
        let request = CheckpointPodRequest {
            pod_sandbox_id: pod.id.clone(),
            output_path: self.path(),
            container_ids,
            ..Default::default()
        };
        self.cri.runtime.checkpoint_pod(request).await?;
        Ok(())
    }

    fn path(&self) -> String {
        self.output.path().to_string_lossy().into_owned()
    }

    fn request(&self, pod: PodSandboxConfig, configs: &[ContainerConfig]) -> RestorePodRequest {
        RestorePodRequest {
            checkpoint_path: self.path(),
            config: Some(pod),
            container_configs: configs.to_vec(),
            ..Default::default()
        }
    }

    /// Asks for what must be refused, and looks whether anything is left.
    async fn refused(&mut self, request: RestorePodRequest, code: Code, words: &str) -> Result<()> {
        let before = self.node.holdings()?;
        let status = refusal(self.cri.runtime.restore_pod(request).await)?;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(words), "{words:?}: {status:?}");
        assert!(self.cri.pods().await?.is_empty(), "{words}: a pod is left");
        self.expect_nothing_copied()?;
        self.node.expect_no_more_than(&before).await
    }

    /// Whether a process is in the cgroup of a container.
    fn runs(&self, id: &str) -> Result<bool> {
        for group in host::cgroups_below(&self.node.cgroup_parent())? {
            let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            if group.ends_with(id) && !processes.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn expect_nothing_copied(&self) -> Result<()> {
        let copied = host::paths_below(&self.node.root().join("restores"))?;
        assert!(copied.is_empty(), "{copied:?}");
        Ok(())
    }

    fn whole(&self) -> PathBuf {
        self.output.path().join("checkpoint")
    }

    /// A file of the checkpoint.
    fn file(&self, name: &str) -> PathBuf {
        self.whole().join(name)
    }

    /// Restores the checkpoint as a pod of this name.
    async fn restore(
        &mut self,
        name: &str,
        configs: &[ContainerConfig],
    ) -> Result<(Pod, BTreeMap<String, String>)> {
        let config = self.node.pod(name);
        let request = self.request(config.clone(), configs);
        let said = self.cri.runtime.restore_pod(request).await?.into_inner();
        let RestorePodResponse { pod_sandbox_id: id, restored_containers } = said;
        let containers = restored_containers.into_iter().map(|one| (one.name, one.container_id));
        Ok((Pod { id, config }, containers.collect()))
    }
}

/// Counts into its log, in its memory.
fn counter(name: &str) -> ContainerConfig {
    let script = "echo kept > /written; rm /etc/passwd; \
                  trap 'echo bye; exit 7' TERM; i=0; \
                  while :; do i=$((i+1)); echo $i; echo $i >&2; /bin/sleep 0.05; done";
    with_own_pids(container(name, DEMO, &["sh", "-c", script]))
}

/// As the kubelet asks for it, unless the pod says otherwise.
fn with_own_pids(mut config: ContainerConfig) -> ContainerConfig {
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = NamespaceMode::Container.into();
    config
}

/// The numbers that a container has logged.
fn numbers(pod: &Pod, config: &ContainerConfig, stream: &str) -> Vec<u64> {
    let log = fs::read_to_string(pod.log_path(config)).unwrap_or_default();
    let lines = log.lines().filter(|line| line.contains(stream));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect()
}

fn count(pod: &Pod, config: &ContainerConfig) -> u64 {
    numbers(pod, config, " stdout ").last().copied().unwrap_or(0)
}

async fn wait_count(pod: &Pod, config: &ContainerConfig, more: usize) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while numbers(pod, config, " stderr ").len() < more {
        if Instant::now() > deadline {
            let log = fs::read_to_string(pod.log_path(config)).unwrap_or_default();
            bail!("{} does not count:\n{log}", config.log_path);
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Fails unless what a container logs goes on from a number that had been reached, or was just
/// to be, by one.
fn expect_continued(pod: &Pod, config: &ContainerConfig, counted: u64) -> Result<()> {
    for stream in [" stdout ", " stderr "] {
        let now = numbers(pod, config, stream);
        let first = *now.first().context("it has logged nothing")?;
        assert!(first >= counted, "{first} after {counted}");
        assert!(now.iter().zip(first..).all(|(number, expected)| *number == expected), "{now:?}");
    }
    Ok(())
}

/// A program that does `script` when it is to restore, and what the real criu does otherwise,
/// which is `$criu`.
fn wrapper(directory: &Path, script: &str) -> Result<PathBuf> {
    let path = directory.join("criu");
    let real = real_criu()?;
    let text = format!(
        "#!/bin/sh\ncriu={}\n[ \"$1\" = restore ] || exec $criu \"$@\"\n{script}\n",
        real.display()
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Whether this root has `CAP_SYS_RESOURCE`.
fn may_look_at_others() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = u64::from_str_radix(line.context("no capabilities")?.trim(), 16)?;
    Ok(set & (1 << 24) != 0)
}

fn real_criu() -> Result<PathBuf> {
    criu().context("no criu: set ORLOP_CRIU, as hack/test does")
}

/// What the kernel says of the first process of a container and of its mounts.
async fn described(cri: &mut Cri, id: &str) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (file, kept) in [
        ("/proc/1/status", &["Uid:", "Gid:", "Groups:", "NoNewPrivs:", "Seccomp:", "Cap"][..]),
        ("/proc/1/limits", &[""]),
        ("/proc/1/cgroup", &[""]),
        ("/proc/1/oom_score_adj", &[""]),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", &[""]),
        ("/sys/fs/cgroup/memory.max", &[""]),
    ] {
        let text = String::from_utf8(cri.exec(id, &["cat", file]).await?.stdout)?;
        let kept = |line: &&str| kept.iter().any(|begin| line.starts_with(begin));
        // Its cgroup's name is the container's id.
        lines.extend(text.lines().filter(kept).map(|line| line.replace(id, "ID")));
    }
    let mounts = String::from_utf8(cri.exec(id, &["cat", "/proc/1/mountinfo"]).await?.stdout)?;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let file_system = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next());
        let place = fields.get(4).context("an odd line")?;
        lines.push(format!("{place} {} {file_system:?}", fields[5]));
    }
    lines.sort();
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pod_goes_on_where_its_checkpoint_was() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let configs = [counter("one"), counter("two")];
    let mut counted = scene.checkpoint(&configs).await?;
    let before = scene.node.holdings()?;
    // The second time from a checkpoint of what was restored the first time.
    for generation in ["first", "second"] {
        let (pod, ids) = scene.restore(generation, &configs).await?;
        for config in &configs {
            let id = &ids[config.log_path.trim_end_matches(".log")];
            assert_eq!(scene.cri.status(id).await?.state(), ContainerState::ContainerCreated);
            assert!(numbers(&pod, config, " ").is_empty(), "it runs before it is started");
            scene.cri.start(id).await.with_context(|| scene.node.end_of_log())?;
            let refused = refusal(scene.cri.start(id).await)?;
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        }
        scene.expect_nothing_copied()?;
        for (config, counted) in configs.iter().zip(&counted) {
            wait_count(&pod, config, 5).await?;
            expect_continued(&pod, config, *counted)?;
            let id = &ids[config.log_path.trim_end_matches(".log")];
            assert_eq!(scene.cri.exec(id, &["cat", "/written"]).await?.stdout, b"kept\n");
            let deleted = scene.cri.exec(id, &["cat", "/etc/passwd"]).await?;
            assert_ne!(deleted.exit_code, 0, "what was deleted is back");
            let host = scene.cri.exec(id, &["cat", "/proc/sys/kernel/hostname"]).await?;
            assert_eq!(String::from_utf8(host.stdout)?.trim(), generation);
            let network = scene.cri.exec(id, &["readlink", "/proc/1/ns/net"]).await?;
            let pinned = fs::metadata(scene.node.state().join("netns").join(&pod.id))?.ino();
            assert_eq!(String::from_utf8(network.stdout)?.trim(), format!("net:[{pinned}]"));
        }
        counted = configs.iter().map(|config| count(&pod, config)).collect();
        fs::remove_dir_all(scene.whole())?;
        scene.checkpoint_of(&pod, ids.values().cloned().collect()).await?;
        let (one, two) = (&ids["one"], &ids["two"]);
        scene.cri.stop(one, 10).await?;
        assert_eq!(scene.cri.wait_exited(one).await?.exit_code, 7);
        let log = fs::read_to_string(pod.log_path(&configs[0]))?;
        assert!(log.ends_with(" stdout F bye\n"), "{log}");
        scene.cri.stop(two, 0).await?;
        assert_eq!(scene.cri.wait_exited(two).await?.exit_code, 137);
        scene.cri.remove_all().await?;
        scene.node.expect_no_more_than(&before).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_containers_that_share_a_pid_namespace_find_each_other_again() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let mut configs = [counter("one"), counter("two")];
    for config in &mut configs {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into();
    }
    let counted = scene.checkpoint(&configs).await?;
    let before = scene.node.holdings()?;
    let (pod, ids) = scene.restore("after", &configs).await?;
    for (config, counted) in configs.iter().zip(&counted) {
        let id = &ids[config.log_path.trim_end_matches(".log")];
        scene.cri.start(id).await.with_context(|| scene.node.end_of_log())?;
        wait_count(&pod, config, 5).await?;
        expect_continued(&pod, config, *counted)?;
    }
    let shells = "grep -l i=0 /proc/[0-9]*/cmdline | wc -l";
    let seen = scene.cri.exec(&ids["one"], &["sh", "-c", shells]).await?;
    let seen: u32 = String::from_utf8(seen.stdout)?.trim().parse()?;
    assert!(seen >= 2, "{seen}");
    for name in ["one", "two"] {
        scene.cri.stop(&ids[name], 10).await?;
        assert_eq!(scene.cri.wait_exited(&ids[name]).await?.exit_code, 7, "{name}");
    }
    scene.cri.remove_all().await?;
    scene.node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_pipes_children_and_deleted_files_come_back() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let mut config = counter("counter");
    let script = "echo deleted > /gone; exec 3</gone; rm /gone; mkfifo /fifo; \
                  trap 'cat <&3; exit 7' TERM; \
                  while read l; do echo got $l; echo $l >&2; done < /fifo & \
                  exec 4>/fifo; i=0; \
                  while :; do i=$((i+1)); echo $i | cat >&4; /bin/sleep 0.05; done";
    config.command = ["sh", "-c", script].map(str::to_owned).into();
    config.stdin = true;
    let counted = scene.checkpoint(std::slice::from_ref(&config)).await?[0];
    let (pod, ids) = scene.restore("after", std::slice::from_ref(&config)).await?;
    let id = &ids["counter"];
    scene.cri.start(id).await.with_context(|| scene.node.end_of_log())?;
    wait_count(&pod, &config, 5).await?;
    expect_continued(&pod, &config, counted)?;
    scene.cri.stop(id, 10).await?;
    assert_eq!(scene.cri.wait_exited(id).await?.exit_code, 7);
    let log = fs::read_to_string(pod.log_path(&config))?;
    assert!(log.contains(" stdout F deleted\n"), "{log}");
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_two_pods_come_from_one_checkpoint_and_outlive_daemons() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let config = counter("counter");
    let counted = scene.checkpoint(std::slice::from_ref(&config)).await?[0];
    let before = scene.node.holdings()?;
    let (one, ids) = scene.restore("one", std::slice::from_ref(&config)).await?;
    let (two, more) = scene.restore("two", std::slice::from_ref(&config)).await?;
    // The checkpoint is not needed any more, nor is the daemon.
    fs::remove_dir_all(scene.whole())?;
    scene.node.kill()?;
    scene.node.begin().await?;
    scene.cri = scene.node.connect().await?;
    for (pod, id) in [(&one, &ids["counter"]), (&two, &more["counter"])] {
        scene.cri.start(id).await.with_context(|| scene.node.end_of_log())?;
        wait_count(pod, &config, 3).await?;
    }
    scene.node.kill()?;
    wait_count(&one, &config, numbers(&one, &config, " stderr ").len() + 3).await?;
    scene.node.begin().await?;
    scene.cri = scene.node.connect().await?;
    for (pod, id) in [(&one, &ids["counter"]), (&two, &more["counter"])] {
        expect_continued(pod, &config, counted)?;
        scene.cri.stop(id, 10).await?;
        assert_eq!(scene.cri.wait_exited(id).await?.exit_code, 7);
    }
    scene.cri.remove_all().await?;
    scene.node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_restored_processes_are_confined_as_they_were() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let volume = tempfile::tempdir()?;
    let mut config = with_own_pids(container(
        "confined",
        DEMO,
        &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo $i >&2; /bin/sleep 0.05; done"],
    ));
    for (place, readonly) in [("/data", false), ("/with space", true)] {
        config.mounts.push(Mount {
            container_path: place.to_owned(),
            host_path: volume.path().to_string_lossy().into_owned(),
            readonly,
            ..Default::default()
        });
    }
    let linux = config.linux.get_or_insert_default();
    let resources = linux.resources.get_or_insert_default();
    (resources.memory_limit_in_bytes, resources.oom_score_adj) = (64 << 20, 321);
    let security = linux.security_context.get_or_insert_default();
    // Of others than root criu cannot ask for limits where root lacks a capability.
    let user = if may_look_at_others()? { 1234 } else { 0 };
    security.run_as_user = Some(Int64Value { value: user });
    security.run_as_group = Some(Int64Value { value: user });
    security.supplemental_groups = vec![77];
    (security.no_new_privs, security.readonly_rootfs) = (true, true);
    security.masked_paths = vec!["/proc/kcore".to_owned(), "/proc/acpi".to_owned()];
    security.readonly_paths = vec!["/proc/sys".to_owned(), "/proc/bus".to_owned()];
    let drop = vec!["ALL".to_owned()];
    security.capabilities = Some(Capability { drop_capabilities: drop, ..Default::default() });
    let profile_type = security_profile::ProfileType::RuntimeDefault.into();
    security.seccomp = Some(SecurityProfile { profile_type, ..Default::default() });
    scene.checkpoint(std::slice::from_ref(&config)).await?;
    let (pod, ids) = scene.restore("after", std::slice::from_ref(&config)).await?;
    let id = &ids["confined"];
    scene.cri.start(id).await.with_context(|| scene.node.end_of_log())?;
    wait_count(&pod, &config, 3).await?;
    let before = scene.described.remove(0);
    let uid = format!("Uid:\t{user}\t{user}\t{user}\t{user}");
    for line in [&uid, "CapEff:\t0000000000000000", "Seccomp:\t2", "NoNewPrivs:\t1", "321"] {
        assert!(before.iter().any(|one| one == line), "no {line} in {before:#?}");
    }
    let after = described(&mut scene.cri, id).await?;
    assert_eq!(after, before);
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_does_not_fit_is_refused() -> Result<()> {
    let runc = runc().context("no runc: set ORLOP_RUNC, as hack/test does")?;
    let more = format!("[runtimes.runc]\npath = \"{}\"\n", runc.display());
    let mut scene = Scene::set(&real_criu()?, &more).await?;
    let configs = [counter("one"), counter("two")];
    scene.checkpoint(&configs).await?;
    let pod = scene.node.pod("after");
    let whole = scene.request(pod.clone(), &configs);
    let with = |change: &dyn Fn(&mut RestorePodRequest)| {
        let mut request = whole.clone();
        change(&mut request);
        request
    };
    let first = |change: &dyn Fn(&mut ContainerConfig)| {
        let mut request = whole.clone();
        change(&mut request.container_configs[0]);
        request
    };
    let security = |config: &mut ContainerConfig, change: &dyn Fn(&mut Security)| {
        change(config.linux.get_or_insert_default().security_context.get_or_insert_default());
    };
    let (invalid, precondition) = (Code::InvalidArgument, Code::FailedPrecondition);
    let mut requests = vec![
        (with(&|r| r.checkpoint_path.clear()), invalid, "checkpoint_path"),
        (with(&|r| r.checkpoint_path = "some/where".into()), invalid, "not absolute"),
        (with(&|r| r.checkpoint_path = "/nowhere".into()), Code::NotFound, "/nowhere"),
        (with(&|r| r.config = None), invalid, "config is missing"),
        (with(&|r| r.runtime_handler = "none".into()), invalid, "none"),
        (with(&|r| drop(r.options.insert("fast".into(), "1".into()))), invalid, "\"fast\""),
        (with(&|r| drop(r.container_configs.pop())), invalid, "\"two\" of the checkpoint"),
        (with(&|r| r.container_configs.push(counter("one"))), invalid, "named twice"),
        (with(&|r| r.container_configs.push(counter("three"))), invalid, "no container \"three\""),
        (with(&|r| r.container_configs.clear()), invalid, "is not named"),
        (first(&|c| c.image = None), invalid, "config.image"),
        (
            first(&|c| c.command.push("x".into())),
            precondition,
            "\"one\" differs from its checkpoint: command",
        ),
        (first(&|c| c.args.push("x".into())), precondition, "checkpoint: args"),
        (first(&|c| c.working_dir = "/tmp".into()), precondition, "process.cwd"),
    ];
    let env = |c: &mut ContainerConfig| {
        c.envs.push(KeyValue { key: "A".into(), value: b"1".to_vec() });
    };
    requests.push((first(&env), precondition, "checkpoint: envs"));
    let uid = |c: &mut ContainerConfig| {
        security(c, &|s| s.run_as_user = Some(Int64Value { value: 5 }));
    };
    requests.push((first(&uid), precondition, "process.user"));
    let privileged = |c: &mut ContainerConfig| security(c, &|s| s.no_new_privs = true);
    requests.push((first(&privileged), precondition, "process.noNewPrivileges"));
    let capable = |c: &mut ContainerConfig| {
        let add_capabilities = vec!["SYS_ADMIN".to_owned()];
        let more = Capability { add_capabilities, ..Default::default() };
        security(c, &|s| s.capabilities = Some(more.clone()));
    };
    requests.push((first(&capable), precondition, "process.capabilities"));
    let mount = |c: &mut ContainerConfig| {
        c.mounts.push(Mount {
            container_path: "/more".into(),
            host_path: "/tmp".into(),
            ..Default::default()
        });
    };
    requests.push((first(&mount), precondition, "the mount at /more"));
    let unknown = |c: &mut ContainerConfig| {
        c.image = Some(ImageSpec { image: "registry.invalid/none:1".into(), ..Default::default() });
    };
    requests.push((first(&unknown), Code::NotFound, "no image"));
    // What criu could not restore here.
    let cannot = Code::Unimplemented;
    requests.push((first(&|c| c.tty = true), cannot, "a container with a terminal cannot"));
    let node = NamespaceMode::Node;
    let shared = |c: &mut ContainerConfig| {
        security(c, &|s| s.namespace_options.get_or_insert_default().pid = node.into());
    };
    requests.push((first(&shared), cannot, "processes of the node"));
    requests.push((with(&|r| r.runtime_handler = "runc".into()), cannot, "external runtime"));
    let ids = vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    let mapped = NamespaceOption {
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: ids.clone(),
            gids: ids,
        }),
        ..Default::default()
    };
    let in_user_namespace = with(&|r| {
        let linux = r.config.get_or_insert_default().linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options = Some(mapped.clone());
        for config in &mut r.container_configs {
            let mut options = mapped.clone();
            options.pid = NamespaceMode::Container.into();
            security(config, &|s| s.namespace_options = Some(options.clone()));
        }
    });
    requests.push((in_user_namespace, cannot, "user namespace"));
    for (request, code, words) in requests {
        scene.refused(request, code, words).await.with_context(|| words.to_owned())?;
    }
    // Who has the name already.
    let other = scene.cri.run_pod(pod, "").await?;
    let status = refusal(scene.cri.runtime.restore_pod(whole.clone()).await)?;
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert!(status.message().contains(&other.id), "{status:?}");
    scene.cri.remove_all().await?;
    // It was the request each time.
    scene.cri.runtime.restore_pod(whole).await?;
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_damaged_or_hostile_checkpoint_is_refused() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let config = counter("counter");
    scene.checkpoint(std::slice::from_ref(&config)).await?;
    let kept = tempfile::tempdir()?;
    let copy = |from: &Path, to: &Path| -> Result<()> {
        let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
        assert!(done.success());
        Ok(())
    };
    copy(&scene.whole(), &kept.path().join("checkpoint"))?;
    let outside = kept.path().join("outside");
    fs::create_dir(&outside)?;
    let link = |from: &Path, to: &Path| -> Result<()> {
        if from.is_dir() {
            fs::remove_dir_all(from)?
        } else {
            fs::remove_file(from)?
        }
        Ok(std::os::unix::fs::symlink(to, from)?)
    };
    let evil = outside.join("evil");
    let kept_checkpoint = kept.path().join("checkpoint");
    let writable = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o666));
    type Harm<'a> = Box<dyn Fn(&Scene) -> Result<()> + 'a>;
    let harms: Vec<(&str, Harm<'_>, Code, &str)> = vec![
        (
            "no checkpoint",
            Box::new(|s| Ok(fs::remove_dir_all(s.whole())?)),
            Code::NotFound,
            "\"checkpoint\"",
        ),
        (
            "no description",
            Box::new(|s| Ok(fs::remove_file(s.file("pod.json"))?)),
            Code::NotFound,
            "pod.json",
        ),
        (
            "no json",
            Box::new(|s| Ok(fs::write(s.file("pod.json"), "{")?)),
            Code::DataLoss,
            "is damaged",
        ),
        (
            "another version",
            Box::new(|s| {
                let text = fs::read_to_string(s.file("pod.json"))?;
                Ok(fs::write(s.file("pod.json"), text.replace("\"version\": 1", "\"version\": 9"))?)
            }),
            Code::DataLoss,
            "version 9",
        ),
        (
            "no spec",
            Box::new(|s| Ok(fs::write(s.file("0/spec.dump"), "{")?)),
            Code::DataLoss,
            "spec.dump",
        ),
        (
            "no images",
            Box::new(|s| Ok(fs::remove_dir_all(s.file("0/checkpoint"))?)),
            Code::NotFound,
            "0/checkpoint",
        ),
        (
            "no diff",
            Box::new(|s| Ok(fs::remove_file(s.file("0/rootfs-diff.tar"))?)),
            Code::NotFound,
            "rootfs-diff.tar",
        ),
        (
            "half a diff",
            Box::new(|s| {
                let whole = fs::read(s.file("0/rootfs-diff.tar"))?;
                Ok(fs::write(s.file("0/rootfs-diff.tar"), &whole[..700])?)
            }),
            Code::DataLoss,
            "0/rootfs-diff.tar\" of the checkpoint is damaged",
        ),
        (
            "half of the memory",
            Box::new(|s| {
                let whole = fs::read(s.file("0/checkpoint/pages-1.img"))?;
                Ok(fs::write(s.file("0/checkpoint/pages-1.img"), &whole[..whole.len() / 2])?)
            }),
            Code::DataLoss,
            "pages-1.img",
        ),
        (
            "an image less",
            Box::new(|s| Ok(fs::remove_file(s.file("0/checkpoint/core-1.img"))?)),
            Code::DataLoss,
            "core-1.img",
        ),
        (
            "a link for a container",
            Box::new(|s| link(&s.file("0"), &kept_checkpoint.join("0"))),
            Code::PermissionDenied,
            "is not a directory",
        ),
        (
            "a link for images",
            Box::new(|s| link(&s.file("0/checkpoint"), &outside)),
            Code::PermissionDenied,
            "is not a directory",
        ),
        (
            "a link for an image",
            Box::new(|s| link(&s.file("0/checkpoint/core-1.img"), Path::new("/etc/shadow"))),
            Code::PermissionDenied,
            "is a link",
        ),
        (
            "a link for the whole",
            Box::new(|s| link(&s.whole(), &kept_checkpoint)),
            Code::PermissionDenied,
            "is not a directory",
        ),
        (
            "a pipe for an image",
            Box::new(|s| {
                fs::remove_file(s.file("0/checkpoint/core-1.img"))?;
                Ok(rustix::fs::mknodat(
                    rustix::fs::CWD,
                    s.file("0/checkpoint/core-1.img"),
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RUSR,
                    0,
                )?)
            }),
            Code::PermissionDenied,
            "is not a file",
        ),
        (
            "a directory beside images",
            Box::new(|s| Ok(fs::create_dir(s.file("0/checkpoint/x"))?)),
            Code::PermissionDenied,
            "is not a file",
        ),
        (
            "others may write an image",
            Box::new(|s| Ok(writable(&s.file("0/checkpoint/core-1.img"))?)),
            Code::PermissionDenied,
            "others than root",
        ),
        (
            "others may write the diff",
            Box::new(|s| Ok(writable(&s.file("0/rootfs-diff.tar"))?)),
            Code::PermissionDenied,
            "others than root",
        ),
        (
            "another's directory",
            Box::new(|s| Ok(std::os::unix::fs::chown(s.file("0"), Some(1000), None)?)),
            Code::PermissionDenied,
            "others than root",
        ),
        (
            "a diff that leaves its root",
            Box::new(|s| {
                let mut archive = tar::Builder::new(fs::File::create(s.file("0/rootfs-diff.tar"))?);
                let mut header = tar::Header::new_gnu();
                let up = format!("{}{}", "../".repeat(20), evil.strip_prefix("/")?.display());
                header.as_gnu_mut().context("gnu")?.name[..up.len()].copy_from_slice(up.as_bytes());
                header.set_size(2);
                header.set_mode(0o644);
                header.set_cksum();
                archive.append(&header, b"x\n".as_slice())?;
                archive.finish()?;
                let mut text: serde_json::Value =
                    serde_json::from_slice(&fs::read(s.file("pod.json"))?)?;
                let size = fs::metadata(s.file("0/rootfs-diff.tar"))?.len();
                text["containers"][0]["files"]["rootfs-diff.tar"] = size.into();
                Ok(fs::write(s.file("pod.json"), text.to_string())?)
            }),
            Code::DataLoss,
            "not allowed in a layer",
        ),
    ];
    let request = scene.request(scene.node.pod("after"), std::slice::from_ref(&config));
    for (name, harm, code, words) in harms {
        harm(&scene).context(name)?;
        scene.refused(request.clone(), code, words).await.context(name)?;
        assert!(!evil.exists(), "{name}");
        let output = scene.whole();
        if output.is_symlink() {
            fs::remove_file(&output)?
        } else if output.exists() {
            fs::remove_dir_all(&output)?
        }
        copy(&kept_checkpoint, &output)?;
    }
    // Only criu can tell what is wrong with an image, when it is to be restored.
    let before = scene.node.holdings()?;
    for image in ["inventory.img", "core-1.img", "mm-1.img"] {
        let path = scene.file("0/checkpoint").join(image);
        let whole = fs::read(&path)?;
        fs::write(&path, vec![0; whole.len()])?;
        let (_, ids) = scene.restore("after", std::slice::from_ref(&config)).await?;
        let id = &ids["counter"];
        let status = refusal(scene.cri.start(id).await).context(image)?;
        let said = format!("restore container {id}: criu ended with code ");
        assert!(status.message().contains(&said), "{status:?}");
        for not_why in ["no reason", "tun:", "rlimit:"] {
            assert!(!status.message().contains(not_why), "{status:?}");
        }
        let exited = scene.cri.status(id).await?;
        assert_eq!((exited.state(), exited.exit_code), (ContainerState::ContainerExited, 128));
        scene.expect_nothing_copied()?;
        scene.cri.remove_all().await?;
        scene.node.expect_no_more_than(&before).await?;
        fs::write(&path, whole)?;
    }
    let (pod, ids) = scene.restore("after", std::slice::from_ref(&config)).await?;
    scene.cri.start(&ids["counter"]).await?;
    wait_count(&pod, &config, 3).await?;
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_full_disk_fails_the_restore_and_nothing_else() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let config = counter("counter");
    scene.checkpoint(std::slice::from_ref(&config)).await?;
    let request = scene.request(scene.node.pod("after"), std::slice::from_ref(&config));
    let path = scene.node.root().join("restores");
    fs::create_dir_all(&path)?;
    let disk = SmallDisk::mount(&path, "16k")?;
    scene.refused(request, Code::ResourceExhausted, "copy the images to").await?;
    drop(disk);
    let (pod, ids) = scene.restore("after", std::slice::from_ref(&config)).await?;
    scene.cri.start(&ids["counter"]).await?;
    wait_count(&pod, &config, 3).await?;
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_without_a_criu_that_works_the_kubelets_words_are_said() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let old = directory.path().join("old");
    fs::write(&old, "#!/bin/sh\necho 'Version: 3.15'\n")?;
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755))?;
    let not_found = "CRIU binary not found or too old (<31600). Failed to restore pod after_";
    for (criu, words) in [
        (PathBuf::new(), "checkpoint/restore support not available"),
        (old, not_found),
        (directory.path().join("missing"), not_found),
    ] {
        let mut scene = Scene::set(&criu, "").await?;
        let request = scene.request(scene.node.pod("after"), &[counter("counter")]);
        scene.refused(request, Code::Unknown, words).await?;
    }
    Ok(())
}

/// Whether a pod is there with all that it was to have, or nothing of it.
async fn expect_whole_or_nothing(scene: &mut Scene, before: &Holdings) -> Result<bool> {
    let deadline = Instant::now() + SOON;
    loop {
        let pods = scene.cri.pods().await?;
        let containers = scene.cri.containers().await?;
        let created =
            containers.iter().filter(|one| one.state() == ContainerState::ContainerCreated).count();
        if pods.is_empty() && containers.is_empty() {
            scene.expect_nothing_copied()?;
            scene.node.expect_no_more_than(before).await?;
            return Ok(false);
        }
        let is_ready = pods.iter().all(|pod| pod.state() == PodSandboxState::SandboxReady);
        if Instant::now() > deadline {
            assert!(is_ready && pods.len() == 1 && created == 2, "{pods:?} {containers:?}");
            return Ok(true);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_given_up_at_any_moment_nothing_is_left() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let configs = [counter("one"), counter("two")];
    scene.checkpoint(&configs).await?;
    let before = scene.node.holdings()?;
    let request = scene.request(scene.node.pod("after"), &configs);
    let mut given_up = 0;
    for moment in (0..240).step_by(8).map(Duration::from_millis) {
        let asked = scene.cri.runtime.restore_pod(request.clone());
        match tokio::time::timeout(moment, asked).await {
            Ok(finished) => {
                finished.with_context(|| format!("within {moment:?}"))?;
                scene.cri.remove_all().await?;
            }
            Err(_elapsed) => given_up += 1,
        }
        // Whole it stays if the answer was on its way already.
        if expect_whole_or_nothing(&mut scene, &before)
            .await
            .with_context(|| format!("{moment:?}"))?
        {
            scene.cri.remove_all().await?;
        }
        scene.expect_nothing_copied()?;
        scene.node.expect_no_more_than(&before).await.with_context(|| format!("{moment:?}"))?;
    }
    assert!(given_up > 3, "{given_up}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_daemon_that_is_killed_at_any_moment_leaves_all_or_nothing() -> Result<()> {
    let mut scene = Scene::set(&real_criu()?, "").await?;
    let configs = [counter("one"), counter("two")];
    scene.checkpoint(&configs).await?;
    let before = scene.node.holdings()?;
    let request = scene.request(scene.node.pod("after"), &configs);
    let mut unfinished = 0;
    for moment in [10, 40, 60, 80, 100, 120, 140, 160, 180, 220, 300] {
        let (mut cri, request) = (scene.cri.clone(), request.clone());
        let asked = tokio::spawn(async move { cri.runtime.restore_pod(request).await });
        sleep(Duration::from_millis(moment)).await;
        scene.node.kill()?;
        let is_answered = asked.await?.is_ok();
        scene.node.begin().await?;
        scene.cri = scene.node.connect().await?;
        unfinished += u32::from(!is_answered);
        if is_answered {
            assert_eq!(scene.cri.containers().await?.len(), 2, "after {moment} ms");
        } else {
            expect_whole_or_nothing(&mut scene, &before).await.with_context(|| moment)?;
        }
        scene.cri.remove_all().await?;
        scene.expect_nothing_copied()?;
        scene.node.expect_no_more_than(&before).await.with_context(|| moment)?;
    }
    assert!(unfinished > 2, "{unfinished}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_criu_that_hangs_ends_with_the_container_and_with_the_shim() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hangs = directory.path().join("hangs");
    let script = format!(
        "echo x > {}; exec env DIRECTORY={} sleep 1000",
        hangs.display(),
        directory.path().display()
    );
    let mut scene = Scene::set(&wrapper(directory.path(), &script)?, "").await?;
    let config = counter("counter");
    scene.checkpoint(std::slice::from_ref(&config)).await?;
    let before = scene.node.holdings()?;
    for end in ["stop", "kill the shim", "remove the pod"] {
        let (pod, ids) = scene.restore("after", std::slice::from_ref(&config)).await?;
        let id = ids["counter"].clone();
        let (mut cri, starting) = (scene.cri.clone(), id.clone());
        let asked = tokio::spawn(async move { cri.start(&starting).await });
        let deadline = Instant::now() + SOON;
        while !hangs.exists() {
            assert!(Instant::now() < deadline, "criu was not started");
            sleep(Duration::from_millis(10)).await;
        }
        fs::remove_file(&hangs)?;
        match end {
            "stop" => scene.cri.stop(&id, 1).await?,
            "remove the pod" => scene.cri.remove_pod(&pod.id).await?,
            _ => kill_process(scene.node.shim(&pod.id)?, Signal::KILL)?,
        }
        refusal(asked.await?).context(end)?;
        scene.cri.remove_all().await?;
        scene.node.expect_no_more_than(&before).await.context(end)?;
        let left = processes_marked(&[&directory.path().to_string_lossy()])?;
        assert!(left.is_empty(), "{end}: {left:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_criu_that_is_killed_at_any_moment_leaves_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let after = directory.path().join("after");
    let script = format!(
        "$criu \"$@\" & p=$!; sleep $(cat {}); kill -9 $p; wait $p; exit 9",
        after.display()
    );
    let mut scene = Scene::set(&wrapper(directory.path(), &script)?, "").await?;
    let config = counter("counter");
    scene.checkpoint(std::slice::from_ref(&config)).await?;
    let before = scene.node.holdings()?;
    for moment in ["0", "0.01", "0.02", "0.03", "0.04", "0.05", "0.07", "0.1", "0.3"] {
        fs::write(&after, moment)?;
        let (_, ids) = scene.restore("after", std::slice::from_ref(&config)).await?;
        let id = &ids["counter"];
        let status = refusal(scene.cri.start(id).await).context(moment)?;
        assert!(status.message().contains("criu ended with code 9"), "{status:?}");
        let exited = scene.cri.status(id).await?;
        assert_eq!((exited.state(), exited.exit_code), (ContainerState::ContainerExited, 128));
        scene.expect_nothing_copied()?;
        // Also of what ran already.
        let deadline = Instant::now() + SOON;
        while scene.runs(id)? {
            assert!(Instant::now() < deadline, "{moment}: a process is left");
            sleep(Duration::from_millis(20)).await;
        }
        scene.cri.remove_all().await?;
        scene.node.expect_no_more_than(&before).await.context(moment)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_restore_goes_on_without_a_daemon() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let begun = directory.path().join("begun");
    let script = format!("echo x > {}; sleep 2; exec $criu \"$@\"", begun.display());
    let mut scene = Scene::set(&wrapper(directory.path(), &script)?, "").await?;
    let config = counter("counter");
    let counted = scene.checkpoint(std::slice::from_ref(&config)).await?[0];
    let (pod, ids) = scene.restore("after", std::slice::from_ref(&config)).await?;
    let id = ids["counter"].clone();
    let (mut cri, starting) = (scene.cri.clone(), id.clone());
    let asked = tokio::spawn(async move { cri.start(&starting).await });
    while !begun.exists() {
        sleep(Duration::from_millis(10)).await;
    }
    scene.node.kill()?;
    refusal(asked.await?)?;
    wait_count(&pod, &config, 3).await?;
    expect_continued(&pod, &config, counted)?;
    scene.node.begin().await?;
    scene.cri = scene.node.connect().await?;
    assert_eq!(scene.cri.status(&id).await?.state(), ContainerState::ContainerRunning);
    scene.cri.stop(&id, 10).await?;
    assert_eq!(scene.cri.wait_exited(&id).await?.exit_code, 7);
    scene.cri.remove_all().await?;
    scene.expect_nothing_copied()
}
