//! A runtime that takes part: its configuration, its daemon, and the end of all it made.
//!
//! Each has the same bridge plugins of CNI for its pods, but for [`Kind::Builtin`]; each has
//! its defaults otherwise, where this machine lets it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::VersionRequest;
use rustix::process::Signal;
use tokio::time::sleep;

use super::images::PAUSE;
use crate::client::Cri;
use crate::cni::{Cni, PLUGINS};
use crate::fixtures::OWN_REGISTRY;
use crate::host;
use crate::node::{Node, Settings};
use crate::process::{Owned, output};
use crate::registry::Registry;

/// How long a daemon may take until it answers, its pods included.
const START: Duration = Duration::from_secs(60);
/// How often a starting daemon is asked.
const ASK: Duration = Duration::from_millis(1);

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// orlop with CNI plugins.
    Orlop,
    /// orlop with its built-in network.
    Builtin,
    /// containerd with runc.
    Containerd,
    /// CRI-O with conmon and crun.
    Crio,
}

impl Kind {
    /// The name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Orlop => "orlop",
            Self::Builtin => "orlop builtin net",
            Self::Containerd => "containerd+runc",
            Self::Crio => "CRI-O+crun",
        }
    }

    /// A number that no other has, for its network.
    fn number(self) -> u8 {
        match self {
            Self::Orlop => 241,
            Self::Builtin => 242,
            Self::Containerd => 243,
            Self::Crio => 244,
        }
    }

    /// How many pods its network holds.
    #[must_use]
    pub fn most_pods(self) -> u32 {
        match self {
            Self::Builtin => 1000,
            // A network of 254 addresses.
            _ => 200,
        }
    }

    fn is_orlop(self) -> bool {
        matches!(self, Self::Orlop | Self::Builtin)
    }
}

/// Where the peers' programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `containerd`, with its shim beside it, and `runc`, `crio`, `pinns`, `conmon`, `crun`.
    pub folder: PathBuf,
}

impl Programs {
    fn path(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        if !path.exists() {
            bail!("{} is missing: hack/bench builds it", path.display());
        }
        Ok(path.to_string_lossy().into_owned())
    }
}

/// A runtime that answers.
#[derive(Debug)]
pub struct Contestant {
    /// Who it is.
    pub kind: Kind,
    /// A connection to it.
    pub cri: Cri,
    directory: PathBuf,
    /// Where nobody but it has processes, without leading slash.
    group: String,
    command: Vec<String>,
    socket: PathBuf,
    daemon: Option<Owned>,
    started: Duration,
    _cni: Option<Cni>,
    _node: Option<Node>,
}

impl Contestant {
    /// Starts a contestant in `directory`, which is made.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub async fn start(
        kind: Kind,
        directory: &Path,
        programs: &Programs,
        registry: &Registry,
    ) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let hosts = directory.join("hosts");
        registry.write_hosts(&hosts, &[OWN_REGISTRY])?;
        let cni = match kind {
            Kind::Builtin => None,
            _ => Some(Cni::write(directory, kind.number())?),
        };
        let mut node = None;
        let (command, socket) = match kind {
            Kind::Orlop | Kind::Builtin => {
                let settings = Settings {
                    hosts_dir: Some(hosts),
                    conf_dir: cni.as_ref().map(|cni| cni.conf_dir.clone()),
                    ..Settings::default()
                };
                let node = node.insert(Node::at(directory, settings)?);
                (words(&node.command()?), node.socket())
            }
            Kind::Containerd => containerd(directory, programs)?,
            Kind::Crio => crio(directory, programs, registry)?,
        };
        let names = directory.iter().rev().take(2).map(|name| name.to_string_lossy());
        let group = names.collect::<Vec<_>>().join("-of-");
        for part in ["daemon", "pods"] {
            host::make_cgroup(&format!("{group}/{part}"))?;
        }
        let mut daemon = None;
        let began = Instant::now();
        let started = begin(&command, &group, directory, &socket, &mut daemon).await;
        let cri = started.with_context(|| format!("start {}", kind.name()));
        let owned = directory.to_owned();
        // What was begun is in it before an error is returned, so that all of it goes.
        let leftovers = Leftovers { kind, directory: &owned, group: &group };
        let cri = match cri {
            Ok(cri) => cri,
            Err(error) => {
                drop(daemon);
                leftovers.remove();
                return Err(error);
            }
        };
        Ok(Self {
            kind,
            cri,
            directory: owned,
            group,
            command,
            socket,
            daemon,
            started: began.elapsed(),
            _cni: cni,
            _node: node,
        })
    }

    /// The name in tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// How long its daemon took until it answered.
    #[must_use]
    pub fn started(&self) -> Duration {
        self.started
    }

    /// The cgroup of everything of it.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The cgroup of its daemon and its helpers.
    #[must_use]
    pub fn daemon_group(&self) -> String {
        format!("{}/daemon", self.group)
    }

    /// The parent cgroup of its pods.
    #[must_use]
    pub fn pods_group(&self) -> String {
        format!("/{}/pods", self.group)
    }

    /// Where its pods' logs go.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.directory.join("pod-logs")
    }

    /// Kills the daemon, starts it again, and says how long it took until it answered.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub async fn restart(&mut self) -> Result<Duration> {
        if let Some(mut daemon) = self.daemon.take() {
            // What was started is a shell that has become the daemon: one process.
            daemon.signal(Signal::KILL);
            daemon.wait(Duration::from_secs(10))?;
        }
        let began = Instant::now();
        self.cri =
            begin(&self.command, &self.group, &self.directory, &self.socket, &mut self.daemon)
                .await?;
        self.cri.pods().await.context("list pods")?;
        Ok(began.elapsed())
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let (kind, directory, group) = (self.kind, &self.directory, &self.group);
        Leftovers { kind, directory, group }.remove();
    }
}

