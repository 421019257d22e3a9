//! Checkpoints: containers are frozen together, dumped one after the other by criu, and held
//! frozen until the daemon has copied what they wrote.
//!
//! **Invariants.** A container is frozen only while a checkpoint of it is here, and a
//! checkpoint is here no longer than its deadline, than the connection that asked for it,
//! and than its containers are left alone: a signal or a deletion ends it. Whatever ends it,
//! criu has to let the containers go, is killed if it does not, and they go on. criu does
//! not outlive the shim either.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::container::{Phase, PidScope, ReplyTo};
use super::containers::{not_found, step};
use super::criu::{self, CriuJob, Dumped};
use super::event_loop::Shim;
use crate::protocol::{self, Done, Failed, FailedKind, Outcome};

/// How long criu may take to let go of the processes when a checkpoint is given up.
const GRACE: Duration = Duration::from_secs(3);

/// How often containers are asked whether they are frozen.
const PAUSE: Duration = Duration::from_millis(3);

/// The checkpoints in progress.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    all: Vec<Checkpoint>,
    /// Those that were given up while criu was at work, which is not buried yet.
    given_up: Vec<GivenUp>,
}

/// One checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// Who asked for it; also its name.
    pub(super) reply: ReplyTo,
    criu: PathBuf,
    dumps: Vec<Dump>,
    deadline: Instant,
    stage: Stage,
}

#[derive(Debug)]
struct GivenUp {
    job: CriuJob,
    containers: Vec<String>,
    /// Until then criu may let go of the processes by itself; none: it was killed.
    grace: Option<Instant>,
    /// Whom to tell when it is gone, and what.
    reply: ReplyTo,
    failed: Failed,
}

#[derive(Debug)]
struct Dump {
    container: String,
    directory: PathBuf,
}

/// Why a checkpoint is given up.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Its deadline has passed.
    Late,
    /// A container of it is to end, or to heed a signal, which a frozen one would not.
    Stopped,
    /// Whoever asked for it is gone, or has what they wanted.
    Unwanted,
}

/// How far a checkpoint is.
#[derive(Debug)]
enum Stage {
    /// The containers were told to stop.
    Freezing,
    /// They have stopped.
    Frozen,
    /// This one is being dumped.
    Dumping { index: usize, job: CriuJob },
    /// All are dumped, and stay as they are.
    Held,
}

impl Checkpoints {
    /// When there is something to be done at the latest.
    pub(super) fn next_look(&self) -> impl Iterator<Item = Instant> + '_ {
        let going_on = self.all.iter().map(|one| match one.stage {
            Stage::Freezing => one.deadline.min(Instant::now() + PAUSE),
            Stage::Frozen | Stage::Dumping { .. } | Stage::Held => one.deadline,
        });
        going_on.chain(self.given_up.iter().filter_map(|one| one.grace))
    }

    fn has(&self, container: &str) -> bool {
        self.all.iter().any(|one| one.is_of(container))
            || self.given_up.iter().any(|one| one.containers.iter().any(|id| id == container))
    }

    /// Kills criu where a checkpoint was given up, if its grace is over at this instant.
    fn kill_late(&mut self, now: Instant) {
        for one in &mut self.given_up {
            if one.grace.is_some_and(|grace| grace <= now) {
                one.job.kill();
                one.grace = None;
            }
        }
    }
}

impl Checkpoint {
    fn is_of(&self, container: &str) -> bool {
        self.dumps.iter().any(|dump| dump.container == container)
    }
}

impl Shim {
    pub(super) fn checkpoint(&mut self, reply: ReplyTo, asked: protocol::Checkpoint) {
        let deadline = Instant::now() + Duration::from_millis(asked.deadline_ms);
        let dumps: Vec<Dump> = asked
            .dumps
            .into_iter()
            .map(|dump| Dump { container: dump.container, directory: dump.directory.into() })
            .collect();
        for dump in &dumps {
            if let Err(failed) = self.can_be_dumped(&dump.container) {
                return self.reply(reply, Outcome::Failed(failed));
            }
        }
        let criu = asked.criu.into();
        let checkpoint = Checkpoint { reply, criu, dumps, deadline, stage: Stage::Freezing };
        let begun = self.freeze(&checkpoint);
        self.checkpoints.all.push(checkpoint);
        if let Err(failed) = begun {
            self.fail_checkpoint(reply, failed);
        }
    }

