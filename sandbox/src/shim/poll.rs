//! epoll, with the shim's own name for each thing that can become ready.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Names a registered descriptor; never used twice in the life of a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token(pub(super) u64);

/// The epoll instance.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    next: u64,
}

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    ReadWrite,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, next: 0 })
    }

    /// Watches `fd`, until it is closed or removed.
    pub(super) fn add(&mut self, fd: impl AsFd, interest: Interest) -> io::Result<Token> {
        let token = Token(self.next);
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.0), interest.flags())?;
        self.next += 1;
        Ok(token)
    }

    pub(super) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token.0), interest.flags())?;
        Ok(())
    }

    /// Stops watching `fd`. Needed before closing one that another process may share.
    pub(super) fn remove(&self, fd: impl AsFd) {
        // It fails only for what is not watched, which is what is wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready, or `timeout` is over.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let mut events = Vec::with_capacity(64);
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(events.into_iter().map(|event: epoll::Event| Token(event.data.u64())).collect())
    }
}