/// What a runtime may leave when it is killed.
struct Leftovers<'a> {
    kind: Kind,
    directory: &'a Path,
    group: &'a str,
}

impl Leftovers<'_> {
    fn remove(&self) {
        let marks = [&*self.directory.to_string_lossy()];
        for _round in 0..20 {
            let mut processes = host::processes_marked(&marks).unwrap_or_default();
            for process in super::meter::processes(self.group) {
                processes.entry(process).or_default();
            }
            if processes.is_empty() {
                break;
            }
            host::kill_all(&processes);
            std::thread::sleep(Duration::from_millis(50));
        }
        for point in host::mounts_below(self.directory).unwrap_or_default().iter().rev() {
            let _gone_already =
                rustix::mount::unmount(point.as_str(), rustix::mount::UnmountFlags::DETACH);
        }
        if !self.kind.is_orlop() {
            // orlop's own go with its node.
            self.remove_network_namespaces();
        }
        let _nothing_to_list = host::remove_cgroups(self.group);
    }

    /// Namespaces that the peers pin outside of their directories.
    fn remove_network_namespaces(&self) {
        let prefix = match self.kind {
            Kind::Containerd => "cni-",
            _ => return,
        };
        let Ok(entries) = fs::read_dir(self.directory.join("netns")) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                let _gone_already =
                    rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH);
                let _gone_already = fs::remove_file(entry.path());
            }
        }
    }
}

fn words(command: &Command) -> Vec<String> {
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?)));
    let arguments = std::iter::once(command.get_program()).chain(command.get_args());
    std::iter::once("env".to_owned())
        .chain(set)
        .chain(arguments.map(|word| word.to_string_lossy().into_owned()))
        .collect()
}

/// Starts a daemon in its cgroup and waits until it answers.
async fn begin(
    words: &[String],
    group: &str,
    directory: &Path,
    socket: &Path,
    daemon: &mut Option<Owned>,
) -> Result<Cri> {
    // Where it is counted, and nowhere else.
    let file = super::meter::processor_group(group).join("daemon/cgroup.procs");
    let script = format!("echo $$ > {} && exec \"$@\"", file.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).args(words);
    let log = directory.join("bench.log");
    let process = daemon.insert(Owned::start(command, &log)?);
    let deadline = Instant::now() + START;
    loop {
        if let Some(status) = process.ended()? {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let end: Vec<_> = text.lines().rev().take(20).collect();
            let end = end.into_iter().rev().fold(String::new(), |text, line| text + line + "\n");
            bail!("the daemon ended with {status}:\n{end}");
        }
        if let Ok(mut cri) = Cri::connect(socket).await
            && cri.runtime.version(VersionRequest::default()).await.is_ok()
        {
            return Ok(cri);
        }
        if Instant::now() > deadline {
            bail!("the daemon does not answer after {START:?}: see {}", log.display());
        }
        sleep(ASK).await;
    }
}

