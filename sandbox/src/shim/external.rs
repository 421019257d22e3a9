//! Calls of an external OCI runtime (runc, crun, youki) by its command line.
//!
//! Each call is a child of the shim with a log file of its own; the loop goes on and
//! hears of its end as of any child's. Containers that the runtime starts become the
//! shim's children too, since it is their nearest subreaper.
//!
//! # References
//! - [runc(8)](https://github.com/opencontainers/runc/tree/main/man)

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use rustix::fs::FileType;
use rustix::process::Pid;

use super::console::ConsoleSocket;
use crate::oci::builtin::Stdio;
use crate::protocol::External;

/// One call in progress.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) pid: Pid,
    /// What was asked of the runtime.
    pub(super) what: &'static str,
    log: PathBuf,
    pid_file: PathBuf,
    /// Where the runtime sends the terminal that it was asked for.
    console: Option<ConsoleSocket>,
}

/// The words of one call.
pub(super) struct Call<'a> {
    pub(super) runtime: &'a External,
    /// The container's directory, with `config.json`.
    pub(super) directory: &'a Path,
    pub(super) what: &'static str,
    /// Distinguishes the files of calls that overlap.
    pub(super) name: &'a str,
    pub(super) arguments: &'a [&'a OsStr],
}

impl Call<'_> {
    /// Starts the call; `stdio` is the program's where the runtime starts one.
    pub(super) fn start(&self, stdio: Option<Stdio>) -> io::Result<Job> {
        let log = self.directory.join(format!("{}.log", self.name));
        let pid_file = self.directory.join(format!("{}.pid", self.name));
        let mut command = Command::new(&self.runtime.path);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("--root")
            .arg(&self.runtime.root)
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", self.what]);
        if matches!(self.what, "create" | "exec") {
            command.arg("--pid-file").arg(&pid_file);
        }
        let null = process::Stdio::null;
        command.stdin(null()).stdout(null()).stderr(null());
        let mut console = None;
        match stdio {
            Some(Stdio::Descriptors { stdin, stdout, stderr }) => {
                command.stdin(not_a_device(stdin)?).stdout(stdout).stderr(stderr);
            }
            Some(Stdio::Terminal) => {
                let name = format!("{}.sock", self.name);
                let socket = ConsoleSocket::bind(self.directory, &name)?;
                command.arg("--console-socket").arg(socket.path());
                console = Some(socket);
            }
            None => {}
        }
        let child = command.args(self.arguments).current_dir(self.directory).spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a process id out of range"))?;
        Ok(Job { pid, what: self.what, log, pid_file, console })
    }
}

/// The input, or one at its end where it is a device (the host's null device: no input).
///
/// crun gives a program's inputs and outputs to the program's user: the node of the device
/// would change its owner, for the whole host.
fn not_a_device(stdin: OwnedFd) -> io::Result<OwnedFd> {
    let stat = rustix::fs::fstat(&stdin)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Ok(stdin);
    }
    let (at_its_end, _closed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok(at_its_end)
}

impl Job {
    /// The process that the runtime left running.
    pub(super) fn started(&self) -> io::Result<Pid> {
        let text = std::fs::read_to_string(&self.pid_file)?;
        text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| {
            io::Error::other(format!("{} names no process", self.pid_file.display()))
        })
    }

    /// The master side of the program's terminal, if it was to have one.
    pub(super) fn terminal(&self) -> io::Result<Option<OwnedFd>> {
        self.console.as_ref().map(ConsoleSocket::receive).transpose()
    }

    /// Why it failed: the last error in its log.
    pub(super) fn failure(&self, code: i32) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said = log.lines().rev().find_map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).ok()?;
            (entry["level"] == "error").then(|| entry["msg"].as_str().map(str::to_owned))?
        });
        let said = said.unwrap_or_else(|| "it gave no reason".to_owned());
        format!("{} by the external runtime: exit code {code}: {said}", self.what)
    }

    /// Removes its files, and the description of an exec's process.
    pub(super) fn clean_up(&self) {
        let process = self.log.with_extension("json");
        for file in [&self.log, &self.pid_file, &process] {
            // A call that failed early made fewer; only an exec has all three.
            let _ = std::fs::remove_file(file);
        }
    }
}
