//! A daemon in a directory of its own: started, killed, started again, counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::{LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, VersionRequest};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::client::Cri;
use crate::fixtures::DEMO;
use crate::host::{self, Holdings};
use crate::process::{Owned, output};

/// How long a daemon may take until it answers, recovery included.
const START: Duration = Duration::from_secs(30);
/// How long a daemon may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(30);

/// Who makes the pods' cgroups: the same on every machine, unless a test is about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// orlop.
    #[default]
    Cgroupfs,
    /// systemd, which must be this machine's process 1.
    Systemd,
}

/// What the configuration file says beyond the defaults.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `hosts.toml` files.
    pub hosts_dir: Option<PathBuf>,
    /// CNI configuration; the built-in network where there is none.
    pub conf_dir: Option<PathBuf>,
    /// CNI plugins; the distribution's where there is none.
    pub plugin_dir: Option<PathBuf>,
    /// Who makes the pods' cgroups.
    pub cgroup_driver: CgroupDriver,
    /// More lines of TOML, tables of their own.
    pub more: String,
}

/// A daemon and its directories; ended and removed when dropped.
#[derive(Debug)]
pub struct Node {
    process: Option<Owned>,
    directory: PathBuf,
    mark: String,
    settings: Settings,
    _temporary: Option<TempDir>,
}

/// The `orlop` binary: named by `ORLOP_BINARY`, or the one built beside this program.
///
/// # Errors
/// If there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ORLOP_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let this = std::env::current_exe().context("find this program")?;
    let beside = this.ancestors().skip(1).take(2).map(|folder| folder.join("orlop"));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .context("no orlop binary beside this program: run `cargo build -p orlop`")
}

