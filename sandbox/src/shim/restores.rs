//! Containers whose processes are restored: kept as they were dumped until they are started,
//! then put back by criu.
//!
//! criu begins as a child of the shim that has made the container's root, mounts and cgroup
//! (`oci/builtin/init/staging.rs`), and ends when the processes run. The first of them is a
//! child of the shim then, and from then on the container is like any other.
//!
//! **Invariants.** Processes begin in the container's cgroup, so that whatever becomes of criu,
//! killing the cgroup ends all. criu does not outlive the shim, and has the deadline of a start.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::container::{Dumped, First, OciRuntime, Phase, ReplyTo};
use super::containers::{REMOVE_PATIENCE, not_found, pid_mode, refuse, step};
use super::criu;
use super::event_loop::{Shim, Source};
use super::poll::Interest;
use crate::cgroup::Cgroup;
use crate::oci::builtin::process::Program;
use crate::oci::builtin::rlimits::set_oom_score_adj;
use crate::oci::builtin::{self, NewContainer, PidPlace, Stdio};
use crate::oci::external;
use crate::protocol::{Create, Failed, FailedKind, PidMode};

/// What cannot be restored here; less would be silent.
fn refuse_restore(mode: &PidMode, spec: &Spec, stdio: &Stdio) -> Result<(), Failed> {
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| {
        [
            hooks.prestart(),
            hooks.create_runtime(),
            hooks.create_container(),
            hooks.start_container(),
            hooks.poststart(),
            hooks.poststop(),
        ]
        .iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    });
    for (asked, what) in [
        (matches!(stdio, Stdio::Terminal), "a terminal"),
        (matches!(mode, PidMode::Node(_)), "the node's PID namespace"),
        (matches!(mode, PidMode::Target(_)), "another container's PID namespace"),
        (hooks, "hooks"),
    ] {
        if asked {
            let message = format!("a container with {what} cannot be restored");
            return Err(Failed::new(FailedKind::Invalid, message));
        }
    }
    Ok(())
}

impl Shim {
    /// Takes what is needed to restore a container, and makes its cgroup.
    pub(super) fn keep_dumped(
        &self,
        create: &Create,
        spec: &Spec,
        cgroup: &Cgroup,
        directory: &Path,
        stdio: Stdio,
    ) -> Result<(OciRuntime, Phase), Failed> {
        refuse(spec)?;
        refuse_restore(&pid_mode(create), spec, &stdio)?;
        if self.namespaces.user.is_some() {
            let message = "a container in a user namespace cannot be restored";
            return Err(Failed::new(FailedKind::Invalid, message));
        }
        // As for every container: the next checkpoint carries it.
        external::write_private(&directory.join("config.json"), &create.spec)
            .map_err(|e| step("write the spec", &e))?;
        let program = Program::of_container(spec)
            .map_err(|e| Failed::new(FailedKind::Invalid, format!("the OCI spec: {e}")))?;
        cgroup.create().map_err(|e| step("make the cgroup", &e))?;
        if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
        {
            cgroup.apply(resources).map_err(|e| {
                drop(cgroup.remove(REMOVE_PATIENCE));
                step("limit the cgroup", &e)
            })?;
        }
        let oom_score_adj = spec.process().as_ref().and_then(|p| p.oom_score_adj());
        let runtime = OciRuntime::Builtin { program: Box::new(program), oom_score_adj };
        let dumped = Dumped { create: create.clone(), spec: spec.clone(), stdio };
        Ok((runtime, Phase::Dumped { dumped: Box::new(dumped) }))
    }

