//! Containers of external runtimes: the bundle, and the calls that make a container of it.
//!
//! `create` and `start` are both called when the container is started: what such a runtime
//! finds wrong with a program it says at its `create`, and what is wrong with a program is
//! to be the same for the caller with every runtime, an exit of the started container.
//!
//! # References
//! - [OCI runtime spec, lifecycle](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#lifecycle)

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags};

use super::container::{Container, First, Maker, OciRuntime, Phase, ReplyTo};
use super::containers::{not_found, step};
use super::event_loop::Shim;
use super::external::{Call, Job};
use crate::oci::builtin::Stdio;
use crate::oci::external;
use crate::protocol::{Create, Failed, FailedKind, Rootfs};

/// How long a runtime may take to forget a container.
const DELETE_PATIENCE: Duration = Duration::from_secs(5);

/// The container that an external runtime's `create` left waiting.
fn first_of(job: &Job) -> Result<First, Failed> {
    let pid = job.started().map_err(|e| step("find the container's first process", &e))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|e| step("open the container's first process", &e))?;
    Ok(First { pid, pidfd: Rc::new(pidfd), channel: None })
}

/// Begins one call for a container; none if it is not an external runtime's.
fn call(
    container: &Container,
    what: &'static str,
    arguments: &[&OsStr],
    stdio: Option<Stdio>,
) -> Result<Job, Failed> {
    let OciRuntime::External { runtime, .. } = &container.runtime else {
        let message = format!("container {} has no external runtime", container.id);
        return Err(Failed::new(FailedKind::WrongState, message));
    };
    Call { runtime, directory: &container.directory, what, name: what, arguments }
        .start(stdio)
        .map_err(|e| step(format!("run {}", runtime.path), &e))
}

impl Shim {
    /// Puts the bundle on disk; what comes back stays open as long as the container is there.
    pub(super) fn prepare(
        &self,
        create: &Create,
        spec: &Spec,
        rootfs: &Rootfs,
        directory: &Path,
    ) -> Result<Option<OwnedFd>, Failed> {
        let (pid, joined) = self.pid_namespace(create)?.for_external()?;
        let user = self.namespaces.user.as_ref();
        let images = &create.images;
        external::prepare_bundle(directory, spec, rootfs, images, &pid, user).map_err(|e| {
            external::unmount(directory);
            step("prepare the bundle", &e)
        })?;
        Ok(joined)
    }

    /// Has the runtime create a prepared container; its end goes on to `start`.
    pub(super) fn call_create(&mut self, reply: ReplyTo, id: &str) -> Result<(), Failed> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        let Phase::Prepared { stdio } = &container.phase else {
            let message = format!("container {id} is not in the state created");
            return Err(Failed::new(FailedKind::WrongState, message));
        };
        let stdio = stdio.try_clone().map_err(|e| step("pass on the outputs", &e))?;
        let arguments = ["--bundle".as_ref(), container.directory.as_os_str(), id.as_ref()];
        let job = call(container, "create", &arguments, Some(stdio))?;
        container.phase = Phase::Creating { reply, by: Maker::External(job) };
        let deadline = Instant::now() + container.patience;
        self.deadlines.insert(id.to_owned(), deadline);
        Ok(())
    }

    /// Gives a container back that is over, the external runtime first, if it knows it.
    pub(super) fn let_go(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let (OciRuntime::Builtin { .. }, _) | (_, Phase::Prepared { .. }) =
            (&container.runtime, &container.phase)
        {
            return self.release(id);
        }
        match call(container, "delete", &["--force".as_ref(), id.as_ref()], None) {
            Ok(job) => {
                let state = container.state();
                container.phase = Phase::Deleting { state, job };
                self.deadlines.insert(id.to_owned(), Instant::now() + DELETE_PATIENCE);
            }
            Err(failed) => self.forgotten(id, Err(failed)),
        }
    }

    /// The external runtime forgot a container, or could not; what is left goes.
    pub(super) fn forgotten(&mut self, id: &str, outcome: Result<(), Failed>) {
        if let Err(failed) = outcome {
            eprintln!("orlop shim: container {id}: {}", failed.message);
        }
        self.release(id);
    }

    /// Deals with the end of a runtime's call; `false` if `pid` was none.
    pub(super) fn job_ended(&mut self, pid: Pid, code: i32) -> bool {
        let owner = self.containers.iter().find_map(|(id, container)| {
            container.job().is_some_and(|job| job.pid == pid).then(|| id.clone())
        });
        match owner {
            Some(id) => self.container_call_ended(&id, code),
            None => return self.exec_call_ended(pid, code),
        }
        true
    }

    fn container_call_ended(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(job) = container.job() else { return };
        let said = (code != 0).then(|| Failed::new(FailedKind::Step, job.failure(code)));
        let Some((job, reply)) = container.call() else {
            return self.forgotten(id, said.map_or(Ok(()), Err));
        };
        let first = container.first().cloned();
        // The first process of a `create` waits, so that it is there to be opened.
        let next = match (said, first) {
            (Some(failed), _) => Err(failed),
            (None, _) if container.deletion.is_some() || self.leaving.is_some() => {
                let message = format!("container {id} was deleted while it started");
                Err(Failed::new(FailedKind::WrongState, message))
            }
            (None, Some(first)) => Ok((first, None)),
            (None, None) => first_of(job).and_then(|first| {
                let terminal = job.terminal().map_err(|e| step("take its terminal", &e))?;
                let job = call(container, "start", &[id.as_ref()], None)?;
                Ok((first, Some((job, terminal))))
            }),
        };
        job.clean_up();
        match next {
            Ok((first, Some((job, terminal)))) => {
                container.phase = Phase::Starting { reply, first, call: Some(job) };
                terminal.into_iter().for_each(|master| self.watch_terminal(id, master));
            }
            Ok((first, None)) => {
                let pid = first.pid;
                self.now_running(id, reply, first);
                if let Some(code) = self.claim(pid) {
                    self.container_ended(pid, code);
                }
            }
            Err(failed) => {
                let pid = container.first().map(|first| first.pid);
                self.fail_start(id, failed);
                // Its process's end is part of that failure.
                let _ = pid.and_then(|pid| self.claim(pid));
            }
        }
    }
}
