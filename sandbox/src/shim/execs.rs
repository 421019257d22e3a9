//! Execs: further programs in running containers.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Process;
use rustix::process::Pid;

use super::container::{Container, Exec, ExecPhase, OciRuntime, Phase, ReplyTo};
use super::event_loop::{Shim, Source};
use super::external::Call;
use super::families;
use super::poll::Interest;
use crate::oci::builtin::channel::{News, chain};
use crate::oci::builtin::{self, NewProcess, Stdio};
use crate::oci::external;
use crate::protocol::{self, ExecExited, Failed, FailedKind, Outcome};

/// What a program on a terminal takes that for, if nothing else says so.
const DEFAULT_TERM: &str = "TERM=xterm";

fn step(what: impl std::fmt::Display, error: &dyn std::error::Error) -> Failed {
    Failed::new(FailedKind::Step, format!("{what}: {}", chain(error)))
}

impl Shim {
    pub(super) fn exec(
        &mut self,
        reply: ReplyTo,
        exec: &protocol::Exec,
        descriptors: Vec<OwnedFd>,
    ) {
        let id = self.next_exec;
        self.next_exec += 1;
        match self.begin_exec(id, exec, descriptors) {
            Ok(phase) => {
                self.execs.insert(id, Exec { reply, container: exec.container.clone(), phase });
            }
            Err(failed) => self.reply(reply, Outcome::Failed(failed)),
        }
    }

    fn begin_exec(
        &mut self,
        id: u64,
        exec: &protocol::Exec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<ExecPhase, Failed> {
        let stdio = stdio(exec, descriptors)?;
        let Some(container) = self.containers.get(&exec.container) else {
            let message = format!("no container {} in this pod", exec.container);
            return Err(Failed::new(FailedKind::NotFound, message));
        };
        let Phase::Running { first, .. } = &container.phase else {
            let message = format!("container {} is not running", exec.container);
            return Err(Failed::new(FailedKind::WrongState, message));
        };
        let process = parse_process(exec)?;
        let invalid = |error: &dyn std::error::Error| {
            Failed::new(FailedKind::Invalid, format!("the exec: {}", chain(error)))
        };
        match &container.runtime {
            OciRuntime::Builtin { program, oom_score_adj } => {
                let program = match &process {
                    Some(process) => program.sibling(process),
                    None => program.with_arguments(&exec.argv),
                };
                let mut program = program.map_err(|e| invalid(&e))?;
                if exec.terminal {
                    program.name_terminal(DEFAULT_TERM);
                }
                let new = NewProcess {
                    init: first.pidfd.as_fd(),
                    init_pid: first.pid,
                    cgroup: &container.cgroup,
                    program: &program,
                    oom_score_adj: *oom_score_adj,
                    user_namespace: self.namespaces.user.as_ref(),
                };
                let spawned = builtin::exec(&new, stdio, self.own_pid_namespace.as_fd())
                    .map_err(|e| step("start the exec", &e))?;
                let token = self
                    .poller
                    .add(&spawned.channel, Interest::Read)
                    .map_err(|e| step("watch the exec", &e))?;
                self.sources.insert(token, Source::Exec(id));
                Ok(ExecPhase::Own {
                    pid: spawned.pid,
                    channel: spawned.channel,
                    token,
                    failure: None,
                })
            }
            OciRuntime::External { runtime, process: own, .. } => {
                let mut process = process.unwrap_or_else(|| with_arguments(own, &exec.argv));
                process.set_terminal(Some(exec.terminal));
                if exec.terminal {
                    name_terminal(&mut process);
                }
                call_exec(container, runtime, &process, id, stdio)
            }
        }
    }

    /// What an exec's process says before its program runs.
    pub(super) fn hear_exec(&mut self, id: u64) {
        loop {
            let Some(exec) = self.execs.get_mut(&id) else { return };
            let reply = exec.reply;
            let ExecPhase::Own { channel, token, failure, .. } = &mut exec.phase else { return };
            match channel.receive() {
                Ok(Some(News::Failed(message))) => *failure = Some(message),
                Ok(Some(News::Ready(terminal))) => self.hand(reply, terminal),
                Ok(None) => return,
                Ok(Some(News::Closed)) | Err(_) => {
                    self.poller.remove(&*channel);
                    self.sources.remove(token);
                    return;
                }
            }
        }
    }

    /// Deals with the end of an exec's process; `false` if `pid` was none.
    pub(super) fn exec_ended(&mut self, pid: Pid, code: i32) -> bool {
        let owner = self.execs.iter().find_map(|(id, exec)| match &exec.phase {
            ExecPhase::Own { pid: own, .. } | ExecPhase::Detached { pid: own } => {
                (*own == pid).then_some(*id)
            }
            ExecPhase::External { .. } => None,
        });
        let Some(id) = owner else { return false };
        self.hear_exec(id);
        let Some(exec) = self.execs.remove(&id) else { return true };
        let failure = match exec.phase {
            ExecPhase::Own { channel, token, failure, .. } => {
                self.stop_listening(&channel, token);
                failure
            }
            ExecPhase::External { .. } | ExecPhase::Detached { .. } => None,
        };
        let outcome = match failure {
            Some(message) => Outcome::Failed(Failed::new(FailedKind::Step, message)),
            None => Outcome::ExecExited(ExecExited { code }),
        };
        self.reply(exec.reply, outcome);
        true
    }

    /// Deals with the end of an external runtime's `exec`; `false` if `pid` was none.
    pub(super) fn exec_call_ended(&mut self, pid: Pid, code: i32) -> bool {
        let owner = self.execs.iter().find_map(|(id, exec)| match &exec.phase {
            ExecPhase::External { job, .. } => (job.pid == pid).then_some(*id),
            ExecPhase::Own { .. } | ExecPhase::Detached { .. } => None,
        });
        let Some(id) = owner else { return false };
        let Some(exec) = self.execs.get_mut(&id) else { return true };
        let reply = exec.reply;
        let ExecPhase::External { job, doomed } = &exec.phase else { return true };
        let doomed = *doomed;
        let started = if code == 0 {
            job.started()
                .and_then(|pid| Ok((pid, job.terminal()?)))
                .map_err(|e| step("find the exec that the runtime started", &e))
        } else {
            Err(Failed::new(FailedKind::Step, job.failure(code)))
        };
        job.clean_up();
        match started {
            Ok((pid, terminal)) => {
                exec.phase = ExecPhase::Detached { pid };
                if let Some(terminal) = terminal {
                    self.hand(reply, Some(terminal));
                }
                if doomed {
                    self.kill_exec(id);
                }
                if let Some(code) = self.claim(pid) {
                    self.exec_ended(pid, code);
                }
            }
            Err(failed) => {
                self.execs.remove(&id);
                self.reply(reply, Outcome::Failed(failed));
            }
        }
        true
    }

    /// Kills an exec with everything that it started, its background jobs included; its
    /// end is heard of as usual.
    pub(super) fn kill_exec(&mut self, id: u64) {
        let Some(exec) = self.execs.get_mut(&id) else { return };
        let pid = match &mut exec.phase {
            ExecPhase::Own { pid, .. } | ExecPhase::Detached { pid } => *pid,
            // Killed half way, the runtime would leave behind what nobody knows.
            ExecPhase::External { doomed, .. } => return *doomed = true,
        };
        if let Some(container) = self.containers.get(&exec.container) {
            families::kill(&container.cgroup, pid);
        }
    }
}

fn parse_process(exec: &protocol::Exec) -> Result<Option<Process>, Failed> {
    if exec.process.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&exec.process).map(Some).map_err(|error| {
        Failed::new(FailedKind::Invalid, format!("read the process of the exec: {error}"))
    })
}

