//! What the shim knows of one container, and of one exec.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};
use rustix::process::{Pid, Signal};

use super::clients::Clients;
use super::external::Job;
use super::hooks::HookRun;
use super::logs::Log;
use super::output::Output;
use super::poll::Token;
use crate::cgroup::{Cgroup, OomBaseline};
use crate::oci::builtin::Stdio;
use crate::oci::builtin::channel::Channel;
use crate::oci::builtin::hooks::ContainerHooks;
use crate::oci::builtin::process::Program;
use crate::protocol::{ContainerState, Create, Exit, External};

/// Whom to answer: a connection and the id of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyTo {
    pub(super) connection: Token,
    pub(super) request: u64,
}

/// How far a container is. Each state holds only what is true in it.
#[derive(Debug)]
pub(super) enum Phase {
    /// On disk for an external runtime, which is called when the container is started.
    Prepared { stdio: Stdio },
    /// On disk, as criu dumped it; restored when the container is started.
    Dumped { dumped: Box<Dumped> },
    /// Being restored by criu, which reads from this directory.
    Restoring { reply: ReplyTo, criu: First, directory: PathBuf },
    /// Being set up, by its first process or by an external runtime.
    Creating { reply: ReplyTo, by: Maker },
    /// Set up; its program waits for the word.
    Created { first: First },
    /// The word was given; with an external runtime, by this call.
    Starting { reply: ReplyTo, first: First, call: Option<Job> },
    /// Its program runs.
    Running { first: First, started_at_ns: i64 },
    /// It ended, and the exit is on disk.
    Exited { state: ContainerState },
    /// The external runtime is forgetting it; this is how it ended.
    Deleting { state: ContainerState, job: Job },
}

/// What is needed to restore a container.
#[derive(Debug)]
pub(super) struct Dumped {
    pub(super) create: Create,
    pub(super) spec: Spec,
    pub(super) stdio: Stdio,
}

/// Who sets a container up.
#[derive(Debug)]
pub(super) enum Maker {
    /// Its own first process, which reports on its channel.
    Own(First),
    /// A call of an external runtime.
    External(Job),
}

/// A container's first process.
#[derive(Debug, Clone)]
pub(super) struct First {
    pub(super) pid: Pid,
    pub(super) pidfd: Rc<OwnedFd>,
    /// Where the built-in runtime's process reports until its program runs.
    pub(super) channel: Option<Rc<(Channel, Token)>>,
}

/// How the container's processes are made and confined.
#[derive(Debug)]
pub(super) enum OciRuntime {
    Builtin {
        program: Box<Program>,
        oom_score_adj: Option<i32>,
    },
    External {
        runtime: External,
        process: Box<Process>,
        /// The PID namespace that it joins: its path in the bundle leads through this.
        _joined: Option<OwnedFd>,
    },
}

/// Whether the end of the first process is the end of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PidScope {
    /// It is process 1 of its namespace: the kernel ends the rest.
    Own,
    /// Others live on, and are killed by the cgroup.
    Shared,
}

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) directory: PathBuf,
    pub(super) phase: Phase,
    pub(super) runtime: OciRuntime,
    pub(super) cgroup: Cgroup,
    /// What the groups above had to say of memory when it was made.
    pub(super) oom_baseline: OomBaseline,
    pub(super) pid_scope: PidScope,
    /// How long its creation may take, and its start.
    pub(super) patience: Duration,
    pub(super) log: Log,
    pub(super) outputs: Vec<Output>,
    pub(super) clients: Clients,
    /// Held open so that the program does not see the end of its input.
    pub(super) stdin: Option<OwnedFd>,
    /// Its hooks, with the built-in runtime.
    pub(super) hooks: Option<Rc<ContainerHooks>>,
    /// Those that it waits for.
    pub(super) hook_run: Option<HookRun>,
    /// Somebody wants it gone and waits.
    pub(super) deletion: Option<ReplyTo>,
}

/// One exec.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) reply: ReplyTo,
    /// The container that it runs in.
    pub(super) container: String,
    pub(super) phase: ExecPhase,
}

