//! Process 1 of the cluster: sets up its namespaces, starts the components, starts
//! those again that end, buries orphans, and ends them all when told to.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, WaitOptions, wait};
use tokio::signal::unix::{SignalKind, signal};

use super::{ADDRESS, CGROUP, Cluster, KUBELET, components};
use crate::fixtures::{self, OWN_REGISTRY};
use crate::host;
use crate::process::output;
use crate::registry::Registry;

/// How long a component that ended stays down.
const PAUSE: Duration = Duration::from_millis(300);
/// How large the node's disk is; only what is written takes space on the machine.
const DISK_BYTES: u64 = 6 << 30;

/// Runs until SIGTERM; the kernel then ends what is left.
///
/// # Errors
/// If the namespaces cannot be set up or the images cannot be made.
pub async fn run(cluster: &Cluster) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    // Volumes that pods share with each other need shared mounts, but none of the host's.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .context("make / shared")?;
    output("ip", &["link", "set", "lo", "up"])?;
    output("ip", &["link", "add", "node0", "type", "bridge"])?;
    output("ip", &["address", "add", &format!("{ADDRESS}/24"), "dev", "node0"])?;
    output("ip", &["link", "set", "node0", "up"])?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forward between pods")?;
    host::make_cgroup(CGROUP)?;
    mount_disk(cluster)?;

    let mut registry = Registry::start(&cluster.path("registry"))?;
    fixtures::push_cluster_images(&mut registry, &cluster.programs)?;
    registry.write_hosts(&cluster.path("hosts"), &[OWN_REGISTRY])?;

    let mut components = Components::new(cluster);
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = tick.tick() => components.look_after()?,
        }
    }
}

/// Mounts the node's disk, which pods can fill without harm to the machine, and puts the
/// kubelet's directory on it at the one place where device plugins look for the kubelet.
fn mount_disk(cluster: &Cluster) -> Result<()> {
    let (image, disk) = (cluster.path("disk.img"), cluster.disk());
    fs::File::create(&image)?.set_len(DISK_BYTES).context("make the node's disk")?;
    output("mke2fs", &[OsStr::new("-qFtext4"), image.as_os_str()])?;
    fs::create_dir_all(&disk)?;
    output("mount", &[OsStr::new("-oloop"), image.as_os_str(), disk.as_os_str()])?;
    let kubelet = disk.join("kubelet");
    fs::create_dir(&kubelet)?;
    output("mount", &[OsStr::new("--bind"), kubelet.as_os_str(), OsStr::new(KUBELET)])?;
    Ok(())
}

struct Components<'a> {
    cluster: &'a Cluster,
    running: HashMap<Pid, &'static str>,
    ended: HashMap<&'static str, Instant>,
}

impl<'a> Components<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let ended = components::NAMES.iter().map(|name| (*name, Instant::now() - PAUSE)).collect();
        Self { cluster, running: HashMap::new(), ended }
    }

    fn look_after(&mut self) -> Result<()> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(name) = self.running.remove(&pid) {
                println!("{name} ended: {status:?}");
                self.ended.insert(name, Instant::now());
            }
        }
        for name in components::NAMES {
            let due = self.ended.get(name).is_some_and(|ended| ended.elapsed() >= PAUSE);
            if due && !self.cluster.path(&format!("run/{name}.hold")).exists() {
                self.ended.remove(name);
                self.start(name)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, name: &'static str) -> Result<()> {
        let log = self.cluster.path(&format!("log/{name}.log"));
        let log = fs::File::options().create(true).append(true).open(log)?;
        let mut command = components::command(self.cluster, name)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        fs::write(self.cluster.path(&format!("run/{name}.pid")), child.id().to_string())?;
        println!("{name} started: process {}", child.id());
        self.running.insert(pid, name);
        Ok(())
    }
}
