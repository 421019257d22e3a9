//! Containers: what each request and each event does to one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use rustix::process::{Pid, Signal};

use super::clients::Clients;
use super::clock;
use super::container::{Container, First, Maker, OciRuntime, Phase, PidScope, ReplyTo};
use super::entry::make_directory;
use super::event_loop::{Shim, Source};
use super::exits;
use super::logs::{Log, Stream};
use super::output::{self, Drained, Output};
use super::poll::{Interest, Token};
use crate::cgroup::{Cgroup, CgroupPath};
use crate::oci::builtin::channel::{News, chain};
use crate::oci::builtin::hooks::{ContainerHooks, Stage};
use crate::oci::builtin::process::Program;
use crate::oci::builtin::{self, NewContainer, Stdio};
use crate::oci::external;
use crate::protocol::{self, Create, Failed, FailedKind, Outcome, PidMode, Rootfs};

/// The exit code of a container whose program could not be started, as containerd has it.
const START_FAILED: i32 = 128;

/// The kernel's signals, the real-time ones included.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// The exit code of what SIGKILL ended.
const KILLED: i32 = 128 + 9;

/// How long a cgroup may stay busy after its processes were killed.
pub(super) const REMOVE_PATIENCE: Duration = Duration::from_secs(2);

/// A step failed: its name and the cause.
pub(super) fn step(what: impl std::fmt::Display, error: &dyn std::error::Error) -> Failed {
    Failed::new(FailedKind::Step, format!("{what}: {}", chain(error)))
}

pub(super) fn not_found(container: &str) -> Failed {
    Failed::new(FailedKind::NotFound, format!("no container {container} in this pod"))
}

/// The three descriptors of a new program, and what the shim keeps of them.
struct Plumbing {
    theirs: Stdio,
    outputs: Vec<(OwnedFd, Stream)>,
    stdin: Option<OwnedFd>,
}

fn plumb(create: &Create, terminal: bool) -> std::io::Result<Plumbing> {
    if terminal {
        return Ok(Plumbing { theirs: Stdio::Terminal, outputs: vec![], stdin: None });
    }
    let (stdin, ours) = if create.stdin {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // Whoever is attached writes to it, and waits in an event loop.
        rustix::io::ioctl_fionbio(&write, true)?;
        (read, Some(write))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (out, stdout) = output::pipe()?;
    let (err, stderr) = output::pipe()?;
    Ok(Plumbing {
        theirs: Stdio::Descriptors { stdin, stdout, stderr },
        outputs: vec![(out, Stream::Stdout), (err, Stream::Stderr)],
        stdin: ours,
    })
}

/// What the built-in runtime cannot give; less would be silent.
pub(super) fn refuse(spec: &Spec) -> Result<(), Failed> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let net = linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty());
    let hook = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
    for (asked, what) in [
        (hook.is_some_and(|hooks| !hooks.is_empty()), "a startContainer hook"),
        (linux.intel_rdt().is_some(), "a class of service (intelRdt)"),
        (net, "a network device (netDevices)"),
    ] {
        if asked {
            let message = format!(
                "{what} is asked for, which the built-in runtime cannot give: use an external one"
            );
            return Err(Failed::new(FailedKind::Invalid, message));
        }
    }
    Ok(())
}

pub(super) fn pid_mode(create: &Create) -> PidMode {
    let mode = create.pid_namespace.as_ref().and_then(|place| place.mode.clone());
    mode.unwrap_or(PidMode::Container(true))
}

/// What a process is blocked on, for an error message; nothing if the kernel won't tell.
fn waiting_on(pid: Pid) -> String {
    match std::fs::read_to_string(format!("/proc/{}/wchan", pid.as_raw_nonzero())) {
        Ok(place) if !matches!(place.trim(), "" | "0") => {
            format!(": its first process waits in the kernel, in {}", place.trim())
        }
        _ => String::new(),
    }
}

impl Shim {
    // ---- create ----

