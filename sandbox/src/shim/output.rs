//! A program's outputs on their way to its log and to whoever is attached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::clients::Clients;
use super::logs::{Log, Stream};
use super::poll::Token;

/// Bytes read at once; also what one turn of the loop gives to one output, so that a
/// chatty container cannot starve the others of its pod.
const CHUNK: usize = 64 << 10;

/// The size that is asked for each pipe: bursts fit without waking the shim for each.
const PIPE_SIZE: usize = 256 << 10;

/// The reading end of a pipe or terminal.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    pub(super) stream: Stream,
    pub(super) token: Token,
}

/// What reading brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// There may be more.
    More,
    /// Nothing now.
    Empty,
    /// Never again.
    Closed,
}

/// A pipe for a program's output: the end that is read without blocking, and the other.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    // Beyond the user's pipe quota the size stays as it is, which is fine.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_SIZE);
    Ok((read, write))
}

impl Output {
    /// Moves one chunk to the log and the clients.
    pub(super) fn read_chunk(
        &self,
        log: &mut Log,
        clients: &mut Clients,
        buffer: &mut Vec<u8>,
    ) -> Drained {
        buffer.resize(CHUNK, 0);
        match rustix::io::read(&self.fd, &mut buffer[..]) {
            Ok(0) => Drained::Closed,
            Ok(n) => {
                log.write(self.stream, &buffer[..n]);
                clients.write(self.stream, &buffer[..n]);
                if n < CHUNK { Drained::Empty } else { Drained::More }
            }
            Err(Errno::AGAIN) => Drained::Empty,
            Err(Errno::INTR) => Drained::More,
            // A terminal whose last user is gone says EIO.
            Err(_) => Drained::Closed,
        }
    }

    /// Moves to the log and the clients all that is there.
    pub(super) fn read_all(&self, log: &mut Log, clients: &mut Clients, buffer: &mut Vec<u8>) {
        // A program that writes faster than this reads must not keep the shim here: what
        // fits in the pipe twice over was written before the exit.
        for _ in 0..2 * PIPE_SIZE.div_ceil(CHUNK) + 2 {
            buffer.resize(CHUNK, 0);
            match rustix::io::read(&self.fd, &mut buffer[..]) {
                Ok(0) => return,
                Ok(n) => {
                    log.write(self.stream, &buffer[..n]);
                    clients.write(self.stream, &buffer[..n]);
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
