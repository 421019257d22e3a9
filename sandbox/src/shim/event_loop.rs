//! The loop: one thing becomes ready, one short function deals with it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::checkpoints::{Checkpoints, End};
use super::connection::{Connection, Input};
use super::container::{Container, Exec, ExecPhase, Phase, ReplyTo};
use super::namespaces::Namespaces;
use super::poll::{Interest, Poller, Token};
use crate::cgroup::Hierarchies;
use crate::protocol::{
    Body, Call, ContainerState, Done, Failed, FailedKind, Handed, Hello, Message, Outcome, Reply,
    Request, VERSION, Welcome,
};

/// What a token stands for.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Signals,
    Listener,
    Connection,
    /// A container's first process reports.
    Channel(String),
    /// A container's output.
    Output(String),
    /// An exec's process reports.
    Exec(u64),
    /// The hooks that a container waits for report.
    Hooks(String),
}

/// The shim of one pod.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) directory: PathBuf,
    pub(super) cgroups: Hierarchies,
    pub(super) poller: Poller,
    pub(super) sources: BTreeMap<Token, Source>,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) execs: BTreeMap<u64, Exec>,
    pub(super) next_exec: u64,
    /// Containers whose creation, start or deletion must end by then.
    pub(super) deadlines: BTreeMap<String, Instant>,
    /// Exits of processes that nobody knows yet: a runtime may report a process after it
    /// ended. Bounded; the oldest goes first.
    pub(super) unclaimed: Vec<(Pid, i32)>,
    pub(super) checkpoints: Checkpoints,
    pub(super) own_pid_namespace: OwnedFd,
    pub(super) namespaces: Namespaces,
    pub(super) buffer: Vec<u8>,
    listener: OwnedFd,
    signals: OwnedFd,
    connections: BTreeMap<Token, Connection>,
    /// Everything ends, and this asked for it.
    pub(super) leaving: Option<ReplyTo>,
}

/// How many unclaimed exits are remembered.
const MAX_UNCLAIMED: usize = 64;

impl Shim {
    pub(super) fn new(
        directory: PathBuf,
        cgroups: Hierarchies,
        listener: OwnedFd,
        signals: OwnedFd,
        own_pid_namespace: OwnedFd,
        namespaces: Namespaces,
    ) -> io::Result<Self> {
        let mut poller = Poller::new()?;
        let mut sources = BTreeMap::new();
        sources.insert(poller.add(&listener, Interest::Read)?, Source::Listener);
        sources.insert(poller.add(&signals, Interest::Read)?, Source::Signals);
        Ok(Self {
            directory,
            cgroups,
            poller,
            sources,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            next_exec: 0,
            deadlines: BTreeMap::new(),
            unclaimed: Vec::new(),
            checkpoints: Checkpoints::default(),
            own_pid_namespace,
            namespaces,
            buffer: Vec::new(),
            listener,
            signals,
            connections: BTreeMap::new(),
            leaving: None,
        })
    }