    /// Has criu restore a container; what came of it is seen at its end.
    pub(super) fn begin_restore(&mut self, reply: ReplyTo, id: &str) -> Result<(), Failed> {
        let container = self.containers.get(id).ok_or_else(|| not_found(id))?;
        let (Phase::Dumped { dumped }, OciRuntime::Builtin { program, .. }) =
            (&container.phase, &container.runtime)
        else {
            let message = format!("container {id} is not to be restored");
            return Err(Failed::new(FailedKind::WrongState, message));
        };
        let Dumped { create, spec, stdio } = &**dumped;
        let restore = create.restore.clone().unwrap_or_default();
        let (directory, criu) = (PathBuf::from(restore.directory), PathBuf::from(restore.criu));
        let pid_namespace = self.shared_pid_namespace(create)?;
        let restored = criu::Restored {
            program: &criu,
            directory: &directory,
            shared_pid_namespace: pid_namespace.as_ref().map(|file| file.as_fd()),
        };
        let rootfs = create.rootfs.clone().unwrap_or_default();
        let new = NewContainer {
            spec,
            rootfs: &rootfs,
            images: &create.images,
            attach_at: &container.directory,
            cgroup: &container.cgroup,
            program,
            pid_place: PidPlace::Host,
            user_namespace: None,
        };
        let stdio = stdio.try_clone().map_err(|e| step("pass on the outputs", &e))?;
        let own = self.own_pid_namespace.as_fd();
        let spawned =
            builtin::stage(&new, stdio, own, |staged| criu::become_restorer(&restored, staged))
                .map_err(|e| step("start criu", &e))?;
        let token = self
            .poller
            .add(&spawned.channel, Interest::Read)
            .map_err(|e| step("watch criu", &e))?;
        self.sources.insert(token, Source::Channel(id.to_owned()));
        let criu = First {
            pid: spawned.pid,
            pidfd: Rc::new(spawned.pidfd),
            channel: Some(Rc::new((spawned.channel, token))),
        };
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        let deadline = Instant::now() + container.patience;
        // The outputs of the program are its own from now on.
        container.phase = Phase::Restoring { reply, criu, directory };
        self.deadlines.insert(id.to_owned(), deadline);
        Ok(())
    }

    /// That of the pod, if the container is in it. Ids that are taken there by then, criu
    /// complains of.
    fn shared_pid_namespace(&self, create: &Create) -> Result<Option<File>, Failed> {
        let PidMode::Pod(_) = pid_mode(create) else { return Ok(None) };
        let Some((pause, _)) = &self.namespaces.pause else {
            let message = "the pod's containers share no PID namespace";
            return Err(Failed::new(FailedKind::Invalid, message));
        };
        let opened = File::open(format!("/proc/{}/ns/pid", pause.as_raw_nonzero()));
        opened.map(Some).map_err(|e| step("open the pod's PID namespace", &e))
    }

    /// criu has ended: the processes run, or nothing is left of them.
    pub(super) fn restore_ended(&mut self, id: &str, pid: Pid, code: i32) {
        let Some(container) = self.containers.get(id) else { return };
        let Phase::Restoring { reply, criu, directory } = &container.phase else { return };
        let reply = *reply;
        let restored = match code {
            0 => self.first_restored(directory, criu),
            code => Err(Failed::new(
                FailedKind::Step,
                format!("restore container {id}: {}", criu::restore_failure(directory, code)),
            )),
        };
        let is_unwanted = container.deletion.is_some() || self.leaving.is_some();
        let restored = restored.and_then(|first| {
            if is_unwanted {
                let message = format!("container {id} was deleted while it started");
                return Err(Failed::new(FailedKind::WrongState, message));
            }
            Ok(first)
        });
        match restored {
            Ok(first) => {
                if let OciRuntime::Builtin { oom_score_adj: Some(score), .. } = container.runtime {
                    for process in container.cgroup.processes().unwrap_or_default() {
                        // It may have ended; and it runs with the score that it had.
                        let _ = set_oom_score_adj(Some(process), score);
                    }
                }
                let first_pid = first.pid;
                self.now_running(id, reply, first);
                if let Some(code) = self.claim(first_pid) {
                    self.container_ended(first_pid, code);
                }
            }
            Err(failed) => {
                criu::kill_rest(pid);
                self.fail_start(id, failed);
            }
        }
    }

    /// The first process that criu left running, a child of the shim.
    fn first_restored(&self, directory: &Path, criu: &First) -> Result<First, Failed> {
        let pid =
            criu::first_restored(directory).map_err(|e| step("find the restored process", &e))?;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Rc::new(pidfd),
            // It has ended and is buried; criu, to which no signal comes either, stands for it.
            Err(_) if self.unclaimed.iter().any(|(one, _)| *one == pid) => Rc::clone(&criu.pidfd),
            Err(errno) => return Err(step("open the restored process", &errno)),
        };
        Ok(First { pid, pidfd, channel: None })
    }
}
