//! orlop beside systemd as process 1: scopes, reloads, and orlop's own unit. `hack/vm test`
//! runs these.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::{
    self, ContainerConfig, ContainerState, Device, LinuxContainerResources, RuntimeConfigRequest,
};
use e2e::client::{CALL, Cri, Pod, container, refusal};
use e2e::fixtures::{self, DEMO};
use e2e::host;
use e2e::node::{CgroupDriver, Node, Settings};
use e2e::process::output;
use e2e::programs::on_path;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tonic::Code;

/// The socket of the installed unit.
const SOCKET: &str = "/run/orlop/orlop.sock";
const UNIT: &str = "orlop.service";
const LIMIT: i64 = 64 << 20;

/// These tests change the one systemd of the machine: each of them has it for itself.
static SYSTEMD: Mutex<()> = Mutex::const_new(());

async fn node(cgroup_driver: CgroupDriver, more: String) -> Result<(Node, Cri)> {
    host::require_root()?;
    let node = Node::start(Settings { cgroup_driver, more, ..Settings::default() }).await?;
    node.import_demo()?;
    let cri = node.connect().await?;
    Ok((node, cri))
}

fn scope_of(pod: &Pod) -> String {
    format!("cri-orlop-{}.scope", pod.id)
}

/// A property of a unit, as systemd has it.
fn property(unit: &str, name: &str) -> Result<String> {
    Ok(output("systemctl", &["show", "--value", "-p", name, unit])?.trim().to_owned())
}

