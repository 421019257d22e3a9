//! Attachments: clients come, are told, and go.

use std::os::fd::OwnedFd;

use super::clients::{Client, Clients};
use super::container::{Phase, ReplyTo};
use super::containers::{not_found, step};
use super::event_loop::Shim;
use crate::protocol::{Attach, ExecExited, Failed, FailedKind, Outcome};

impl Shim {
    pub(super) fn attach(&mut self, reply: ReplyTo, attach: &Attach, descriptors: Vec<OwnedFd>) {
        match self.begin_attach(reply, attach, descriptors) {
            Ok(input) => self.hand(reply, input),
            Err(failed) => self.reply(reply, Outcome::Failed(failed)),
        }
    }

    /// What the client writes to, if there is something.
    fn begin_attach(
        &mut self,
        reply: ReplyTo,
        attach: &Attach,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<OwnedFd>, Failed> {
        let id = &attach.container;
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        let Phase::Running { .. } = container.phase else {
            let message = format!("container {id} is not running");
            return Err(Failed::new(FailedKind::WrongState, message));
        };
        let mut pipes = descriptors.into_iter();
        let mut pipe = |asked: bool| {
            let pipe = asked.then(|| pipes.next()).flatten();
            if let Some(pipe) = &pipe {
                rustix::io::ioctl_fionbio(pipe, true).map_err(|e| step("unblock a pipe", &e))?;
            }
            Ok(pipe)
        };
        let (stdout, stderr) = (pipe(attach.stdout)?, pipe(attach.stderr)?);
        let again = |e: std::io::Error| step("pass on the input", &e);
        let input = match container.terminal() {
            Some(master) => Some(master.try_clone().map_err(again)?),
            None if !attach.stdin => None,
            None if attach.stdin_once => container.stdin.take(),
            None => container.stdin.as_ref().map(OwnedFd::try_clone).transpose().map_err(again)?,
        };
        container.clients.add(Client { reply, stdout, stderr });
        Ok(input)
    }

    /// A client wants no more.
    pub(super) fn detach(&mut self, begun: ReplyTo) {
        let containers = self.containers.values_mut();
        let gone: Vec<_> = containers
            .flat_map(|container| container.clients.forget(|client| client == begun))
            .collect();
        for reply in gone {
            self.reply_done(reply, Ok(()));
        }
    }

    /// Tells clients that fell behind and were let go of.
    pub(super) fn cut_off(&mut self, fallen_behind: Vec<ReplyTo>) {
        for reply in fallen_behind {
            let message = "the client fell too far behind what the container writes";
            self.reply_done(reply, Err(Failed::new(FailedKind::Step, message)));
        }
    }

    /// Tells the clients of a container that ended; they have been given all its output.
    pub(super) fn end_attachments(&mut self, clients: Clients, code: i32) {
        let (complete, fallen_behind) = clients.into_ended();
        for reply in complete {
            self.reply(reply, Outcome::ExecExited(ExecExited { code }));
        }
        self.cut_off(fallen_behind);
    }
}