/// How far an exec is.
#[derive(Debug)]
pub(super) enum ExecPhase {
    /// Its process reports on a channel.
    Own { pid: Pid, channel: Channel, token: Token, failure: Option<String> },
    /// The external runtime is starting it, and it is to be killed then.
    External { job: Job, doomed: bool },
    /// The external runtime started it.
    Detached { pid: Pid },
}

impl Container {
    /// Its first process, if there is one; while it is restored that is criu.
    pub(super) fn first(&self) -> Option<&First> {
        match &self.phase {
            Phase::Creating { by: Maker::Own(first), .. }
            | Phase::Restoring { criu: first, .. }
            | Phase::Created { first }
            | Phase::Starting { first, .. }
            | Phase::Running { first, .. } => Some(first),
            Phase::Prepared { .. }
            | Phase::Dumped { .. }
            | Phase::Creating { by: Maker::External(_), .. }
            | Phase::Exited { .. }
            | Phase::Deleting { .. } => None,
        }
    }

    /// The call of an external runtime that is at work on it, and whom its end concerns.
    pub(super) fn call(&self) -> Option<(&Job, ReplyTo)> {
        match &self.phase {
            Phase::Creating { reply, by: Maker::External(job) }
            | Phase::Starting { reply, call: Some(job), .. } => Some((job, *reply)),
            _ => None,
        }
    }

    /// The call of an external runtime that is at work on it, its deletion included.
    pub(super) fn job(&self) -> Option<&Job> {
        match &self.phase {
            Phase::Deleting { job, .. } => Some(job),
            _ => self.call().map(|(job, _)| job),
        }
    }

    /// Whether a process of it, or one that works on it, has yet to be buried.
    pub(super) fn is_busy(&self) -> bool {
        self.first().is_some() || self.job().is_some()
    }

    /// The master side of its terminal, if it has one.
    pub(super) fn terminal(&self) -> Option<&OwnedFd> {
        self.outputs.first().map(|output| &output.fd).filter(|fd| rustix::termios::isatty(fd))
    }

    /// What is told to the daemon.
    pub(super) fn state(&self) -> ContainerState {
        let (pid, started_at_ns) = match &self.phase {
            Phase::Exited { state } | Phase::Deleting { state, .. } => return state.clone(),
            Phase::Running { first, started_at_ns } => (first.pid, *started_at_ns),
            Phase::Created { first } | Phase::Starting { first, .. } => (first.pid, 0),
            Phase::Prepared { .. }
            | Phase::Dumped { .. }
            | Phase::Restoring { .. }
            | Phase::Creating { .. } => {
                return ContainerState { container: self.id.clone(), ..Default::default() };
            }
        };
        ContainerState {
            container: self.id.clone(),
            pid: pid.as_raw_nonzero().get().unsigned_abs(),
            started_at_ns,
            exit: None,
        }
    }

    /// Sends `signal` to the first process. It may be gone already.
    pub(super) fn signal_first(&self, signal: i32) {
        if let Some(first) = self.first() {
            // ESRCH: it ended by itself, and its exit is about to be seen.
            let _ = crate::sys::signal::send(first.pidfd.as_fd(), signal);
        }
    }

    /// Ends every process of the container, and the runtime's call that makes it.
    pub(super) fn kill(&self) {
        if let Some((job, _)) = self.call() {
            // Its end is heard of as usual, so its id is its own.
            let _ = rustix::process::kill_process(job.pid, Signal::KILL);
        }
        if let Some(run) = &self.hook_run {
            run.kill();
        }
        self.signal_first(Signal::KILL.as_raw());
        // The cgroup may not exist yet; the first process, which joins it, is dead then.
        let _ = self.cgroup.kill_all();
    }

    /// The state that says how it ended.
    pub(super) fn exited(&self, code: i32, finished_at_ns: i64) -> ContainerState {
        let oom_killed = self.cgroup.oom_kills().is_ok_and(|kills| kills > 0);
        let message = if oom_killed {
            self.cgroup.oom_level(&self.oom_baseline).to_string()
        } else {
            String::new()
        };
        let exit = Exit { code, finished_at_ns, oom_killed, message };
        ContainerState { exit: Some(exit), ..self.state() }
    }
}