fn systemctl(verb: &str, units: &[&str]) -> Result<()> {
    output("systemctl", &[&[verb], units].concat()).map(drop)
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + CALL;
    while !is_so()? {
        if Instant::now() > deadline {
            bail!("not in time: {what}");
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn said(cri: &mut Cri, id: &str, command: &str) -> Result<String> {
    let said = cri.exec(id, &["sh", "-c", command]).await?;
    let text = [said.stdout, said.stderr].concat();
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// A container with a memory limit and the machine's disk, to be read.
fn with_device() -> ContainerConfig {
    let mut config = container("device", DEMO, &["sleep", "1000"]);
    config.devices = vec![Device {
        host_path: "/dev/vda".to_owned(),
        container_path: "/dev/given".to_owned(),
        permissions: "r".to_owned(),
    }];
    config.linux.get_or_insert_default().resources =
        Some(LinuxContainerResources { memory_limit_in_bytes: LIMIT, ..Default::default() });
    config
}

/// What [`with_device`] may do, and may not.
async fn expect_device(cri: &mut Cri, id: &str) -> Result<()> {
    assert_eq!(said(cri, id, "head -c 1 /dev/given > /dev/null && echo read").await?, "read");
    let refused = said(cri, id, ": >> /dev/given && echo opened").await?;
    assert!(refused.contains("Operation not permitted"), "{refused}");
    assert_eq!(said(cri, id, "cat /sys/fs/cgroup/memory.max").await?, LIMIT.to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pod_is_a_delegated_scope_that_goes_with_it() -> Result<()> {
    let _alone = SYSTEMD.lock().await;
    let (node, mut cri) = node(CgroupDriver::Systemd, String::new()).await?;
    let config = cri.runtime.runtime_config(RuntimeConfigRequest {}).await?.into_inner();
    let driver = config.linux.context("no driver")?.cgroup_driver();
    assert_eq!(driver, v1::CgroupDriver::Systemd);

    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &container("sleeper", DEMO, &["sleep", "1000"])).await?;
    let scope = scope_of(&pod);
    let group = Path::new("/sys/fs/cgroup").join(node.cgroup_parent()).join(&scope);
    assert_eq!(property(&scope, "ActiveState")?, "active");
    assert_eq!(property(&scope, "Delegate")?, "yes");
    assert_eq!(property(&scope, "TasksMax")?, "infinity");
    assert_eq!(property(&scope, "Slice")?, node.cgroup_parent());
    let processes = |below: &str| std::fs::read_to_string(group.join(below).join("cgroup.procs"));
    assert_eq!(processes("")?, "");
    // Itself, and process 1 of the PID namespace that the pod shares.
    assert_eq!(processes("shim")?.lines().count(), 2);
    assert_eq!(processes(&id)?.lines().count(), 1);

    cri.stop(&id, 0).await?;
    cri.remove(&id).await?;
    assert!(!group.join(&id).exists());
    assert_eq!(property(&scope, "ActiveState")?, "active");
    cri.stop_pod(&pod.id).await?;
    assert!(!group.exists());
    cri.remove_pod(&pod.id).await?;
    eventually("systemd forgets the scope", || Ok(property(&scope, "LoadState")? == "not-found"))
        .await
}

/// The kernel may not tell systemd of a group that is empty and removed at once.
#[tokio::test(flavor = "multi_thread")]
async fn root_no_scope_stays() -> Result<()> {
    let _alone = SYSTEMD.lock().await;
    let (node, mut cri) = node(CgroupDriver::Systemd, String::new()).await?;
    for number in 0..20 {
        let pod = cri.run_pod(node.pod(&format!("pod-{number}")), "").await?;
        let id = cri.launch(&pod, &container("sleeper", DEMO, &["sleep", "1000"])).await?;
        assert_eq!(property(&scope_of(&pod), "ActiveState")?, "active");
        if number % 2 == 0 {
            cri.stop(&id, 0).await?;
        }
        cri.stop_pod(&pod.id).await?;
        assert_eq!(property(&scope_of(&pod), "ActiveState")?, "inactive", "pod {number}");
        cri.remove_pod(&pod.id).await?;
    }
    let left = output("systemctl", &["list-units", "--all", "--plain", "cri-orlop-*"])?;
    assert!(!left.contains(".scope"), "{left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_reload_of_systemd_takes_nothing_from_containers() -> Result<()> {
    let _alone = SYSTEMD.lock().await;
    for driver in [CgroupDriver::Systemd, CgroupDriver::Cgroupfs] {
        let (node, mut cri) = node(driver, String::new()).await?;
        let pod = cri.run_pod(node.pod("pod"), "").await?;
        let id = cri.launch(&pod, &with_device()).await?;
        expect_device(&mut cri, &id).await.context("before")?;
        for verb in ["daemon-reload", "daemon-reexec"] {
            systemctl(verb, &[])?;
            expect_device(&mut cri, &id).await.with_context(|| format!("{driver:?}, {verb}"))?;
        }
        let again = cri.run_pod(node.pod("again"), "").await?;
        cri.launch(&again, &with_device()).await?;
        cri.remove_all().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_parent_for_the_other_driver_is_refused() -> Result<()> {
    let _alone = SYSTEMD.lock().await;
    for (driver, parent, words) in [
        (CgroupDriver::Systemd, "/kubepods/pod1", "is systemd, which needs the name of a slice"),
        (CgroupDriver::Cgroupfs, "/kubepods.slice", "is cgroupfs, which needs a path"),
    ] {
        let (node, mut cri) = node(driver, String::new()).await?;
        let before = node.holdings()?;
        let mut config = node.pod("pod");
        config.linux.get_or_insert_default().cgroup_parent = parent.to_owned();
        let refused = refusal(cri.run_pod(config, "").await)?;
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(words), "{refused:?}");
        node.expect_no_more_than(&before).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_external_runtimes_work_in_the_scope() -> Result<()> {
    let _alone = SYSTEMD.lock().await;
    let named = std::env::var_os("ORLOP_RUNC").map(PathBuf::from);
    let runc = named.or_else(|| on_path("runc")).context("no runc")?;
    let crun = on_path("crun").context("no crun")?;
    let handlers = [("runc", runc), ("crun", crun)];
    let more = handlers
        .iter()
        .map(|(name, path)| format!("[runtimes.{name}]\npath = \"{}\"\n", path.display()));
    let (node, mut cri) = node(CgroupDriver::Systemd, more.collect()).await?;
    let warm = cri.run_pod(node.pod("warm"), "").await?;
    let before = node.holdings()?;
    for (handler, _) in &handlers {
        let pod = cri.run_pod(node.pod(handler), handler).await?;
        let id = cri.launch(&pod, &with_device()).await.with_context(|| (*handler).to_owned())?;
        expect_device(&mut cri, &id).await.with_context(|| (*handler).to_owned())?;
        let group = Path::new("/sys/fs/cgroup").join(node.cgroup_parent()).join(scope_of(&pod));
        let processes = std::fs::read_to_string(group.join(&id).join("cgroup.procs"))?;
        assert_eq!(processes.lines().count(), 1, "{handler}");
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
        node.expect_no_more_than(&before).await?;
    }
    cri.stop_pod(&warm.id).await?;
    Ok(())
}

/// `orlop` with these arguments: what it prints, or what it says when it fails.
fn orlop(program: &Path, arguments: &[&str]) -> Result<String> {
    let done = std::process::Command::new(program).args(arguments).output()?;
    let said = [done.stdout, done.stderr].concat();
    Ok(format!("{}{}", String::from_utf8_lossy(&said), done.status))
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_installation_is_changed_under_a_pod_and_removed_without() -> Result<()> {
    let _alone = SYSTEMD.lock().await;
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    // The machine has the very files that would be installed; they are taken over.
    let program = directory.path().join("orlop");
    std::fs::copy("/usr/local/bin/orlop", &program)?;
    let said = orlop(&program, &["install"])?;
    assert!(said.contains("all files are in place") && said.contains("answers on"), "{said}");

    let mut cri = Cri::connect(Path::new(SOCKET)).await?;
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "installed".to_owned(),
            namespace: "e2e".to_owned(),
            uid: "installed".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pod = cri.run_pod(config, "").await?;
    let file = directory.path().join("values.toml");
    std::fs::write(&file, "[log]\nlevel = \"debug\"\n")?;
    let configured = ["install", "--config", &file.to_string_lossy()];
    let before = property(UNIT, "MainPID")?;
    let said = orlop(&program, &configured)?;
    assert!(said.contains("restarted orlop.service") && said.contains("answers on"), "{said}");
    let after = property(UNIT, "MainPID")?;
    assert_ne!(after, before);
    let said = orlop(&program, &configured)?;
    assert!(!said.contains("restarted"), "{said}");
    assert_eq!(property(UNIT, "MainPID")?, after);
    assert_eq!(property(&scope_of(&pod), "ActiveState")?, "active");

    let said = orlop(&program, &["uninstall"])?;
    assert!(said.contains("1 pods are still there") && said.contains("exit status: 1"), "{said}");
    assert_eq!(property(UNIT, "MainPID")?, after);
    cri = Cri::connect(Path::new(SOCKET)).await?;
    cri.remove_all().await?;
    let said = orlop(&program, &["uninstall"])?;
    assert!(said.contains("stopped orlop.service"), "{said}");
    assert_eq!(property(UNIT, "LoadState")?, "not-found");
    assert!(!Path::new("/usr/local/bin/orlop").exists());
    let said = orlop(&program, &["installed"])?;
    assert!(said.contains("nothing is installed"), "{said}");

    let said = orlop(&program, &["install"])?;
    assert!(said.contains("restarted orlop.service") && said.contains("answers on"), "{said}");
    assert_eq!(property(UNIT, "UnitFileState")?, "enabled");
    Ok(())
}

/// Writes a number every tenth of a second.
const COUNTS: &str = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn root_restarting_the_unit_costs_pods_nothing() -> Result<()> {
    let _alone = SYSTEMD.lock().await;
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let archive = directory.path().join("demo.tar");
    fixtures::busybox()?.write_archive(&archive, DEMO)?;
    output("orlop", &["image", "import", &archive.to_string_lossy()])?;
    let mut cri = Cri::connect(Path::new(SOCKET)).await?;
    let mut config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "unit".to_owned(),
            namespace: "e2e".to_owned(),
            uid: "unit".to_owned(),
            ..Default::default()
        }),
        log_directory: directory.path().to_string_lossy().into_owned(),
        ..Default::default()
    };
    config.hostname = "unit".to_owned();
    let pod = cri.run_pod(config, "").await?;
    let counting = container("counts", DEMO, &["sh", "-c", COUNTS]);
    let id = cri.launch(&pod, &counting).await?;
    let device = cri.launch(&pod, &with_device()).await?;
    let started = cri.status(&id).await?.started_at;
    for (verb, unit) in [("restart", UNIT), ("kill", UNIT), ("daemon-reload", ""), ("stop", UNIT)] {
        let before = property(UNIT, "MainPID")?;
        let units: Vec<_> = Some(unit).filter(|unit| !unit.is_empty()).into_iter().collect();
        match verb {
            "kill" => {
                output("systemctl", &["kill", "-s", "KILL", "--kill-whom=main", UNIT]).map(drop)?
            }
            _ => systemctl(verb, &units)?,
        }
        if verb == "stop" {
            assert_eq!(property(UNIT, "ActiveState")?, "inactive");
            let lines = counted(&pod, &counting)?;
            eventually("the container goes on", || Ok(counted(&pod, &counting)? > lines + 3))
                .await?;
            systemctl("start", &[UNIT])?;
        }
        eventually("the unit is active", || {
            let is_new = verb == "daemon-reload" || property(UNIT, "MainPID")? != before;
            Ok(is_new && property(UNIT, "ActiveState")? == "active")
        })
        .await
        .with_context(|| verb.to_owned())?;
        cri = Cri::connect(Path::new(SOCKET)).await?;
        let status = cri.status(&id).await?;
        assert_eq!(status.state(), ContainerState::ContainerRunning, "{verb}");
        assert_eq!(status.started_at, started, "{verb}");
        expect_device(&mut cri, &device).await.with_context(|| verb.to_owned())?;
    }
    let lines = counted(&pod, &counting)?;
    eventually("the log goes on", || Ok(counted(&pod, &counting)? > lines)).await?;
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    eventually("systemd forgets the scope", || {
        Ok(property(&scope_of(&pod), "LoadState")? == "not-found")
    })
    .await
}

/// How far the log of [`COUNTS`] has come; no number may be missing.
fn counted(pod: &Pod, config: &ContainerConfig) -> Result<usize> {
    let log = std::fs::read_to_string(pod.log_path(config))?;
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for (number, line) in (1..).zip(whole.lines()) {
        assert!(line.ends_with(&format!(" F {number}")), "line {number} is {line:?}");
    }
    Ok(whole.lines().count())
}
