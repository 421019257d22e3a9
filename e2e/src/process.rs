//! Child processes that end with their owner.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A process in a process group of its own, killed and reaped when dropped.
#[derive(Debug)]
pub struct Owned {
    child: Child,
    name: String,
}

impl Owned {
    /// Starts `command` with both outputs appended to the file `log`.
    ///
    /// A group of its own keeps Ctrl-C from reaching it before its owner.
    ///
    /// # Errors
    /// If the log cannot be opened or the program cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, name })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, without waiting.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Sends a signal; a process that is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _gone_already = kill_process(pid, signal);
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {patience:?}", self.name);
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone_already = self.child.kill();
            let _reaped_already = self.child.wait();
        }
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started or fails; the error carries what it wrote to standard error.
pub fn output<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let name = format!("{command:?}");
    let output = command.output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An address on loopback that was free a moment ago.
///
/// # Errors
/// If no port can be bound.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a free port")?.local_addr()?)
}
