//! Hooks of containers of the built-in runtime: when they run, and what waits for them.
//!
//! External runtimes run the hooks of their containers themselves.

use std::os::fd::AsFd as _;
use std::rc::Rc;

use rustix::process::{Pid, Signal};

use super::container::{First, Maker, Phase};
use super::containers::step;
use super::event_loop::{Shim, Source};
use super::poll::{Interest, Token};
use crate::oci::builtin::channel::{Channel, News};
use crate::oci::builtin::hooks::{self, ContainerHooks, Stage};
use crate::protocol::Failed;

/// The process that runs the hooks for which a container waits.
#[derive(Debug)]
pub(super) struct HookRun {
    pid: Pid,
    channel: Rc<(Channel, Token)>,
}

impl HookRun {
    /// Ends it with the hook at work.
    pub(super) fn kill(&self) {
        // Not reaped before its channel is closed, so the ids are its own; either may be
        // empty by now.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
    }
}

impl Shim {
    /// Runs the hooks for which a container has to wait; `false` if there are none.
    pub(super) fn await_hooks(&mut self, id: &str) -> Result<bool, Failed> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(false) };
        let Some(hooks) = container.hooks.clone().filter(|hooks| hooks.has(Stage::SetUp)) else {
            return Ok(false);
        };
        let first = container.first().map(|first| (first.pid, Rc::clone(&first.pidfd)));
        let first = first.as_ref().map(|(pid, pidfd)| (*pid, pidfd.as_fd()));
        let spawned = hooks::run(&hooks, Stage::SetUp, first, self.own_pid_namespace.as_fd())
            .map_err(|e| step("run the hooks", &e))?;
        let token = self
            .poller
            .add(&spawned.channel, Interest::Read)
            .map_err(|e| step("watch the hooks", &e))?;
        self.sources.insert(token, Source::Hooks(id.to_owned()));
        let channel = Rc::new((spawned.channel, token));
        container.hook_run = Some(HookRun { pid: spawned.pid, channel });
        Ok(true)
    }

    /// Runs hooks that nothing waits for; what goes wrong is logged.
    pub(super) fn run_hooks(
        &self,
        hooks: Option<&ContainerHooks>,
        stage: Stage,
        first: Option<&First>,
    ) {
        let Some(hooks) = hooks.filter(|hooks| hooks.has(stage)) else { return };
        let first = first.map(|first| (first.pid, first.pidfd.as_fd()));
        if let Err(error) = hooks::run(hooks, stage, first, self.own_pid_namespace.as_fd()) {
            eprintln!("orlop shim: {}", step("run the hooks", &error).message);
        }
    }

    pub(super) fn stop_hearing(&mut self, run: &HookRun) {
        self.stop_listening(&run.channel.0, run.channel.1);
    }

    /// How the hooks that a container waits for ended.
    pub(super) fn hear_hooks(&mut self, id: &str) {
        let Some(run) = self.containers.get(id).and_then(|one| one.hook_run.as_ref()) else {
            return;
        };
        let channel = Rc::clone(&run.channel);
        let outcome = match channel.0.receive() {
            Ok(None) => return,
            Ok(Some(News::Ready(_))) => Ok(()),
            Ok(Some(News::Failed(message))) => Err(message),
            Ok(Some(News::Closed)) | Err(_) => Err("the hooks were killed".to_owned()),
        };
        self.stop_listening(&channel.0, channel.1);
        if let Some(container) = self.containers.get_mut(id) {
            container.hook_run = None;
        }
        match outcome {
            Ok(()) => self.set_up(id),
            Err(message) => self.first_failed(id, message),
        }
    }

    /// Set up, and its hooks did what they had to.
    fn set_up(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        // Or it ended meanwhile.
        if let Phase::Creating { reply, by: Maker::Own(first) } = &container.phase {
            let (reply, first) = (*reply, first.clone());
            container.phase = Phase::Created { first };
            self.created(id, reply);
        }
    }
}
