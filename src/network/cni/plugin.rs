//! One plugin process: find the executable, feed it, read what it prints within bounds, and
//! end it with everything it started when it takes too long.
//!
//! Specification: CNI 1.1, section 2.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::request::Target;

/// A result is a page of JSON.
const STDOUT_BYTES_MAX: usize = 1024 * 1024;
/// Of what a plugin says to people, the end is kept.
const STDERR_BYTES_KEPT: usize = 4 * 1024;
/// How much of a wrong answer is quoted in an error.
const QUOTED_CHARS: usize = 256;
/// What a plugin left running may hold its output open; the answer is complete when the
/// plugin itself has ended.
const AFTER_EXIT: Duration = Duration::from_secs(1);

/// Variables of the daemon that mean the daemon.
const NOT_FOR_PLUGINS: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

impl Verb {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

/// Why a plugin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no such executable.
    #[error("no such plugin in {}", searched(.directories))]
    Missing {
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// This component is being dropped.
    #[error("no plugin is run any more")]
    Closed,
    /// The process was not started.
    #[error("starting {path}")]
    Start {
        /// The executable.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process was not heard or not reaped.
    #[error("talking to the plugin")]
    Talk(#[source] io::Error),
    /// It took too long and was killed, with what it had started.
    #[error("no answer within {} s, killed{}", .after.as_secs_f32(), said(.stderr))]
    Timeout {
        /// How long it was waited for.
        after: Duration,
        /// The end of what it said.
        stderr: String,
    },
    /// It printed too much and was killed.
    #[error("printed more than {STDOUT_BYTES_MAX} bytes, killed")]
    TooMuchOutput,
    /// It reported an error.
    #[error("{0}")]
    Reported(PluginFailure),
    /// It failed without a report.
    #[error("{status} without a CNI error{}", said(.stderr))]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said, or of what it printed.
        stderr: String,
    },
    /// It succeeded and printed something that is not JSON.
    #[error("printed {printed:?}, which is not a CNI result")]
    Garbage {
        /// The beginning of what it printed.
        printed: String,
        /// Why it is not JSON.
        #[source]
        source: serde_json::Error,
    },
}

/// The error that a plugin prints.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PluginFailure {
    /// The number; below 100 those of the specification.
    pub code: u64,
    /// A short message.
    #[serde(default)]
    pub msg: String,
    /// A longer one.
    #[serde(default)]
    pub details: String,
}

impl std::fmt::Display for PluginFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error {}: {}", self.code, one_line(&self.msg))?;
        if self.details.is_empty() { Ok(()) } else { write!(f, "; {}", one_line(&self.details)) }
    }
}

fn searched(directories: &[PathBuf]) -> String {
    directories.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said {stderr:?}") }
}

/// Words of a plugin, fit for an error message.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(4096).collect()
}

/// The beginning of a wrong answer.
fn quoted(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().chars().take(QUOTED_CHARS).collect()
}

