//! The daemon's side of a sandbox: start a pod's shim, find it again after a restart, and
//! talk to it.
//!
//! A [`Sandbox`] is a connection. Dropping it ends the connection and nothing else: the
//! shim and its containers live on, and [`Sandbox::adopt`] finds them.
//!
//! **Invariant.** No question to a shim is waited for without end: what takes long in a
//! container has a deadline that the shim keeps, and the shim itself has to show that it
//! lives ([`SandboxError::Hung`]).

mod boot;
/// The sealed copy of the binary that every shim runs from.
pub mod executable;
/// Finding a process again.
pub mod identity;
mod link;
mod streams;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::lifecycle::ProcessIdentity;
use crate::protocol::{
    self, Boot, Call, CheckpointRef, ContainerRef, ContainerState, Create, Exec, ExecRef, Failed,
    Outcome, Request, Shutdown, Signal, Start, Welcome,
};
use executable::Executable;
use identity::Held;
use link::Link;

/// What went wrong between the daemon and a shim.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The process could not be started.
    #[error("start the shim of pod {pod}")]
    Spawn {
        /// Pod id.
        pod: String,
        /// What the system said.
        source: io::Error,
    },
    /// It started and could not become the pod's shim.
    #[error("the shim of pod {pod} could not start: {reason}")]
    Boot {
        /// Pod id.
        pod: String,
        /// In the shim's words: step, thing, cause.
        reason: String,
    },
    /// It was not put where it belongs.
    #[error("put the shim of pod {pod} into its cgroup")]
    Settle {
        /// Pod id.
        pod: String,
        /// In the caller's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its socket did not answer.
    #[error("connect to the shim at {}", .directory.display())]
    Connect {
        /// The pod's state directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process of the record is gone.
    #[error("the shim of the record, process {pid}, is gone")]
    Gone {
        /// The recorded process id.
        pid: u32,
    },
    /// The connection ended before the answer.
    #[error("the shim is lost")]
    Lost,
    /// It is silent: it hangs, or is stopped. It may yet do what it was asked.
    #[error("{what}: the shim has not answered for {seconds} s")]
    Hung {
        /// What it was asked.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// The request does not fit into a frame.
    #[error("the request is too long")]
    Request(#[source] protocol::FrameError),
    /// The shim speaks of something else.
    #[error("the shim answered something else")]
    Confused,
    /// The shim did not, or could not.
    #[error("{}", .0.message)]
    Refused(Failed),
}

/// How an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecEnd {
    /// By itself, with this exit code (128 + signal number for a signal).
    Exited(i32),
    /// It was killed at its deadline.
    TimedOut,
}

/// How long a killed exec may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// The kernel's number of SIGKILL.
const SIGKILL: i32 = 9;

/// What a shim tells by itself.
#[derive(Debug)]
pub enum SandboxEvent {
    /// A container's program ended; it is on disk.
    Exited(ContainerState),
    /// The shim is gone. The last event.
    Lost,
}

/// The shim of one pod.
#[derive(Debug)]
pub struct Sandbox {
    link: Link,
}

/// A sandbox with what it says.
#[derive(Debug)]
pub struct Connected {
    /// For asking.
    pub sandbox: Sandbox,
    /// For listening.
    pub events: mpsc::UnboundedReceiver<SandboxEvent>,
    /// Which process it is.
    pub identity: ProcessIdentity,
    /// What it said first.
    pub welcome: Welcome,
}

impl Sandbox {
    /// Starts a shim and connects to it. Blocks only in other threads.
    ///
    /// # Errors
    /// Nothing was left running.
    ///
    /// # Cancel safety
    /// A shim that was started by a cancelled call runs on; its directory is on record,
    /// so [`destroy`] finds and ends it. One that does not come up is ended here.
    pub async fn start(executable: &Executable, boot: Boot) -> Result<Connected, SandboxError> {
        Self::start_settled(executable, boot, |_pid| std::future::ready(Ok::<_, io::Error>(())))
            .await
    }

    /// As [`Sandbox::start`]. The new process, by its id, is settled before it does anything:
    /// everything that it will start is where it was put.
    ///
    /// # Errors
    /// Nothing was left running; [`SandboxError::Settle`] if settling failed.
    ///
    /// # Cancel safety
    /// As [`Sandbox::start`].
    pub async fn start_settled<Settling, E>(
        executable: &Executable,
        boot: Boot,
        settle: impl FnOnce(u32) -> Settling + Send + 'static,
    ) -> Result<Connected, SandboxError>
    where
        Settling: Future<Output = Result<(), E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let pod = boot.pod.clone();
        let directory = PathBuf::from(&boot.directory);
        let path = executable.path();
        let (runtime, name) = (tokio::runtime::Handle::current(), pod.clone());
        let started = tokio::task::spawn_blocking(move || {
            let settle = |pid| {
                let settled = runtime.block_on(settle(pid));
                settled.map_err(|e| SandboxError::Settle { pod: name, source: e.into() })
            };
            boot::spawn(&path, &boot, settle, boot::PATIENCE)
        })
        .await;
        let (child, identity) = started.map_err(|error| SandboxError::Spawn {
            pod: pod.clone(),
            source: io::Error::other(error),
        })??;
        let (link, events) = Link::open(&directory, Some(child))
            .await
            .map_err(|source| SandboxError::Connect { directory, source })?;
        greet(link, events, identity).await
    }

    /// Connects to the shim that an earlier daemon started, if it is the one on record.
    ///
    /// # Errors
    /// [`SandboxError::Gone`] if it is not, or is no more.
    pub async fn adopt(
        directory: &Path,
        recorded: ProcessIdentity,
    ) -> Result<Connected, SandboxError> {
        if identity::of(recorded.pid).ok() != Some(recorded) {
            return Err(SandboxError::Gone { pid: recorded.pid });
        }
        let (link, events) = Link::open(directory, None)
            .await
            .map_err(|source| SandboxError::Connect { directory: directory.to_owned(), source })?;
        greet(link, events, recorded).await
    }

    /// Sets a container up to the point where its program would run.
    ///
    /// # Errors
    /// Nothing of it is left in the shim.
    pub async fn create(&self, create: Create) -> Result<ContainerState, SandboxError> {
        self.container(Call::Create(create.into())).await
    }

    /// Runs the program of a created container; returns once it runs.
    ///
    /// # Errors
    /// The program could not be started; the container is over, with an exit.
    pub async fn start_container(
        &self,
        start: impl Into<Start>,
    ) -> Result<ContainerState, SandboxError> {
        self.container(Call::Start(start.into())).await
    }

    /// Sends a signal to a container's first process, or kills all of it.
    ///
    /// # Errors
    /// No such container, or no such signal. That it ended meanwhile is none.
    pub async fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        self.done(Call::Signal(signal)).await
    }

    /// Has a container killed, now or once the shim comes to it; waits for nothing.
    pub fn kill(&self, container: &str) {
        let signal = Signal { container: container.to_owned(), signal: SIGKILL, all: true };
        self.link.post(Call::Signal(signal));
    }

    /// Runs a program in a running container; returns when it ended, or when it was
    /// killed because `timeout` was over.
    ///
    /// # Cancel safety
    /// Dropping the future kills the program.
    ///
    /// # Errors
    /// It was not started.
    pub async fn exec(
        &self,
        exec: Exec,
        stdio: [OwnedFd; 3],
        timeout: Option<Duration>,
    ) -> Result<ExecEnd, SandboxError> {
        let id = self.link.next_id();
        let mut guard = KillOnDrop { link: Some(&self.link), exec: id };
        let mut answer = pin!(self.link.ask(id, Call::Exec(exec), stdio.into(), None));
        let outcome = match timeout {
            None => answer.await,
            Some(timeout) => match tokio::time::timeout(timeout, &mut answer).await {
                Ok(outcome) => outcome,
                Err(_elapsed) => {
                    self.link.post(Call::KillExec(ExecRef { exec: id }));
                    // A process that even SIGKILL does not end at once waits in the kernel;
                    // the caller has waited long enough.
                    let _ = tokio::time::timeout(KILL_PATIENCE, &mut answer).await;
                    guard.link = None;
                    return Ok(ExecEnd::TimedOut);
                }
            },
        };
        guard.link = None;
        match outcome? {
            Outcome::ExecExited(exited) => Ok(ExecEnd::Exited(exited.code)),
            Outcome::Failed(failed) => Err(SandboxError::Refused(failed)),
            _ => Err(SandboxError::Confused),
        }
    }

    /// Closes a running container's log file and opens it again by its name.
    ///
    /// # Errors
    /// The old file stays in use.
    pub async fn reopen_log(&self, container: &str) -> Result<(), SandboxError> {
        self.done(Call::ReopenLog(container_ref(container))).await
    }

    /// Kills what is left of a container and gives back what it holds in the kernel.
    ///
    /// # Errors
    /// A container that the shim does not know is none.
    pub async fn delete(&self, container: &str) -> Result<(), SandboxError> {
        match self.done(Call::Delete(container_ref(container))).await {
            Err(SandboxError::Refused(failed))
                if failed.kind() == protocol::FailedKind::NotFound =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Freezes running containers and dumps their processes, unless `given_up` comes first.
    /// They stay frozen until the checkpoint is thawed, dropped, or too old.
    ///
    /// # Errors
    /// The containers go on, and nothing writes to the directories any more.
    ///
    /// # Cancel safety
    /// Dropping the future has the containers go on.
    pub async fn checkpoint(
        self: &Arc<Self>,
        checkpoint: protocol::Checkpoint,
        given_up: impl Future<Output = ()>,
    ) -> Result<Frozen, SandboxError> {
        let id = self.link.next_id();
        let frozen = Frozen { sandbox: Arc::clone(self), checkpoint: id };
        let mut answer = pin!(self.link.ask(id, Call::Checkpoint(checkpoint), vec![], None));
        let outcome = tokio::select! {
            outcome = &mut answer => outcome,
            () = given_up => {
                frozen.post_thaw();
                answer.await
            }
        };
        match outcome? {
            Outcome::Done(_) => Ok(frozen),
            Outcome::Failed(failed) => Err(SandboxError::Refused(failed)),
            _ => Err(SandboxError::Confused),
        }
    }

    /// Deletes every container and ends the shim.
    ///
    /// # Errors
    /// It may or may not be gone; [`destroy`] makes sure.
    pub async fn shutdown(&self) -> Result<(), SandboxError> {
        self.done(Call::Shutdown(Shutdown {})).await
    }

    async fn container(&self, call: Call) -> Result<ContainerState, SandboxError> {
        match self.link.ask(self.link.next_id(), call, vec![], None).await? {
            Outcome::Container(state) => Ok(state),
            Outcome::Failed(failed) => Err(SandboxError::Refused(failed)),
            _ => Err(SandboxError::Confused),
        }
    }

    async fn done(&self, call: Call) -> Result<(), SandboxError> {
        match self.link.ask(self.link.next_id(), call, vec![], None).await? {
            Outcome::Done(_) => Ok(()),
            Outcome::Failed(failed) => Err(SandboxError::Refused(failed)),
            _ => Err(SandboxError::Confused),
        }
    }
}

/// Containers that are frozen and dumped; dropped, it has them go on.
#[derive(Debug)]
pub struct Frozen {
    sandbox: Arc<Sandbox>,
    checkpoint: u64,
}

impl Frozen {
    /// Has the containers go on.
    ///
    /// # Errors
    /// They did before: what was copied meanwhile may be of later than the dump.
    pub async fn thaw(self) -> Result<(), SandboxError> {
        self.sandbox.done(Call::Thaw(CheckpointRef { checkpoint: self.checkpoint })).await
    }

    fn post_thaw(&self) {
        self.sandbox.link.post(Call::Thaw(CheckpointRef { checkpoint: self.checkpoint }));
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Once more does no harm.
        self.post_thaw();
    }
}

/// Makes sure that a pod's shim is gone, whether or not it answers: by its recorded
/// identity, or by the process that has its socket. Idempotent; blocks until it is.
pub fn destroy(directory: &Path, recorded: Option<ProcessIdentity>) {
    recorded.and_then(Held::exactly).into_iter().for_each(Held::end);
    // A shim that was started and never recorded says who it is by its socket.
    link::peer(directory).and_then(Held::any).into_iter().for_each(Held::end);
}

/// Kills an exec, or ends an attachment, that nobody waits for any more.
struct KillOnDrop<'a> {
    link: Option<&'a Link>,
    exec: u64,
}

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.link {
            link.post(Call::KillExec(ExecRef { exec: self.exec }));
        }
    }
}

fn container_ref(container: &str) -> ContainerRef {
    ContainerRef { container: container.to_owned() }
}

async fn greet(
    link: Link,
    events: mpsc::UnboundedReceiver<SandboxEvent>,
    identity: ProcessIdentity,
) -> Result<Connected, SandboxError> {
    let hello = Call::Hello(protocol::Hello { version: protocol::VERSION });
    let failed = match link.ask(link.next_id(), hello, vec![], None).await {
        Ok(Outcome::Welcome(welcome)) => {
            return Ok(Connected { sandbox: Sandbox { link }, events, identity, welcome });
        }
        Ok(Outcome::Failed(failed)) => SandboxError::Refused(failed),
        Ok(_) => SandboxError::Confused,
        Err(error) => error,
    };
    link.give_up();
    Err(failed)
}

/// A request on its way.
fn request(id: u64, call: Call, descriptors: usize) -> Request {
    Request { id, descriptors: u32::try_from(descriptors).unwrap_or_default(), call: Some(call) }
}