fn with_arguments(own: &Process, argv: &[String]) -> Process {
    let mut process = own.clone();
    process.set_args(Some(argv.to_vec()));
    process
}

/// Tells a program on a terminal which kind it is, unless it has been told.
fn name_terminal(process: &mut Process) {
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push(DEFAULT_TERM.to_owned());
        process.set_env(Some(env));
    }
}

/// What a program begins with: a terminal, or the descriptors that came with its order.
fn stdio(exec: &protocol::Exec, descriptors: Vec<OwnedFd>) -> Result<Stdio, Failed> {
    if exec.terminal {
        return Ok(Stdio::Terminal);
    }
    let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(descriptors) else {
        let message = "an exec needs three descriptors";
        return Err(Failed::new(FailedKind::Invalid, message));
    };
    Ok(Stdio::Descriptors { stdin, stdout, stderr })
}

fn call_exec(
    container: &Container,
    runtime: &protocol::External,
    process: &Process,
    id: u64,
    stdio: Stdio,
) -> Result<ExecPhase, Failed> {
    let name = format!("exec-{id}");
    let file = container.directory.join(format!("{name}.json"));
    let json = serde_json::to_vec(process).map_err(|e| step("write the process", &e))?;
    external::write_private(&file, &json).map_err(|e| step(file.display(), &e))?;
    let arguments =
        ["--detach".as_ref(), "--process".as_ref(), file.as_os_str(), container.id.as_ref()];
    let call = Call {
        runtime,
        directory: &container.directory,
        what: "exec",
        name: &name,
        arguments: &arguments,
    };
    call.start(Some(stdio))
        .map(|job| ExecPhase::External { job, doomed: false })
        .map_err(|e| step(format!("run {}", runtime.path), &e))
}