    /// Runs until told to shut down.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            let ready = self.poller.wait(self.next_timeout())?;
            let mut children = false;
            for token in ready {
                match self.sources.get(&token).cloned() {
                    Some(Source::Signals) => children = true,
                    Some(Source::Listener) => self.accept(),
                    Some(Source::Connection) => self.serve(token),
                    Some(Source::Channel(container)) => self.hear_container(&container),
                    Some(Source::Output(container)) => self.read_output(&container, token),
                    Some(Source::Exec(exec)) => self.hear_exec(exec),
                    Some(Source::Hooks(container)) => self.hear_hooks(&container),
                    // Closed by something that was ready before it in this turn.
                    None => {}
                }
            }
            // Last, so that what a process said is heard before it is buried.
            if children {
                self.reap();
            }
            self.enforce_deadlines();
            self.look_at_checkpoints();
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn next_timeout(&self) -> Option<Duration> {
        let first = self.deadlines.values().copied().chain(self.checkpoints.next_look()).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            if let Ok(token) = self.poller.add(&socket, Interest::Read) {
                self.sources.insert(token, Source::Connection);
                self.connections.insert(token, Connection::new(socket));
            }
        }
    }

    fn serve(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.receive() {
            Input::Closed => self.disconnect(token),
            Input::Requests(requests) => {
                for (request, descriptors) in requests {
                    self.dispatch(token, request, descriptors);
                }
                self.flush(token);
            }
        }
    }

    /// A daemon that went away takes its execs, its clients and its checkpoints along:
    /// nobody waits for them.
    fn disconnect(&mut self, token: Token) {
        if let Some(connection) = self.connections.remove(&token) {
            self.poller.remove(&connection);
            self.sources.remove(&token);
        }
        let orphans: Vec<u64> = self
            .execs
            .iter()
            .filter(|(_, exec)| exec.reply.connection == token)
            .map(|(id, _)| *id)
            .collect();
        for exec in orphans {
            self.kill_exec(exec);
        }
        for container in self.containers.values_mut() {
            container.clients.forget(|client| client.connection == token);
        }
        self.end_checkpoints(End::Unwanted, |one| one.reply.connection == token);
    }

    fn dispatch(&mut self, connection: Token, request: Request, descriptors: Vec<OwnedFd>) {
        let reply = ReplyTo { connection, request: request.id };
        match request.call {
            Some(Call::Hello(hello)) => self.hello(reply, &hello),
            Some(Call::Create(create)) => self.create(reply, *create),
            Some(Call::Start(start)) => self.start(reply, &start),
            Some(Call::Signal(signal)) => {
                let outcome = self.signal(&signal);
                self.reply_done(reply, outcome);
            }
            Some(Call::Exec(exec)) => self.exec(reply, &exec, descriptors),
            Some(Call::Attach(attach)) => self.attach(reply, &attach, descriptors),
            Some(Call::Socket(socket)) => self.socket(reply, socket),
            Some(Call::KillExec(which)) => {
                let begun = ReplyTo { connection, request: which.exec };
                let exec = self.execs.iter().find(|(_, exec)| exec.reply == begun);
                match exec.map(|(id, _)| *id) {
                    Some(exec) => self.kill_exec(exec),
                    None => self.detach(begun),
                }
                self.reply_done(reply, Ok(()));
            }
            Some(Call::ReopenLog(which)) => {
                let outcome = self.reopen_log(&which.container);
                self.reply_done(reply, outcome);
            }
            Some(Call::Delete(which)) => self.delete(reply, &which.container),
            Some(Call::Checkpoint(checkpoint)) => self.checkpoint(reply, checkpoint),
            Some(Call::Thaw(which)) => {
                let begun = ReplyTo { connection, request: which.checkpoint };
                let outcome = self.thaw(begun);
                self.reply_done(reply, outcome);
            }
            Some(Call::Shutdown(_)) => {
                self.leaving = Some(reply);
                self.end_all_checkpoints();
                for container in self.containers.values() {
                    container.kill();
                }
            }
            None => {
                let failed =
                    Failed::new(FailedKind::Invalid, "a request that this shim does not know");
                self.reply(reply, Outcome::Failed(failed));
            }
        }
    }

    fn hello(&mut self, reply: ReplyTo, hello: &Hello) {
        let outcome = if hello.version == VERSION {
            Outcome::Welcome(Welcome {
                version: VERSION,
                pid: std::process::id(),
                containers: self.containers.values().map(Container::state).collect(),
            })
        } else {
            let message = format!("protocol version {} asked, {VERSION} spoken", hello.version);
            Outcome::Failed(Failed::new(FailedKind::Invalid, message))
        };
        self.reply(reply, outcome);
    }

    /// Buries children, and tells those concerned.
    fn reap(&mut self) {
        let mut pending = [0_u8; 1024];
        while rustix::io::read(&self.signals, &mut pending[..]).is_ok_and(|n| n > 0) {}
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.buried(pid, code_of(status)),
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn buried(&mut self, pid: Pid, code: i32) {
        if self.container_ended(pid, code)
            || self.exec_ended(pid, code)
            || self.job_ended(pid, code)
            || self.dump_ended(pid, code)
        {
            return;
        }
        if !self.is_calling() {
            // Nobody will ask for it; kept, it might be taken for a later process's.
            return self.unclaimed.clear();
        }
        if self.unclaimed.len() == MAX_UNCLAIMED {
            self.unclaimed.remove(0);
        }
        self.unclaimed.push((pid, code));
    }

    /// Whether an external runtime or criu is at work, and may report a process.
    fn is_calling(&self) -> bool {
        let reports =
            |one: &Container| one.call().is_some() || matches!(one.phase, Phase::Restoring { .. });
        self.containers.values().any(reports)
            || self.execs.values().any(|exec| matches!(exec.phase, ExecPhase::External { .. }))
    }

    /// The exit of a process that was reported after it ended.
    pub(super) fn claim(&mut self, pid: Pid) -> Option<i32> {
        let index = self.unclaimed.iter().position(|(unclaimed, _)| *unclaimed == pid)?;
        Some(self.unclaimed.remove(index).1)
    }

    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        let late: Vec<String> = self
            .deadlines
            .iter()
            .filter(|(_, deadline)| **deadline <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for container in late {
            self.deadlines.remove(&container);
            self.too_late(&container);
        }
    }

    fn is_over(&mut self) -> bool {
        let Some(reply) = self.leaving else { return false };
        if self.containers.values().any(Container::is_busy) {
            return false;
        }
        let all: Vec<String> = self.containers.keys().cloned().collect();
        for container in all {
            self.let_go(&container);
        }
        if !self.containers.is_empty() {
            // External runtimes have yet to forget theirs.
            return false;
        }
        if let Some((_, pause)) = &self.namespaces.pause {
            // It may have been killed before.
            let _ = rustix::process::pidfd_send_signal(pause, rustix::process::Signal::KILL);
        }
        // Nothing of the pod is left: the directory's entries that are the shim's own go
        // with it, so that a clean end leaves a clean place.
        let _ = std::fs::remove_file(self.directory.join("shim.sock"));
        self.reply(reply, Outcome::Done(Done {}));
        true
    }

    pub(super) fn reply_done(&mut self, to: ReplyTo, outcome: Result<(), Failed>) {
        let outcome = match outcome {
            Ok(()) => Outcome::Done(Done {}),
            Err(failed) => Outcome::Failed(failed),
        };
        self.reply(to, outcome);
    }

    /// Answers; a connection that is gone needs no answer.
    pub(super) fn reply(&mut self, to: ReplyTo, outcome: Outcome) {
        let reply = Reply { id: to.request, outcome: Some(outcome) };
        let message = Message { body: Some(Body::Reply(reply)), descriptors: 0 };
        self.send(to.connection, &message, vec![]);
    }

    /// Tells that a request has begun, with what it asked for; its reply is still to come.
    pub(super) fn hand(&mut self, to: ReplyTo, descriptor: Option<OwnedFd>) {
        let handed = Body::Handed(Handed { request: to.request });
        let descriptors = u32::from(descriptor.is_some());
        let message = Message { body: Some(handed), descriptors };
        self.send(to.connection, &message, descriptor.into_iter().collect());
    }

    /// Tells every daemon that a container ended.
    pub(super) fn announce(&mut self, state: &ContainerState) {
        let message = Message { body: Some(Body::Exited(state.clone())), descriptors: 0 };
        let all: Vec<Token> = self.connections.keys().copied().collect();
        for token in all {
            self.send(token, &message, vec![]);
        }
    }

    fn send(&mut self, token: Token, message: &Message, descriptors: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.queue(message, descriptors) {
            Ok(()) => self.flush(token),
            Err(_) => self.disconnect(token),
        }
    }

    fn flush(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let interest = match connection.flush() {
            Ok(true) => Interest::Read,
            Ok(false) => Interest::ReadWrite,
            Err(_) => return self.disconnect(token),
        };
        // It fails only for what is not watched, which this is.
        let _ = self.poller.change(connection, token, interest);
    }
}

/// The exit code as shells count: 128 + signal for a process that a signal ended.
fn code_of(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|n| 128 + n)).unwrap_or(255)
}