impl Node {
    /// Starts a daemon in a new temporary directory.
    ///
    /// # Errors
    /// If it does not answer in time; the error carries the end of its log.
    pub async fn start(settings: Settings) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("orlop-e2e-").tempdir()?;
        let mut node = Self::at(temporary.path(), settings)?;
        node._temporary = Some(temporary);
        node.begin().await?;
        Ok(node)
    }

    /// A node in an existing directory, not started yet; the directory is the caller's.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub fn at(directory: &Path, settings: Settings) -> Result<Self> {
        let name = directory.file_name().context("a directory without a name")?.to_string_lossy();
        let node = Self {
            process: None,
            directory: directory.to_owned(),
            mark: format!("ORLOP_E2E={name}"),
            settings,
            _temporary: None,
        };
        fs::create_dir_all(node.directory.join("logs"))?;
        fs::create_dir_all(node.directory.join("no-cni"))?;
        fs::write(node.config(), node.configuration())?;
        // A file of its own: `more` may have the same table.
        let drop_ins = node.directory.join("config.toml.d");
        fs::create_dir_all(&drop_ins)?;
        let table = match node.settings.cgroup_driver {
            CgroupDriver::Cgroupfs => {
                format!("cgroup_driver = \"cgroupfs\"\ncgroup_parent = \"/{}\"", node.own_cgroup())
            }
            CgroupDriver::Systemd => "cgroup_driver = \"systemd\"".to_owned(),
        };
        fs::write(drop_ins.join("10-cgroups.toml"), format!("[pods]\n{table}\n"))?;
        Ok(node)
    }

    fn configuration(&self) -> String {
        let mut text = String::new();
        if let Some(hosts) = &self.settings.hosts_dir {
            text += &format!("[registry]\nhosts_dir = \"{}\"\n\n", hosts.display());
        }
        let none = self.directory.join("no-cni");
        let conf_dir = self.settings.conf_dir.as_ref().unwrap_or(&none);
        let plugins = self.settings.plugin_dir.as_deref().unwrap_or(Path::new(crate::cni::PLUGINS));
        text += &format!(
            "[network]\nconf_dir = \"{}\"\nplugin_dirs = [\"{}\"]\nbridge = \"{}\"\n\n",
            conf_dir.display(),
            plugins.display(),
            self.bridge()
        );
        text + &self.settings.more
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("config.toml")
    }

    /// The directory that everything of this node is in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The durable directory.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// The volatile directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The CRI socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("orlop.sock")
    }

    /// What the daemon wrote to standard error.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }

    /// The daemon's process id, if it runs.
    #[must_use]
    pub fn daemon(&self) -> Option<u32> {
        self.process.as_ref().map(Owned::id)
    }

    /// The parent cgroup that this node's pods ask for, without leading slash.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        let name = self.mark.trim_start_matches("ORLOP_E2E=");
        match self.settings.cgroup_driver {
            CgroupDriver::Cgroupfs => name.to_owned(),
            // A hyphen in the name of a slice says that it is in another one.
            CgroupDriver::Systemd => {
                let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
                format!("{letters}.slice")
            }
        }
    }

    /// The cgroup above those that ask for no parent, without leading slash; where systemd makes
    /// groups it is the default one.
    #[must_use]
    pub fn own_cgroup(&self) -> String {
        format!("{}-own", self.mark.trim_start_matches("ORLOP_E2E="))
    }

    /// The bridge of this node's built-in network; a name fits in 15 bytes.
    #[must_use]
    pub fn bridge(&self) -> String {
        let name: Vec<_> = self.mark.chars().filter(char::is_ascii_alphanumeric).collect();
        let end: String = name.iter().skip(name.len().saturating_sub(8)).collect();
        format!("orlop-{end}")
    }

    /// The nftables table of this node's built-in network.
    fn table(&self) -> String {
        let digest = crate::layer::digest(self.root().to_string_lossy().as_bytes());
        let tag: String = digest.chars().skip("sha256:".len()).take(8).collect();
        format!("orlop-{tag}")
    }

    /// The command line of the daemon.
    ///
    /// # Errors
    /// If there is no binary.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.arg("daemon").arg("--config").arg(self.config());
        command.arg("--root").arg(self.root()).arg("--state").arg(self.state());
        command.arg("--listen").arg(self.socket());
        if let Some((name, value)) = self.mark.split_once('=') {
            command.env(name, value);
        }
        Ok(command)
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// If it ends or does not answer in time; the error carries the end of its log.
    pub async fn begin(&mut self) -> Result<()> {
        self.begin_as(self.command()?).await
    }

    /// As [`Self::begin`], by a command that becomes that of [`Self::command`].
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn begin_as(&mut self, command: Command) -> Result<()> {
        let mut process = Owned::start(command, &self.log())?;
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = process.ended()? {
                bail!("the daemon ended with {status}:\n{}", self.end_of_log());
            }
            if self.answers().await {
                self.process = Some(process);
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the daemon does not answer after {START:?}:\n{}", self.end_of_log());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn answers(&self) -> bool {
        match Cri::connect(&self.socket()).await {
            Ok(mut cri) => cri.runtime.version(VersionRequest::default()).await.is_ok(),
            Err(_) => false,
        }
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines
            .iter()
            .skip(lines.len().saturating_sub(30))
            .fold(String::new(), |text, line| text + line + "\n")
    }

    /// Ends the daemon with SIGTERM; its pods stay.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.signal(Signal::TERM);
        process.wait(STOP)
    }

    /// Kills the daemon with SIGKILL; its pods stay.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.signal(Signal::KILL);
        process.wait(STOP)
    }

    /// Connects to the daemon.
    ///
    /// # Errors
    /// If it does not accept connections.
    pub async fn connect(&self) -> Result<Cri> {
        Cri::connect(&self.socket()).await
    }

    /// Runs a subcommand of `orlop` that talks to this daemon.
    ///
    /// # Errors
    /// If it fails; the error carries what it wrote to standard error.
    pub fn orlop(&self, arguments: &[&str]) -> Result<String> {
        let socket = self.socket().to_string_lossy().into_owned();
        let mut all = arguments.to_vec();
        all.extend(["--address", &socket]);
        output(binary()?, &all)
    }

    /// Imports the demo image, named [`DEMO`].
    ///
    /// # Errors
    /// If it cannot be made or is refused.
    pub fn import_demo(&self) -> Result<()> {
        let archive = self.directory.join("demo.tar");
        crate::fixtures::busybox()?.write_archive(&archive, DEMO)?;
        self.orlop(&["image", "import", &archive.to_string_lossy()]).map(drop)
    }

    /// A pod of this node, its logs and cgroups in places of its own.
    #[must_use]
    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        let logs = self.directory.join("logs").join(name);
        let _made_by_the_daemon_otherwise = fs::create_dir_all(&logs);
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.cgroup_parent()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// What the node holds on the host, the daemon itself excluded.
    ///
    /// # Errors
    /// If the host cannot be asked.
    pub fn holdings(&self) -> Result<Holdings> {
        let mut processes = self.processes()?;
        if let Some(daemon) = self.daemon().and_then(|id| i32::try_from(id).ok()) {
            processes.remove(&daemon);
        }
        Ok(Holdings {
            mounts: host::mounts_below(&self.directory)?,
            links: host::links_of(&self.bridge())?,
            cgroups: host::cgroups_below(&self.cgroup_parent())?,
            processes,
            files: host::paths_below(&self.state())?,
        })
    }

    /// The process that keeps a pod.
    ///
    /// # Errors
    /// There is none.
    pub fn shim(&self, pod: &str) -> Result<Pid> {
        let line = format!("shim {pod}");
        let found = self.processes()?.into_iter().find(|(_, command)| command.ends_with(&line));
        let (id, _) = found.context("the pod has no shim")?;
        Pid::from_raw(id).context("a process without id")
    }

    /// The bridge and the nftables table of the built-in network, while they exist.
    ///
    /// They come with the first pod and go when a daemon without pods ends.
    ///
    /// # Errors
    /// If the host cannot be asked.
    pub fn network(&self) -> Result<Vec<String>> {
        let mut found: Vec<_> = host::tables_named(&self.table())?.into_iter().collect();
        if Path::new("/sys/class/net").join(self.bridge()).exists() {
            found.push(format!("network link {}", self.bridge()));
        }
        Ok(found)
    }

    /// Waits until the node holds no more than in `before`.
    ///
    /// Processes and cgroups end a moment after the call that ended them; what is
    /// still there when the time is up is a leak.
    ///
    /// # Errors
    /// If something stays; the error names each thing.
    pub async fn expect_no_more_than(&self, before: &Holdings) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.holdings()?.beyond(before);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "left behind:\n  {}\nlog of the daemon:\n{}",
                    left.join("\n  "),
                    self.end_of_log()
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The daemon and what it started, by process id.
    ///
    /// # Errors
    /// If the processes of the host cannot be listed.
    pub fn processes(&self) -> Result<std::collections::BTreeMap<i32, String>> {
        host::processes_marked(&[&self.mark, &self.directory.to_string_lossy()])
    }
}

impl Drop for Node {
    /// Whatever a failed test left goes: processes, then mounts, then cgroups.
    fn drop(&mut self) {
        drop(self.process.take());
        if let Ok(processes) = self.processes() {
            host::kill_all(&processes);
        }
        for point in host::mounts_below(&self.directory).unwrap_or_default().iter().rev() {
            let _gone_already =
                rustix::mount::unmount(point.as_str(), rustix::mount::UnmountFlags::DETACH);
        }
        if self.settings.cgroup_driver == CgroupDriver::Systemd {
            let _not_started = output("systemctl", &["stop", &self.cgroup_parent()]);
        }
        for parent in [self.cgroup_parent(), self.own_cgroup()] {
            let _nothing_to_list = host::remove_cgroups(&parent);
        }
        let _never_made = output("ip", &["link", "delete", &self.bridge()]);
        for table in host::tables_named(&self.table()).unwrap_or_default() {
            let words: Vec<_> = std::iter::once("delete").chain(table.split(' ')).collect();
            let _gone_already = output("nft", &words);
        }
    }
}
