//! A further process in a running container.
//!
//! It is cloned straight into the container's PID namespace (the shim steps into that
//! namespace for its children and back), joins the container's cgroup while it can still
//! name it, then its user, mount and cgroup namespaces through the pidfd of the container's
//! first process, and is confined by the very [`Program::run`] that confined that one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::ThreadNameSpaceType;

use super::Stdio;
use super::channel::ChildChannel;
use super::labels::LabelError;
use super::process::{Program, RunError};
use super::terminal::{self, TerminalError};
use super::user_namespace::{self, EnterError, UserNamespace};
use crate::cgroup::{Cgroup, CgroupError};
use crate::sys::spawn::{self, StdioNumber};

/// The step of entering a container that failed.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("become undumpable")]
    Dumpable(#[source] Errno),
    #[error("begin a session")]
    Session(#[source] Errno),
    #[error("join the cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("move to the final processors")]
    Affinity(#[source] Errno),
    #[error("set oom_score_adj")]
    OomScore(#[source] super::rlimits::LimitError),
    #[error(transparent)]
    UserNamespace(#[from] EnterError),
    #[error("give the pipes to the user of the program")]
    Owner(#[source] Errno),
    #[error("enter the namespaces of the container")]
    Enter(#[source] Errno),
    #[error("attach standard input, output and error")]
    Stdio(#[source] io::Error),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error("tell the shim")]
    Channel(#[source] io::Error),
    #[error(transparent)]
    Label(#[from] LabelError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Everything an exec needs; a copy of the shim's memory has it.
pub(super) struct Exec<'a> {
    pub(super) init: BorrowedFd<'a>,
    pub(super) cgroup: &'a Cgroup,
    pub(super) program: &'a Program,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) user_namespace: Option<&'a UserNamespace>,
    pub(super) stdio: Stdio,
    pub(super) channel: ChildChannel,
}

impl Exec<'_> {
    /// Runs in the new process and never returns.
    pub(super) fn run(self) -> ! {
        let error = match self.enter() {
            Ok(()) => ExecError::Run(self.program.run()),
            Err(error) => error,
        };
        self.channel.failed(&error);
        spawn::exit_now(127)
    }

    fn enter(&self) -> Result<(), ExecError> {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(ExecError::Dumpable)?;
        rustix::process::setsid().map_err(ExecError::Session)?;
        super::join(self.cgroup).map_err(ExecError::Cgroup)?;
        self.program.exec_affinity().settle().map_err(ExecError::Affinity)?;
        self.program.set_labels()?;
        if let Some(adj) = self.oom_score_adj {
            super::rlimits::set_oom_score_adj(None, adj).map_err(ExecError::OomScore)?;
        }
        let uid = user_namespace::host_uid(self.user_namespace, self.program.uid());
        self.stdio.give_to(uid).map_err(ExecError::Owner)?;
        let mut namespaces = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
        // All at once: the host's root may enter each of them, the pod's root may not.
        namespaces.set(ThreadNameSpaceType::USER, self.user_namespace.is_some());
        rustix::thread::move_into_thread_name_spaces(self.init, namespaces)
            .map_err(ExecError::Enter)?;
        if self.user_namespace.is_some() {
            user_namespace::become_root()?;
        }
        self.attach_stdio()
    }

    fn attach_stdio(&self) -> Result<(), ExecError> {
        let Stdio::Descriptors { stdin, stdout, stderr } = &self.stdio else {
            let terminal = terminal::open(self.program)?;
            terminal.take()?;
            return self.channel.ready(Some(terminal.master)).map_err(ExecError::Channel);
        };
        for (fd, number) in [
            (stdin, StdioNumber::Stdin),
            (stdout, StdioNumber::Stdout),
            (stderr, StdioNumber::Stderr),
        ] {
            spawn::set_stdio(fd.as_fd(), number).map_err(ExecError::Stdio)?;
        }
        Ok(())
    }
}
