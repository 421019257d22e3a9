//! What only a machine with nothing but cgroup v2 can show: the limits, device rules and
//! kills of containers in the one hierarchy, whoever makes the groups. `hack/vm test` runs these.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cri_api::v1::{
    ContainerConfig, ContainerStats, ContainerStatsRequest, Device, LinuxContainerResources,
    LinuxContainerSecurityContext, NamespaceMode, NamespaceOption,
};
use e2e::client::{CALL, Cri, Pod, container};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{CgroupDriver, Node, Settings};
use tokio::time::sleep;

/// A device of this machine that containers have no business with.
const DISK: &str = "/dev/vda";

/// A memory limit that busybox is far from.
const LIMIT: i64 = 64 << 20;

const DRIVERS: [CgroupDriver; 2] = [CgroupDriver::Cgroupfs, CgroupDriver::Systemd];

/// A node with the demo image, a connection, and an empty pod.
async fn pod(cgroup_driver: CgroupDriver) -> Result<(Node, Cri, Pod)> {
    host::require_root()?;
    let node = Node::start(Settings { cgroup_driver, ..Settings::default() }).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    let mut config = node.pod("pod");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = cri.run_pod(config, "").await?;
    Ok((node, cri, pod))
}

fn limited(name: &str, script: &str, resources: LinuxContainerResources) -> ContainerConfig {
    let mut config = container(name, DEMO, &["sh", "-c", script]);
    config.linux.get_or_insert_default().resources = Some(resources);
    config
}

fn privileged(name: &str, script: &str) -> ContainerConfig {
    let mut config = container(name, DEMO, &["sh", "-c", script]);
    config.linux.get_or_insert_default().security_context =
        Some(LinuxContainerSecurityContext { privileged: true, ..Default::default() });
    config
}