/// What a plugin said, whose end matters.
fn kept(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The installed plugins, and how many of them may run.
#[derive(Debug)]
pub(super) struct Plugins {
    directories: Vec<PathBuf>,
    running: Semaphore,
    deadline: Duration,
}

impl Plugins {
    pub(super) fn new(directories: Vec<PathBuf>, running_max: usize, deadline: Duration) -> Self {
        Self { directories, running: Semaphore::new(running_max.max(1)), deadline }
    }

    /// The executable of a plugin.
    pub(super) fn find(&self, kind: &str) -> Result<PathBuf, PluginError> {
        self.directories
            .iter()
            .map(|directory| directory.join(kind))
            .find(|path| path.is_file())
            .ok_or_else(|| PluginError::Missing { directories: self.directories.clone() })
    }

    /// Runs a plugin to its end and returns what it printed; `null` if that is nothing and
    /// the verb wants nothing.
    ///
    /// # Cancel safety
    /// The process and what it started are killed.
    pub(super) async fn run(
        &self,
        kind: &str,
        verb: Verb,
        target: &Target,
        config: &Value,
    ) -> Result<Value, PluginError> {
        let path = self.find(kind)?;
        let _place = self.running.acquire().await.map_err(|_closed| PluginError::Closed)?;
        let mut child = self
            .command(&path, verb, target)
            .spawn()
            .map_err(|source| PluginError::Start { path, source })?;
        let mut said = Said::default();
        let group = Group::of(&child);
        let talk = talk(&mut child, config.to_string().into_bytes(), &mut said);
        let status = match timeout(self.deadline, talk).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => {
                group.end(&mut child).await;
                return Err(error);
            }
            Err(_elapsed) => {
                group.end(&mut child).await;
                let stderr = kept(&said.stderr);
                return Err(PluginError::Timeout { after: self.deadline, stderr });
            }
        };
        group.ended();
        said.into_answer(status, verb)
    }

    fn command(&self, path: &Path, verb: Verb, target: &Target) -> Command {
        let search: Vec<_> = self.directories.iter().map(|d| d.as_os_str()).collect();
        let mut command = Command::new(path);
        command
            .env("CNI_COMMAND", verb.word())
            .env("CNI_CONTAINERID", &target.container_id)
            .env("CNI_NETNS", target.netns.as_deref().unwrap_or(Path::new("")))
            .env("CNI_IFNAME", target.interface)
            .env("CNI_ARGS", &target.args)
            .env("CNI_PATH", search.join(std::ffi::OsStr::new(":")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for name in NOT_FOR_PLUGINS {
            command.env_remove(name);
        }
        command
    }
}

/// The process group of a plugin; killed when dropped before the plugin has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// The plugin was reaped: its number may belong to somebody else now.
    fn ended(mut self) {
        self.0 = None;
    }

    /// Kills the group and reaps the plugin.
    async fn end(self, child: &mut Child) {
        self.kill();
        // Dead for certain; the wait is bounded all the same, the kernel may be stuck.
        let _ = timeout(AFTER_EXIT, child.wait()).await;
        self.ended();
    }

    fn kill(&self) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a plugin printed so far.
#[derive(Debug, Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Feeds a plugin and listens until it has ended and said everything.
async fn talk(
    child: &mut Child,
    input: Vec<u8>,
    said: &mut Said,
) -> Result<ExitStatus, PluginError> {
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A plugin need not read everything, nor anything.
            let _ = stdin.write_all(&input).await;
        }
        Ok(())
    };
    let Said { stdout: printed, stderr: told } = said;
    let listen = async {
        tokio::try_join!(feed, read_all(stdout, printed), read_end(stderr, told)).map(drop)
    };
    tokio::pin!(listen);
    tokio::select! {
        biased;
        heard = &mut listen => {
            heard?;
            child.wait().await.map_err(PluginError::Talk)
        }
        status = child.wait() => {
            let status = status.map_err(PluginError::Talk)?;
            match timeout(AFTER_EXIT, listen).await {
                Ok(heard) => heard.map(|()| status),
                Err(_elapsed) => Ok(status),
            }
        }
    }
}

async fn read_all(
    from: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
) -> Result<(), PluginError> {
    let Some(from) = from else { return Ok(()) };
    let most = STDOUT_BYTES_MAX as u64 + 1;
    from.take(most).read_to_end(into).await.map_err(PluginError::Talk)?;
    if into.len() > STDOUT_BYTES_MAX { Err(PluginError::TooMuchOutput) } else { Ok(()) }
}

/// Keeps the end of what is read.
async fn read_end(
    from: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
) -> Result<(), PluginError> {
    let Some(mut from) = from else { return Ok(()) };
    loop {
        let read = from.read_buf(into).await.map_err(PluginError::Talk)?;
        let surplus = into.len().saturating_sub(STDERR_BYTES_KEPT);
        into.drain(..surplus);
        if read == 0 {
            return Ok(());
        }
    }
}

impl Said {
    fn into_answer(self, status: ExitStatus, verb: Verb) -> Result<Value, PluginError> {
        if !status.success() {
            return Err(match serde_json::from_slice::<PluginFailure>(&self.stdout) {
                Ok(reported) => PluginError::Reported(reported),
                Err(_not_a_report) => {
                    let silent = self.stderr.is_empty();
                    let stderr = if silent { quoted(&self.stdout) } else { kept(&self.stderr) };
                    PluginError::Failed { status, stderr }
                }
            });
        }
        // Only ADD has a result; what else is printed means nothing.
        if verb != Verb::Add {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.stdout)
            .map_err(|source| PluginError::Garbage { printed: quoted(&self.stdout), source })
    }
}