    fn can_be_dumped(&self, id: &str) -> Result<(), Failed> {
        let container = self.containers.get(id).ok_or_else(|| not_found(id))?;
        let wrong =
            |what: &str| Err(Failed::new(FailedKind::WrongState, format!("container {id} {what}")));
        match container.phase {
            Phase::Running { .. } if self.checkpoints.has(id) => wrong("is being checkpointed"),
            Phase::Running { .. } => Ok(()),
            _ => wrong("is not running"),
        }
    }

    /// Tells all containers of a checkpoint to stop.
    fn freeze(&self, checkpoint: &Checkpoint) -> Result<(), Failed> {
        for dump in &checkpoint.dumps {
            let id = &dump.container;
            let container = self.containers.get(id).ok_or_else(|| not_found(id))?;
            let frozen = container.cgroup.begin_freeze();
            frozen.map_err(|e| step(format!("freeze container {id}"), &e))?;
        }
        Ok(())
    }

    /// Goes on with what the containers were waited for, and ends what is too late.
    pub(super) fn look_at_checkpoints(&mut self) {
        let now = Instant::now();
        self.end_checkpoints(End::Late, |one| one.deadline <= now);
        self.checkpoints.kill_late(now);
        let freezing = |one: &&Checkpoint| matches!(one.stage, Stage::Freezing);
        let waiting: Vec<ReplyTo> =
            self.checkpoints.all.iter().filter(freezing).map(|one| one.reply).collect();
        for name in waiting {
            match self.is_all_frozen(name) {
                Ok(true) => self.dump_next(name, 0),
                Ok(false) => {}
                Err(failed) => self.fail_checkpoint(name, failed),
            }
        }
    }