/// What a command in the container printed on both outputs.
async fn said(cri: &mut Cri, id: &str, command: &str) -> Result<String> {
    let said = cri.exec(id, &["sh", "-c", command]).await?;
    let text = [said.stdout, said.stderr].concat();
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// The cgroup of a container on the host.
fn group(node: &Node, id: &str) -> Result<PathBuf> {
    let below = host::cgroups_below(&node.cgroup_parent())?;
    below.into_iter().find(|path| path.ends_with(id)).context("the container has no cgroup")
}

fn unified(values: &[(&str, &str)]) -> LinuxContainerResources {
    let unified = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    LinuxContainerResources { unified: unified.collect(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_sees_its_limits_in_a_group_of_its_own() -> Result<()> {
    for driver in DRIVERS {
        a_container_sees_its_limits_in_a_group_of_its_own(driver)
            .await
            .with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

async fn a_container_sees_its_limits_in_a_group_of_its_own(driver: CgroupDriver) -> Result<()> {
    let (_node, mut cri, pod) = pod(driver).await?;
    let resources = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 1024,
        cpuset_cpus: "0".to_owned(),
        memory_limit_in_bytes: LIMIT,
        memory_swap_limit_in_bytes: LIMIT + (16 << 20),
        ..unified(&[("memory.high", "50331648"), ("pids.max", "77"), ("memory.oom.group", "1")])
    };
    let id = cri.launch(&pod, &limited("limited", "sleep 1000", resources)).await?;
    let group = "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat ";
    for (files, values) in [
        ("", "0::/"),
        ("memory.max memory.swap.max memory.high", "0::/\n67108864\n16777216\n50331648"),
        ("memory.oom.group pids.max", "0::/\n1\n77"),
        ("cpu.max cpuset.cpus.effective", "0::/\n50000 100000\n0"),
    ] {
        let files = if files.is_empty() { "/dev/null" } else { files };
        assert_eq!(said(&mut cri, &id, &format!("{group}{files}")).await?, values, "{files}");
    }
    // 1024 shares are the weight of any other group, however the scale is converted.
    let weight: u32 = said(&mut cri, &id, "cat /sys/fs/cgroup/cpu.weight").await?.parse()?;
    assert!((39..=100).contains(&weight), "{weight}");
    let refused = said(&mut cri, &id, "echo max > /sys/fs/cgroup/memory.max").await?;
    assert!(refused.contains("Read-only"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_out_of_memory_says_so_when_it_is_first_seen_exited() -> Result<()> {
    for driver in DRIVERS {
        a_container_out_of_memory_says_so_when_it_is_first_seen_exited(driver)
            .await
            .with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

async fn a_container_out_of_memory_says_so_when_it_is_first_seen_exited(
    driver: CgroupDriver,
) -> Result<()> {
    let (_node, mut cri, pod) = pod(driver).await?;
    let eats = "dd if=/dev/zero of=/dev/null bs=100M count=1";
    let limit = LinuxContainerResources { memory_limit_in_bytes: LIMIT, ..Default::default() };
    let whole = LinuxContainerResources {
        memory_limit_in_bytes: LIMIT,
        ..unified(&[("memory.oom.group", "1")])
    };
    for (name, script, resources, code) in [
        ("itself", format!("exec {eats}"), limit.clone(), 137),
        // The shell outlives its child and tells.
        ("child", format!("{eats}; exit 5"), limit, 5),
        ("group", format!("{eats}; exit 5"), whole, 137),
    ] {
        let id = cri.launch(&pod, &limited(name, &script, resources)).await?;
        let first = cri.wait_exited(&id).await?;
        let seen = (first.exit_code, first.reason.as_str());
        assert_eq!(seen, (code, "OOMKilled"), "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_devices_are_those_that_were_given() -> Result<()> {
    for driver in DRIVERS {
        devices_are_those_that_were_given(driver).await.with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

async fn devices_are_those_that_were_given(driver: CgroupDriver) -> Result<()> {
    let (_node, mut cri, pod) = pod(driver).await?;
    let plain = container("plain", DEMO, &["sleep", "1000"]);
    let mut given = container("given", DEMO, &["sleep", "1000"]);
    given.devices = vec![Device {
        host_path: DISK.to_owned(),
        container_path: "/dev/given".to_owned(),
        permissions: "r".to_owned(),
    }];
    let disk = std::fs::metadata(DISK)?.rdev();
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    let make = format!("mknod /tmp/zero c 1 5 && mknod /tmp/disk b {major} {minor} && echo made");
    let read = |node: &str| format!("head -c 1 {node} > /dev/null && echo may read");
    // Opened, but not written to.
    let write = |node: &str| format!(": >> {node} && echo may write");
    let id = cri.launch(&pod, &plain).await?;
    assert_eq!(said(&mut cri, &id, &make).await?, "made");
    assert_eq!(said(&mut cri, &id, &read("/tmp/zero")).await?, "may read");
    let refused = said(&mut cri, &id, &read("/tmp/disk")).await?;
    assert!(refused.contains("Operation not permitted"), "{refused}");
    let id = cri.launch(&pod, &given).await?;
    assert_eq!(said(&mut cri, &id, &make).await?, "made");
    for node in ["/dev/given", "/tmp/disk"] {
        assert_eq!(said(&mut cri, &id, &read(node)).await?, "may read");
        let refused = said(&mut cri, &id, &write(node)).await?;
        assert!(refused.contains("Operation not permitted"), "{refused}");
    }
    let id = cri.launch(&pod, &privileged("privileged", "sleep 1000")).await?;
    assert_eq!(said(&mut cri, &id, &make).await?, "made");
    assert_eq!(said(&mut cri, &id, &write("/tmp/disk")).await?, "may write");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_stopping_kills_what_left_its_parent_and_the_group_goes() -> Result<()> {
    for driver in DRIVERS {
        stopping_kills_what_left_its_parent_and_the_group_goes(driver)
            .await
            .with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

async fn stopping_kills_what_left_its_parent_and_the_group_goes(
    driver: CgroupDriver,
) -> Result<()> {
    let (node, mut cri, _pod) = pod(driver).await?;
    let mut config = node.pod("shared");
    let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    let options = NamespaceOption { pid: NamespaceMode::Pod.into(), ..Default::default() };
    context.namespace_options = Some(options.clone());
    let pod = cri.run_pod(config, "").await?;
    // In a PID namespace that others share, only the group holds them together.
    let strays =
        "for n in 1 2 3 4 5; do setsid sh -c 'trap : TERM; while :; do sleep 1; done' & done; wait";
    let mut stray = container("strays", DEMO, &["sh", "-c", strays]);
    stray.linux.get_or_insert_default().security_context = Some(LinuxContainerSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    });
    let id = cri.launch(&pod, &stray).await?;
    let group = group(&node, &id)?;
    let procs = || std::fs::read_to_string(group.join("cgroup.procs"));
    assert_eq!(said(&mut cri, &id, "cat /proc/self/cgroup").await?, "0::/");
    assert!(procs()?.lines().count() >= 6, "{}", procs()?);
    cri.stop(&id, 0).await?;
    cri.wait_exited(&id).await?;
    assert_eq!(procs().unwrap_or_default(), "");
    cri.remove(&id).await?;
    assert!(!group.exists(), "{}", group.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_that_divides_its_group_can_be_entered_and_removed() -> Result<()> {
    for driver in DRIVERS {
        a_container_that_divides_its_group_can_be_entered_and_removed(driver)
            .await
            .with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

async fn a_container_that_divides_its_group_can_be_entered_and_removed(
    driver: CgroupDriver,
) -> Result<()> {
    let (node, mut cri, pod) = pod(driver).await?;
    // As systemd does in a container: itself into a group below, controllers to that.
    let divides = "cd /sys/fs/cgroup$(sed s/0::// /proc/self/cgroup) && mkdir init && echo 0 > init/cgroup.procs && \
                   echo +memory +pids > cgroup.subtree_control; exec sleep 1000";
    let id = cri.launch(&pod, &privileged("divides", divides)).await?;
    let group = group(&node, &id)?;
    let deadline = Instant::now() + CALL;
    while !group.join("init/memory.max").exists() {
        assert!(Instant::now() < deadline, "{} is not divided", group.display());
        sleep(Duration::from_millis(50)).await;
    }
    assert!(said(&mut cri, &id, "cat /proc/self/cgroup").await?.ends_with(&format!("{id}/init")));
    cri.stop(&id, 0).await?;
    cri.remove(&id).await?;
    assert!(!group.exists(), "{}", group.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_running_container_has_statistics() -> Result<()> {
    for driver in DRIVERS {
        a_running_container_has_statistics(driver).await.with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

async fn a_running_container_has_statistics(driver: CgroupDriver) -> Result<()> {
    let (node, mut cri, pod) = pod(driver).await?;
    let limit = LinuxContainerResources { memory_limit_in_bytes: LIMIT, ..Default::default() };
    let script = "seq 1 30000 > /dev/null; dd if=/dev/zero of=/dev/shm/x bs=1M count=8; sleep 1000";
    let id = cri.launch(&pod, &limited("busy", script, limit)).await?;
    said(&mut cri, &id, "until [ -s /dev/shm/x ]; do sleep 0.1; done").await?;
    let request = ContainerStatsRequest { container_id: id.clone() };
    let stats = cri.runtime.container_stats(request).await?.into_inner().stats;
    let ContainerStats { cpu, memory, .. } = stats.context("no statistics")?;
    let (cpu, memory) = (cpu.context("no cpu")?, memory.context("no memory")?);
    let value = |value: Option<cri_api::v1::UInt64Value>| value.map_or(0, |value| value.value);
    assert!(value(cpu.usage_core_nano_seconds) > 0);
    let (usage, set) = (value(memory.usage_bytes), value(memory.working_set_bytes));
    assert!(set > 1 << 20 && usage >= set && usage < LIMIT.unsigned_abs(), "{usage} {set}");
    let available = value(memory.available_bytes);
    assert_eq!(available, LIMIT.unsigned_abs() - set);
    let group = group(&node, &id)?;
    assert!(has_pressure(&group)?, "this kernel has no pressure stall information");
    Ok(())
}

fn has_pressure(group: &Path) -> Result<bool> {
    Ok(std::fs::read_to_string(group.join("memory.pressure"))?.contains("full avg10="))
}
