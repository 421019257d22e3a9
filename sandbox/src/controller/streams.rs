//! What goes on for a while and is talked to: execs on terminals, attachments, sockets.

use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use super::{KillOnDrop, Sandbox, SandboxError};
use crate::protocol::{Attach, Call, Exec, Outcome, Socket};

impl Sandbox {
    /// Runs a program on a terminal of the container's own, whose master side goes to
    /// `terminal` before the program begins; returns its exit code when it ended.
    ///
    /// # Cancel safety
    /// Dropping the future kills the program.
    ///
    /// # Errors
    /// It was not started.
    pub async fn exec_on_terminal(
        &self,
        exec: Exec,
        terminal: oneshot::Sender<Option<OwnedFd>>,
    ) -> Result<i32, SandboxError> {
        let exec = Exec { terminal: true, ..exec };
        self.go_on(Call::Exec(exec), vec![], terminal).await
    }

    /// Attaches to a running container: its output is copied to `pipes`, and what the
    /// client may write to goes to `input`. Returns the container's exit code when it
    /// ended and everything is in the pipes.
    ///
    /// # Cancel safety
    /// Dropping the future detaches.
    ///
    /// # Errors
    /// It is not running, or the client did not read in time what it writes.
    pub async fn attach(
        &self,
        attach: Attach,
        pipes: Vec<OwnedFd>,
        input: oneshot::Sender<Option<OwnedFd>>,
    ) -> Result<i32, SandboxError> {
        self.go_on(Call::Attach(attach), pipes, input).await
    }

    /// A TCP socket of the pod's network: not blocking, not connected.
    ///
    /// # Errors
    /// The pod's network has no such family.
    pub async fn socket(&self, ipv6: bool) -> Result<OwnedFd, SandboxError> {
        let (sender, mut socket) = oneshot::channel();
        let call = Call::Socket(Socket { ipv6 });
        match self.link.ask(self.link.next_id(), call, vec![], Some(sender)).await? {
            Outcome::Done(_) => {}
            Outcome::Failed(failed) => return Err(SandboxError::Refused(failed)),
            _ => return Err(SandboxError::Confused),
        }
        socket.try_recv().ok().flatten().ok_or(SandboxError::Confused)
    }

    async fn go_on(
        &self,
        call: Call,
        descriptors: Vec<OwnedFd>,
        handed: oneshot::Sender<Option<OwnedFd>>,
    ) -> Result<i32, SandboxError> {
        let id = self.link.next_id();
        let mut guard = KillOnDrop { link: Some(&self.link), exec: id };
        let outcome = self.link.ask(id, call, descriptors, Some(handed)).await;
        guard.link = None;
        match outcome? {
            Outcome::ExecExited(exited) => Ok(exited.code),
            Outcome::Failed(failed) => Err(SandboxError::Refused(failed)),
            _ => Err(SandboxError::Confused),
        }
    }
}