/// Configures containerd: parallel unpacking is on, the rest is as it comes.
fn containerd(directory: &Path, programs: &Programs) -> Result<(Vec<String>, PathBuf)> {
    let (config, socket) = (directory.join("containerd.toml"), directory.join("containerd.sock"));
    let (at, runc) = (directory.display(), programs.path("runc")?);
    let text = format!(
        r#"version = 3
root = "{at}/root"
state = "{at}/state"
[grpc]
address = "{socket}"
[ttrpc]
address = "{at}/ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{at}/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{PLUGINS}"]
conf_dir = "{at}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
Root = "{at}/runc"
SystemdCgroup = false
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{at}/hosts"
[plugins."io.containerd.transfer.v1.local"]
config_path = "{at}/hosts"
max_concurrent_unpacks = 4
"#,
        socket = socket.display()
    );
    fs::write(&config, text)?;
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", programs.folder.display());
    let words = ["env", &path, &programs.path("containerd")?, "--log-level", "warn", "-c"];
    let mut words: Vec<_> = words.into_iter().map(str::to_owned).collect();
    words.push(config.to_string_lossy().into_owned());
    Ok((words, socket))
}

/// Configures CRI-O. It is started where it does not see the v2 hierarchy of a machine that
/// has controllers in v1 as well, which crun refuses.
fn crio(
    directory: &Path,
    programs: &Programs,
    registry: &Registry,
) -> Result<(Vec<String>, PathBuf)> {
    let (config, socket) = (directory.join("crio.conf"), directory.join("crio.sock"));
    let (policy, home) = (directory.join("policy.json"), directory.join("home"));
    let at = directory.display();
    let text = format!(
        r#"[crio]
root = "{at}/storage"
runroot = "{at}/run"
storage_driver = "overlay"
log_dir = "{at}/log"
version_file = "{at}/version"
version_file_persist = "{at}/version-persist"
clean_shutdown_file = "{at}/clean"
[crio.api]
listen = "{socket}"
stream_address = "127.0.0.1"
stream_port = "0"
[crio.runtime]
default_runtime = "crun"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = "{pinns}"
namespaces_dir = "{at}/ns"
container_exits_dir = "{at}/exits"
container_attach_socket_dir = "{at}/attach"
hooks_dir = []
apparmor_profile = "unconfined"
[crio.runtime.runtimes.crun]
runtime_path = "{crun}"
runtime_root = "{at}/crun"
monitor_path = "{conmon}"
monitor_cgroup = "pod"
[crio.image]
pause_image = "{PAUSE}"
pause_command = "/pause"
signature_policy = "{policy}"
[crio.network]
network_dir = "{at}/cni"
plugin_dirs = ["{PLUGINS}"]
[crio.nri]
enable_nri = false
"#,
        socket = socket.display(),
        policy = policy.display(),
        pinns = programs.path("pinns")?,
        crun = programs.path("crun")?,
        conmon = programs.path("conmon")?,
    );
    fs::write(&config, text)?;
    fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)?;
    fs::create_dir_all(home.join(".config/containers"))?;
    fs::write(
        home.join(".config/containers/registries.conf"),
        format!(
            "[[registry]]\nprefix = \"{OWN_REGISTRY}\"\nlocation = \"{}\"\ninsecure = true\n",
            registry.address()
        ),
    )?;
    let drop_ins = directory.join("crio.conf.d");
    fs::create_dir_all(&drop_ins)?;
    let script = format!(
        "mount --make-private /sys/fs/cgroup; umount /sys/fs/cgroup/unified 2>/dev/null\n\
         export HOME={}; exec {} --config {} --config-dir {} --log-level warn",
        home.display(),
        programs.path("crio")?,
        config.display(),
        drop_ins.display()
    );
    let words = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", &script];
    Ok((words.into_iter().map(str::to_owned).collect(), socket))
}

/// The versions of the programs that take part, each in one line.
///
/// # Errors
/// If one does not say.
pub fn versions(kinds: &[Kind], programs: &Programs) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut add = |program: String, arguments: &[&str]| -> Result<()> {
        let printed = output(program, arguments)?;
        lines.push(printed.lines().next().unwrap_or_default().trim().to_owned());
        Ok(())
    };
    for kind in kinds {
        match kind {
            Kind::Orlop => {
                add(crate::node::binary()?.to_string_lossy().into_owned(), &["--version"])?
            }
            Kind::Builtin => {}
            Kind::Containerd => {
                add(programs.path("containerd")?, &["--version"])?;
                add(programs.path("runc")?, &["--version"])?;
            }
            Kind::Crio => {
                add(programs.path("crio")?, &["--version"])?;
                add(programs.path("conmon")?, &["--version"])?;
                add(programs.path("crun")?, &["--version"])?;
            }
        }
    }
    Ok(lines)
}