    fn is_all_frozen(&self, name: ReplyTo) -> Result<bool, Failed> {
        let Some(checkpoint) = self.find_checkpoint(name) else { return Ok(false) };
        // Once more, for the sake of processes that were forked meanwhile.
        self.freeze(checkpoint)?;
        for dump in &checkpoint.dumps {
            let id = &dump.container;
            let container = self.containers.get(id).ok_or_else(|| not_found(id))?;
            let frozen = container.cgroup.is_frozen();
            if !frozen.map_err(|e| step(format!("freeze container {id}"), &e))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn find_checkpoint(&self, name: ReplyTo) -> Option<&Checkpoint> {
        self.checkpoints.all.iter().find(|one| one.reply == name)
    }

    /// Dumps the container of this index, or is done if there is none.
    fn dump_next(&mut self, name: ReplyTo, index: usize) {
        let Some(checkpoint) = self.find_checkpoint(name) else { return };
        let stage = match checkpoint.dumps.get(index).map(|dump| self.dump(checkpoint, dump)) {
            Some(Err(failed)) => return self.fail_checkpoint(name, failed),
            Some(Ok(job)) => Stage::Dumping { index, job },
            None => Stage::Held,
        };
        let is_done = matches!(stage, Stage::Held);
        if let Some(one) = self.checkpoints.all.iter_mut().find(|one| one.reply == name) {
            one.stage = stage;
        }
        if is_done {
            self.reply(name, Outcome::Done(Done {}));
        }
    }

    fn dump(&self, checkpoint: &Checkpoint, dump: &Dump) -> Result<CriuJob, Failed> {
        let id = &dump.container;
        let container = self.containers.get(id).ok_or_else(|| not_found(id))?;
        let ended = || Failed::new(FailedKind::WrongState, format!("container {id} has ended"));
        let first = container.first().ok_or_else(ended)?;
        let failed = |e: &dyn std::error::Error| step(format!("dump container {id}"), e);
        let shared_pid_namespace = match container.pid_scope {
            PidScope::Own => None,
            PidScope::Shared => shared_pid_namespace(first.pid).map_err(|e| failed(&e))?,
        };
        let dumped = Dumped { first: first.pid, cgroup: &container.cgroup, shared_pid_namespace };
        criu::dump(&checkpoint.criu, &dumped, &dump.directory).map_err(|e| failed(&e))
    }

    /// Deals with the end of a call of criu; `false` if `pid` was none.
    pub(super) fn dump_ended(&mut self, pid: Pid, code: i32) -> bool {
        if let Some(at) = self.checkpoints.given_up.iter().position(|one| one.job.pid == pid) {
            criu::kill_rest(pid);
            let given_up = self.checkpoints.given_up.remove(at);
            // Among the last things it did may have been to freeze them again.
            for id in &given_up.containers {
                self.let_go_on(id);
            }
            self.reply(given_up.reply, Outcome::Failed(given_up.failed));
            return true;
        }
        let ended = self.checkpoints.all.iter().find_map(|one| match &one.stage {
            Stage::Dumping { index, job } if job.pid == pid => Some((one, *index)),
            _ => None,
        });
        let Some((checkpoint, index)) = ended else { return false };
        criu::kill_rest(pid);
        let (name, dump) = (checkpoint.reply, &checkpoint.dumps[index]);
        let failed = (code != 0).then(|| {
            let why = criu::failure(&dump.directory, code);
            let message = format!("dump container {}: {why}", dump.container);
            Failed::new(FailedKind::Step, message)
        });
        if let Some(one) = self.checkpoints.all.iter_mut().find(|one| one.reply == name) {
            one.stage = Stage::Frozen;
        }
        match failed {
            None => self.dump_next(name, index + 1),
            Some(failed) => self.fail_checkpoint(name, failed),
        }
        true
    }

    /// Ends a checkpoint that the daemon has no more use for, finished or not.
    pub(super) fn thaw(&mut self, name: ReplyTo) -> Result<(), Failed> {
        if self.find_checkpoint(name).is_none() {
            let message = "the checkpoint is over already: its containers have gone on";
            return Err(Failed::new(FailedKind::WrongState, message));
        }
        self.end_checkpoints(End::Unwanted, |one| one.reply == name);
        Ok(())
    }

    /// Ends those of a container that is to heed a signal, or to go.
    pub(super) fn end_checkpoints_of(&mut self, container: &str) {
        self.end_checkpoints(End::Stopped, |one| one.is_of(container));
    }

    /// Ends checkpoints: containers go on, and whoever waits for one that is not finished
    /// is told why.
    pub(super) fn end_checkpoints(&mut self, why: End, is_over: impl Fn(&Checkpoint) -> bool) {
        let over = self.checkpoints.all.iter().filter(|one| is_over(one));
        let over: Vec<ReplyTo> = over.map(|one| one.reply).collect();
        for name in over {
            let (kind, why) = match why {
                End::Late => (FailedKind::Deadline, "it took too long"),
                End::Stopped => (FailedKind::WrongState, "a container of it is being stopped"),
                End::Unwanted => (FailedKind::WrongState, "nobody waits for it"),
            };
            let message = format!("the checkpoint was given up: {why}");
            self.fail_checkpoint(name, Failed::new(kind, message));
        }
    }

    /// Ends all, and each criu at once: the containers are to be killed.
    pub(super) fn end_all_checkpoints(&mut self) {
        self.end_checkpoints(End::Stopped, |_| true);
        self.checkpoints.kill_late(Instant::now() + GRACE);
    }

    fn fail_checkpoint(&mut self, name: ReplyTo, failed: Failed) {
        let Some(at) = self.checkpoints.all.iter().position(|one| one.reply == name) else {
            return;
        };
        let Checkpoint { dumps, stage, .. } = self.checkpoints.all.remove(at);
        let containers: Vec<String> = dumps.into_iter().map(|dump| dump.container).collect();
        if let Stage::Dumping { job, .. } = &stage {
            job.fail();
        }
        for id in &containers {
            self.let_go_on(id);
        }
        match stage {
            // Its reply was sent.
            Stage::Held => {}
            Stage::Freezing | Stage::Frozen => self.reply(name, Outcome::Failed(failed)),
            Stage::Dumping { job, .. } => {
                let grace = Some(Instant::now() + GRACE);
                let given_up = GivenUp { job, containers, grace, reply: name, failed };
                self.checkpoints.given_up.push(given_up);
            }
        }
    }

    fn let_go_on(&self, id: &str) {
        let Some(container) = self.containers.get(id) else { return };
        if let Err(error) = container.cgroup.thaw() {
            let said = step(format!("let container {id} go on"), &error);
            eprintln!("orlop shim: {}", said.message);
        }
    }
}

/// The number of a process's PID namespace; none if it is this process's too.
fn shared_pid_namespace(process: Pid) -> std::io::Result<Option<u64>> {
    let number =
        |process: &str| rustix::fs::stat(format!("/proc/{process}/ns/pid")).map(|stat| stat.st_ino);
    let theirs = number(&process.as_raw_nonzero().to_string())?;
    Ok((theirs != number("self")?).then_some(theirs))
}