    pub(super) fn create(&mut self, reply: ReplyTo, create: Create) {
        let (id, begun) = (create.container.clone(), Instant::now());
        if self.containers.contains_key(&id) {
            let failed = Failed::new(FailedKind::WrongState, format!("container {id} exists"));
            return self.reply(reply, Outcome::Failed(failed));
        }
        match self.begin_create(reply, create) {
            Ok(container) => {
                if let Phase::Prepared { .. } | Phase::Dumped { .. } = container.phase {
                    let state = container.state();
                    self.reply(reply, Outcome::Container(state));
                } else {
                    self.deadlines.insert(id.clone(), begun + container.patience);
                }
                self.containers.insert(id, container);
            }
            Err(failed) => {
                self.remove_directory(&id);
                self.reply(reply, Outcome::Failed(failed));
            }
        }
    }

    fn begin_create(&mut self, reply: ReplyTo, create: Create) -> Result<Container, Failed> {
        let invalid = |what: &str, error: &dyn std::error::Error| {
            Failed::new(FailedKind::Invalid, format!("{what}: {}", chain(error)))
        };
        let spec: Spec =
            serde_json::from_slice(&create.spec).map_err(|e| invalid("read the OCI spec", &e))?;
        let rootfs = create.rootfs.clone().unwrap_or_default();
        let directory = self.directory.join("c").join(&create.container);
        make_directory(&directory, self.namespaces.user.as_ref())
            .map_err(|e| step(directory.display(), &e))?;
        let log = Log::open(&create.log_path, create.max_log_line)
            .map_err(|e| step(format!("open the log {}", create.log_path), &e))?;
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
        let path = path.unwrap_or_default();
        let path = CgroupPath::parse(&path.to_string_lossy())
            .map_err(|e| invalid("the cgroup of the OCI spec", &e))?;
        let cgroup = Cgroup::open(&self.cgroups, path);
        let terminal = spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false);
        let plumbing = plumb(&create, terminal).map_err(|e| step("make pipes", &e))?;
        let mut hooks = None;
        let (runtime, phase) = match &create.external {
            None if create.restore.is_some() => {
                self.keep_dumped(&create, &spec, &cgroup, &directory, plumbing.theirs)?
            }
            None => {
                refuse(&spec)?;
                // Nothing here reads it: checkpoints carry it, and hooks are told of it.
                external::write_private(&directory.join("config.json"), &create.spec)
                    .map_err(|e| step("write the spec", &e))?;
                hooks = ContainerHooks::of(&spec, &create.container, &directory)
                    .map_err(|e| step("write the bundle for hooks", &e))?
                    .map(Rc::new);
                let program =
                    Program::of_container(&spec).map_err(|e| invalid("the OCI spec", &e))?;
                let first =
                    self.clone_first(&create, &spec, &rootfs, &cgroup, &program, plumbing.theirs);
                let first = first.inspect_err(|_| drop(cgroup.remove(REMOVE_PATIENCE)))?;
                let oom_score_adj = spec.process().as_ref().and_then(|p| p.oom_score_adj());
                (
                    OciRuntime::Builtin { program: Box::new(program), oom_score_adj },
                    Phase::Creating { reply, by: Maker::Own(first) },
                )
            }
            Some(external) => {
                let joined = self.prepare(&create, &spec, &rootfs, &directory)?;
                let process = Box::new(spec.process().clone().unwrap_or_default());
                let runtime = external.clone();
                (
                    OciRuntime::External { runtime, process, _joined: joined },
                    Phase::Prepared { stdio: plumbing.theirs },
                )
            }
        };
        let outputs = self.watch_outputs(&create.container, plumbing.outputs)?;
        Ok(Container {
            id: create.container.clone(),
            directory,
            phase,
            runtime,
            oom_baseline: cgroup.oom_baseline(),
            cgroup,
            pid_scope: match pid_mode(&create) {
                PidMode::Container(_) => PidScope::Own,
                PidMode::Pod(_) | PidMode::Node(_) | PidMode::Target(_) => PidScope::Shared,
            },
            patience: Duration::from_millis(create.deadline_ms),
            log,
            outputs,
            clients: Clients::default(),
            stdin: plumbing.stdin,
            hooks,
            hook_run: None,
            deletion: None,
        })
    }

    fn clone_first(
        &mut self,
        create: &Create,
        spec: &Spec,
        rootfs: &Rootfs,
        cgroup: &Cgroup,
        program: &Program,
        stdio: Stdio,
    ) -> Result<First, Failed> {
        cgroup.create().map_err(|e| step("make the cgroup", &e))?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        if let Some(resources) = resources {
            cgroup.apply(resources).map_err(|e| step("limit the cgroup", &e))?;
        }
        let attach_at = self.directory.join("c").join(&create.container);
        let pid_place = self.pid_namespace(create)?.for_builtin();
        let container = NewContainer {
            spec,
            rootfs,
            images: &create.images,
            attach_at: &attach_at,
            cgroup,
            program,
            pid_place,
            user_namespace: self.namespaces.user.as_ref(),
        };
        let spawned = builtin::create(&container, stdio, self.own_pid_namespace.as_fd())
            .map_err(|e| step("start the first process", &e))?;
        let token = self
            .poller
            .add(&spawned.channel, Interest::Read)
            .map_err(|e| step("watch the first process", &e))?;
        self.sources.insert(token, Source::Channel(create.container.clone()));
        Ok(First {
            pid: spawned.pid,
            pidfd: Rc::new(spawned.pidfd),
            channel: Some(Rc::new((spawned.channel, token))),
        })
    }

    fn watch_outputs(
        &mut self,
        container: &str,
        outputs: Vec<(OwnedFd, Stream)>,
    ) -> Result<Vec<Output>, Failed> {
        let mut watched = Vec::new();
        for (fd, stream) in outputs {
            let token =
                self.poller.add(&fd, Interest::Read).map_err(|e| step("watch an output", &e))?;
            self.sources.insert(token, Source::Output(container.to_owned()));
            watched.push(Output { fd, stream, token });
        }
        Ok(watched)
    }

    // ---- what a first process says ----

    pub(super) fn hear_container(&mut self, id: &str) {
        loop {
            let Some(container) = self.containers.get(id) else { return };
            let channel = container.first().and_then(|first| first.channel.clone());
            let Some(channel) = channel else { return };
            match channel.0.receive() {
                Ok(Some(News::Ready(terminal))) => self.container_ready(id, terminal),
                Ok(Some(News::Failed(message))) => {
                    self.stop_listening(&channel.0, channel.1);
                    return self.first_failed(id, message);
                }
                Ok(Some(News::Closed)) | Err(_) => {
                    self.stop_listening(&channel.0, channel.1);
                    return self.channel_closed(id);
                }
                Ok(None) => return,
            }
        }
    }

    pub(super) fn stop_listening(&mut self, fd: impl AsFd, token: Token) {
        self.poller.remove(fd);
        self.sources.remove(&token);
    }

    fn container_ready(&mut self, id: &str, terminal: Option<OwnedFd>) {
        terminal.into_iter().for_each(|master| self.watch_terminal(id, master));
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Creating { reply, by: Maker::Own(first) } = &container.phase else { return };
        let (reply, first) = (*reply, first.clone());
        match self.await_hooks(id) {
            Ok(true) => {}
            Ok(false) => {
                if let Some(container) = self.containers.get_mut(id) {
                    container.phase = Phase::Created { first };
                }
                self.created(id, reply);
            }
            Err(failed) => self.give_up_create(id, reply, failed),
        }
    }

    /// Takes the master side of a container's terminal, whichever runtime made it.
    pub(super) fn watch_terminal(&mut self, id: &str, master: OwnedFd) {
        // Without it the container runs all the same; its output is not logged.
        let watched = rustix::io::ioctl_fionbio(&master, true)
            .map_err(|errno| step("unblock the terminal", &errno))
            .and_then(|()| self.watch_outputs(id, vec![(master, Stream::Stdout)]));
        if let (Ok(outputs), Some(container)) = (watched, self.containers.get_mut(id)) {
            container.outputs = outputs;
        }
    }

    pub(super) fn created(&mut self, id: &str, reply: ReplyTo) {
        self.deadlines.remove(id);
        let Some(container) = self.containers.get(id) else { return };
        let state = container.state();
        self.reply(reply, Outcome::Container(state));
    }

    /// The channel closed without a failure: the program runs, or the process died (then
    /// its exit follows and says so).
    fn channel_closed(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Phase::Restoring { criu, .. } = &mut container.phase {
            // It runs; what came of it is seen at its end.
            criu.channel = None;
        }
        if let Phase::Starting { reply, first, .. } = &container.phase {
            let (reply, first) = (*reply, First { channel: None, ..first.clone() });
            self.now_running(id, reply, first);
        }
    }

    pub(super) fn now_running(&mut self, id: &str, reply: ReplyTo, first: First) {
        self.deadlines.remove(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        let hooks = container.hooks.clone();
        container.phase = Phase::Running { first: first.clone(), started_at_ns: clock::now_ns() };
        let state = container.state();
        self.reply(reply, Outcome::Container(state));
        self.run_hooks(hooks.as_deref(), Stage::Started, Some(&first));
    }

    pub(super) fn first_failed(&mut self, id: &str, message: String) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let failed = Failed::new(FailedKind::Step, message);
        match &container.phase {
            Phase::Creating { reply, .. } => {
                let reply = *reply;
                self.give_up_create(id, reply, failed);
            }
            Phase::Starting { .. } | Phase::Restoring { .. } => self.fail_start(id, failed),
            Phase::Prepared { .. }
            | Phase::Dumped { .. }
            | Phase::Created { .. }
            | Phase::Running { .. }
            | Phase::Exited { .. }
            | Phase::Deleting { .. } => {}
        }
    }

    /// The container's program could not be started: the container is over.
    pub(super) fn fail_start(&mut self, id: &str, failed: Failed) {
        self.deadlines.remove(id);
        let Some(container) = self.containers.get(id) else { return };
        let (Phase::Creating { reply, .. }
        | Phase::Starting { reply, .. }
        | Phase::Restoring { reply, .. }) = &container.phase
        else {
            return;
        };
        let reply = *reply;
        container.kill();
        self.finish(id, START_FAILED);
        self.reply(reply, Outcome::Failed(failed));
    }

    fn give_up_create(&mut self, id: &str, reply: ReplyTo, failed: Failed) {
        self.release(id);
        self.reply(reply, Outcome::Failed(failed));
    }

    /// What was to be done with a container by now is not done.
    pub(super) fn too_late(&mut self, id: &str) {
        let Some(container) = self.containers.get(id) else { return };
        let blocked_on = container.first().map(|first| waiting_on(first.pid)).unwrap_or_default();
        let patience = container.patience.as_secs();
        let late = |what: &str| {
            let message =
                format!("{what} container {id} took longer than {patience} s{blocked_on}");
            Failed::new(FailedKind::Deadline, message)
        };
        match &container.phase {
            Phase::Creating { reply, by: Maker::Own(_) } => {
                let (reply, failed) = (*reply, late("setting up"));
                self.give_up_create(id, reply, failed);
            }
            Phase::Creating { by: Maker::External(job), .. }
            | Phase::Starting { call: Some(job), .. } => {
                let failed = late(&format!("{} by the external runtime of", job.what));
                self.fail_start(id, failed);
            }
            Phase::Starting { first, call: None, .. } | Phase::Restoring { criu: first, .. } => {
                let (channel, failed) = (first.channel.clone(), late("starting"));
                if let Some(channel) = channel {
                    self.stop_listening(&channel.0, channel.1);
                }
                self.fail_start(id, failed);
            }
            Phase::Deleting { job, .. } => {
                // Not buried yet, so its id is its own; its end is nobody's.
                let _ = rustix::process::kill_process(job.pid, Signal::KILL);
                let message = "delete by the external runtime took too long";
                self.forgotten(id, Err(Failed::new(FailedKind::Deadline, message)));
            }
            Phase::Prepared { .. }
            | Phase::Dumped { .. }
            | Phase::Created { .. }
            | Phase::Running { .. }
            | Phase::Exited { .. } => {}
        }
    }

    // ---- start ----

    pub(super) fn start(&mut self, reply: ReplyTo, start: &protocol::Start) {
        let begun =
            self.change_limits(start).and_then(|()| self.begin_start(reply, &start.container));
        if let Err(failed) = begun {
            self.reply(reply, Outcome::Failed(failed));
        }
    }

    fn begin_start(&mut self, reply: ReplyTo, id: &str) -> Result<(), Failed> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        if let Phase::Prepared { .. } = container.phase {
            return self.call_create(reply, id);
        }
        let first = match &mut container.phase {
            Phase::Dumped { .. } => return self.begin_restore(reply, id),
            Phase::Created { first } => first.clone(),
            // A daemon that was killed while it waited asks again.
            Phase::Starting { reply: other, .. }
            | Phase::Restoring { reply: other, .. }
            | Phase::Creating { reply: other, by: Maker::External(_) } => {
                *other = reply;
                return Ok(());
            }
            Phase::Running { .. } => {
                let state = container.state();
                self.reply(reply, Outcome::Container(state));
                return Ok(());
            }
            Phase::Prepared { .. }
            | Phase::Creating { .. }
            | Phase::Exited { .. }
            | Phase::Deleting { .. } => {
                let message = format!("container {id} is not in the state created");
                return Err(Failed::new(FailedKind::WrongState, message));
            }
        };
        if let Some(channel) = &first.channel {
            channel.0.start().map_err(|e| step("give the word to start", &e))?;
        }
        container.phase = Phase::Starting { reply, first, call: None };
        let deadline = Instant::now() + container.patience;
        self.deadlines.insert(id.to_owned(), deadline);
        Ok(())
    }

    // ---- output ----

    pub(super) fn read_output(&mut self, id: &str, token: Token) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Container { outputs, log, clients, .. } = container;
        let Some(index) = outputs.iter().position(|output| output.token == token) else { return };
        let drained = outputs[index].read_chunk(log, clients, &mut self.buffer);
        self.buffer = Vec::new();
        let fallen_behind = clients.take_fallen_behind();
        if drained == Drained::Closed {
            let output = outputs.remove(index);
            self.stop_listening(&output, token);
        }
        self.cut_off(fallen_behind);
    }

    pub(super) fn reopen_log(&mut self, id: &str) -> Result<(), Failed> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        let Phase::Running { .. } = container.phase else {
            let message = format!("container {id} is not running");
            return Err(Failed::new(FailedKind::WrongState, message));
        };
        container.log.reopen().map_err(|e| step("reopen the log", &e))
    }

    // ---- the end ----

    pub(super) fn signal(&mut self, signal: &protocol::Signal) -> Result<(), Failed> {
        if !self.containers.contains_key(&signal.container) {
            return Err(not_found(&signal.container));
        }
        if !SIGNALS.contains(&signal.signal) {
            let message = format!("{} is not a signal", signal.signal);
            return Err(Failed::new(FailedKind::Invalid, message));
        }
        // A frozen one would not heed it.
        self.end_checkpoints_of(&signal.container);
        let Some(container) = self.containers.get(&signal.container) else { return Ok(()) };
        if signal.all && signal.signal == Signal::KILL.as_raw() {
            container.kill();
        } else {
            container.signal_first(signal.signal);
        }
        Ok(())
    }

    /// Deals with the end of a first process; `false` if `pid` was none.
    pub(super) fn container_ended(&mut self, pid: Pid, code: i32) -> bool {
        let owner = self.containers.iter().find_map(|(id, container)| {
            container.first().is_some_and(|first| first.pid == pid).then(|| id.clone())
        });
        let Some(id) = owner else { return false };
        // Its last words first: a failure, or the news that its program ran.
        self.hear_container(&id);
        let Some(container) = self.containers.get(&id) else { return true };
        match &container.phase {
            Phase::Creating { reply, .. } => {
                let reply = *reply;
                let message = if code == KILLED {
                    "the first process was killed while being set up: is its memory limit too low?"
                        .to_owned()
                } else {
                    format!("the first process ended with code {code} while being set up")
                };
                self.give_up_create(&id, reply, Failed::new(FailedKind::Step, message));
            }
            Phase::Restoring { .. } => self.restore_ended(&id, pid, code),
            Phase::Starting { call: Some(_), .. } => {
                // The call that starts it is still at work; it will find this.
                self.unclaimed.push((pid, code));
            }
            Phase::Created { .. } | Phase::Starting { .. } | Phase::Running { .. } => {
                self.finish(&id, code);
            }
            Phase::Prepared { .. }
            | Phase::Dumped { .. }
            | Phase::Exited { .. }
            | Phase::Deleting { .. } => {}
        }
        true
    }

    /// The container's program is over: everything it wrote goes to the log, its exit to
    /// disk, then the daemon is told.
    fn finish(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.pid_scope == PidScope::Shared {
            container.kill();
        }
        let Container { outputs, log, clients, .. } = container;
        for output in outputs.drain(..) {
            output.read_all(log, clients, &mut self.buffer);
            self.poller.remove(&output);
            self.sources.remove(&output.token);
        }
        self.buffer = Vec::new();
        log.finish();
        let state = container.exited(code, clock::now_ns());
        if let Err(error) = exits::write(&self.directory.join("exits"), &state) {
            eprintln!("orlop shim: write the exit of container {id}: {error}");
        }
        container.stdin = None;
        container.phase = Phase::Exited { state: state.clone() };
        let is_unwanted = container.deletion.is_some();
        let clients = std::mem::take(&mut container.clients);
        self.announce(&state);
        self.end_attachments(clients, code);
        if is_unwanted {
            self.let_go(id);
        }
    }

    pub(super) fn delete(&mut self, reply: ReplyTo, id: &str) {
        self.end_checkpoints_of(id);
        let Some(container) = self.containers.get_mut(id) else {
            return self.reply(reply, Outcome::Failed(not_found(id)));
        };
        container.deletion = Some(reply);
        if container.is_busy() {
            return container.kill();
        }
        self.let_go(id);
    }

    /// Gives back everything a container holds, forgets it, and tells who waits for that.
    pub(super) fn release(&mut self, id: &str) {
        self.deadlines.remove(id);
        let Some(container) = self.containers.remove(id) else { return };
        container.kill();
        for output in &container.outputs {
            self.stop_listening(output, output.token);
        }
        if let Some(channel) = container.first().and_then(|first| first.channel.clone()) {
            self.stop_listening(&channel.0, channel.1);
        }
        if let OciRuntime::External { .. } = &container.runtime {
            external::unmount(&container.directory);
        }
        self.run_hooks(container.hooks.as_deref(), Stage::Stopped, None);
        if let Some(run) = &container.hook_run {
            self.stop_hearing(run);
        }
        if let Err(error) = container.cgroup.remove(REMOVE_PATIENCE) {
            eprintln!("orlop shim: remove the cgroup of container {id}: {}", chain(&error));
        }
        self.remove_directory(id);
        if let Some(reply) = container.deletion {
            self.reply_done(reply, Ok(()));
        }
    }

    fn remove_directory(&self, id: &str) {
        let directory = self.directory.join("c").join(id);
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("orlop shim: remove {}: {error}", directory.display());
        }
    }
}
