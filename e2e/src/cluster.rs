//! A Kubernetes cluster of one node, kubelet on orlop, in namespaces of its own.
//!
//! ```text
//! rig cluster up
//!  └─ unshare: mounts, network, process ids
//!      └─ rig cluster node            process 1 of all that follows (node.rs)
//!          ├─ docker-registry         filled with the images of the checks
//!          ├─ etcd, kube-apiserver, kube-controller-manager, kube-scheduler
//!          ├─ orlop daemon            CNI plugins of the distribution
//!          └─ kubelet
//! ```
//!
//! Whatever happens, the end of process 1 ends every process, mount and link of the
//! cluster; what the kernel does not take back by itself (cgroups, a few settings that
//! the kubelet changes, the directory) is taken back by [`down`].
//!
//! # References
//! - [KubeletConfiguration](https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/)

/// What the checks ask of a cluster.
pub mod checks;
mod components;
/// kubectl inside the cluster's namespaces.
pub mod kubectl;
/// Process 1 of the cluster.
pub mod node;
mod pki;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::host;
use kubectl::Kubectl;

/// The one node's name.
pub const NODE: &str = "orlop-node";
/// The node's address, on a link of the cluster's own network namespace.
pub const ADDRESS: &str = "10.213.251.1";
/// Where device plugins look for the kubelet: the path is a constant of its API.
const KUBELET: &str = "/var/lib/kubelet";
/// The cgroup that everything of the cluster is below.
pub const CGROUP: &str = "orlop-cluster";

/// How long the node may take until it is ready; etcd and the API server start first.
const UP: Duration = Duration::from_secs(240);
/// How long process 1 may take to end the others.
const DOWN: Duration = Duration::from_secs(30);

/// Settings of the whole machine that the kubelet changes when it starts.
const SETTINGS: [&str; 5] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
];

/// Where a cluster is kept and what it is made of.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Everything of it. A short path: sockets are below it.
    pub directory: PathBuf,
    /// The programs of Kubernetes, etcd and agnhost.
    pub programs: PathBuf,
}

impl Cluster {
    /// A path below the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The node's own disk: images, writable layers, volumes and logs are on it.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.path("disk")
    }

    /// One of the cluster's programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The host's id of process 1, if the cluster is up.
    #[must_use]
    pub fn process_one(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.path("process-one")).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        let name = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let words: Vec<_> = name.split(|byte| *byte == 0).collect();
        let ours = words.contains(&b"cluster".as_slice())
            && words.contains(&self.directory.as_os_str().as_encoded_bytes());
        ours.then_some(pid)
    }

    /// kubectl against this cluster.
    ///
    /// # Errors
    /// If it is not up.
    pub fn kubectl(&self) -> Result<Kubectl> {
        let pid = self.process_one().context("the cluster is not up: run `hack/cluster up`")?;
        Ok(Kubectl::new(self, pid))
    }

    /// Makes the cluster and waits until its node is ready.
    ///
    /// # Errors
    /// If it does not become ready in time; the logs stay for a look.
    pub fn up(&self) -> Result<()> {
        if self.process_one().is_some() {
            bail!("a cluster is up in {}", self.directory.display());
        }
        self.clear()?;
        for folder in ["log", "run", "pki", "manifests", "hosts", "cni", "cdi"] {
            fs::create_dir_all(self.path(folder))?;
        }
        self.make_kubelet_directory()?;
        self.remember_settings()?;
        pki::write(self)?;
        components::write_configurations(self)?;
        self.start_process_one()?;
        self.wait_until_ready()
    }

    fn start_process_one(&self) -> Result<()> {
        let log = fs::File::create(self.path("log/node.log"))?;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--propagation",
            "private",
        ]);
        command.arg(std::env::current_exe()?).args(["cluster", "node", "--directory"]);
        command.arg(&self.directory).arg("--programs").arg(&self.programs);
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let outer = command.process_group(0).spawn().context("start unshare")?;
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let child = fs::read_to_string(&children).unwrap_or_default();
            if let Some(pid) = child.split_whitespace().next() {
                fs::write(self.path("process-one"), pid)?;
                if self.process_one().is_some() {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                bail!("no process 1: see {}", self.path("log/node.log").display());
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + UP;
        let mut said = String::new();
        loop {
            let Some(pid) = self.process_one() else {
                bail!("process 1 ended: see {}", self.path("log/node.log").display());
            };
            let kubectl = Kubectl::new(self, pid);
            let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            match kubectl.run(&["get", "node", NODE, "-o", ready]) {
                Ok(status) if status == "True" => return self.wait_for_account(&kubectl, deadline),
                Ok(status) => said = format!("the node's Ready condition is {status:?}"),
                Err(error) => {
                    said = format!("{error:#}").lines().last().unwrap_or(&said).to_owned()
                }
            }
            if Instant::now() > deadline {
                bail!("not ready after {UP:?}: {said}; logs are in {}", self.path("log").display());
            }
            sleep(Duration::from_millis(500));
        }
    }

    /// Pods are refused until the default account of their namespace exists.
    fn wait_for_account(&self, kubectl: &Kubectl, deadline: Instant) -> Result<()> {
        while kubectl.run(&["get", "serviceaccount", "default"]).is_err() {
            if Instant::now() > deadline {
                bail!("no default service account: see {}", self.path("log").display());
            }
            sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Ends the cluster and takes back what the kernel does not.
    ///
    /// # Errors
    /// If something stays.
    pub fn down(&self) -> Result<()> {
        if let Some(pid) = self.process_one() {
            let _gone_already = kill_process(pid, Signal::TERM);
            let deadline = Instant::now() + DOWN;
            while test_kill_process(pid).is_ok() {
                if Instant::now() > deadline {
                    let _gone_already = kill_process(pid, Signal::KILL);
                }
                sleep(Duration::from_millis(50));
            }
        }
        self.restore_settings()?;
        let deadline = Instant::now() + DOWN;
        loop {
            host::remove_cgroups(CGROUP)?;
            let left = host::cgroups_below(CGROUP)?;
            if left.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                bail!("cgroups stay: {left:?}");
            }
            sleep(Duration::from_millis(100));
        }
        self.clear()
    }

    /// The mount point of the kubelet's directory, and a mark if the machine had none.
    fn make_kubelet_directory(&self) -> Result<()> {
        if !Path::new(KUBELET).exists() {
            fs::write(self.path("made-kubelet"), "")?;
            fs::create_dir_all(KUBELET).with_context(|| format!("make {KUBELET}"))?;
        }
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        if self.path("made-kubelet").exists() {
            fs::remove_dir(KUBELET).with_context(|| format!("remove {KUBELET}"))?;
        }
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }

    fn remember_settings(&self) -> Result<()> {
        for name in SETTINGS {
            if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(name)) {
                let kept = self.path("settings").join(name);
                fs::create_dir_all(kept.parent().context("a name without a folder")?)?;
                fs::write(kept, value)?;
            }
        }
        Ok(())
    }

    fn restore_settings(&self) -> Result<()> {
        for name in SETTINGS {
            let Ok(value) = fs::read_to_string(self.path("settings").join(name)) else { continue };
            let path = Path::new("/proc/sys").join(name);
            if fs::read_to_string(&path).is_ok_and(|now| now != value) {
                fs::write(&path, value).with_context(|| format!("restore {}", path.display()))?;
            }
        }
        Ok(())
    }
}
