//! Who is attached to a container's outputs, and what each of them gets.
//!
//! A client is two pipes. Writing to them never blocks, so neither the container nor its
//! log waits for a client; one whose pipe is full has fallen behind and is let go of,
//! because what it would read next would have a hole in it.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::container::ReplyTo;
use super::logs::Stream;

/// The clients of one container.
#[derive(Debug, Default)]
pub(super) struct Clients {
    attached: Vec<Client>,
    fallen_behind: Vec<ReplyTo>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) reply: ReplyTo,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

impl Clients {
    pub(super) fn add(&mut self, client: Client) {
        self.attached.push(client);
    }

    /// Lets go of those that `gone` says; returns whom.
    pub(super) fn forget(&mut self, gone: impl Fn(ReplyTo) -> bool) -> Vec<ReplyTo> {
        self.attached.extract_if(.., |client| gone(client.reply)).map(|c| c.reply).collect()
    }

    /// Gives `bytes` to each client of `stream`.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let behind = |client: &mut Client| client.write(stream, bytes) == Write::Full;
        let behind = self.attached.extract_if(.., behind).map(|client| client.reply);
        self.fallen_behind.extend(behind);
    }

    /// Those that were let go of since the last time.
    pub(super) fn take_fallen_behind(&mut self) -> Vec<ReplyTo> {
        std::mem::take(&mut self.fallen_behind)
    }

    /// Lets go of all: those that got everything, and those that fell behind.
    pub(super) fn into_ended(self) -> (Vec<ReplyTo>, Vec<ReplyTo>) {
        (self.attached.into_iter().map(|client| client.reply).collect(), self.fallen_behind)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Write {
    Done,
    Full,
}

impl Client {
    fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> Write {
        let pipe = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        while let (Some(fd), false) = (pipe.as_ref(), bytes.is_empty()) {
            match rustix::io::write(fd, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::AGAIN) => return Write::Full,
                Err(Errno::INTR) => {}
                // It reads no more of this one.
                Err(_) => *pipe = None,
            }
        }
        Write::Done
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::poll::Token;
    use super::*;

    fn client(request: u64) -> (Client, std::fs::File) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        let reply = ReplyTo { connection: Token(0), request };
        (Client { reply, stdout: Some(write), stderr: None }, read.into())
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go_of_and_the_others_get_all() {
        let (slow, slow_end) = client(1);
        let (mut quick, mut quick_end) = client(2);
        quick.reply.request = 2;
        let mut clients = Clients::default();
        clients.add(slow);
        clients.add(quick);
        let chunk = [7_u8; 16 << 10];
        let mut read = 0;
        for _ in 0..64 {
            clients.write(Stream::Stdout, &chunk);
            clients.write(Stream::Stderr, &chunk);
            let mut bytes = [0_u8; 16 << 10];
            quick_end.read_exact(&mut bytes).unwrap();
            read += bytes.len();
        }
        assert_eq!(read, 64 * chunk.len());
        let behind = clients.take_fallen_behind();
        assert_eq!(behind.iter().map(|reply| reply.request).collect::<Vec<_>>(), [1]);
        // What it was given before is whole, and then it ends.
        let mut rest = Vec::new();
        std::io::BufReader::new(slow_end).read_to_end(&mut rest).unwrap();
        assert!(rest.len() >= chunk.len());
        let (complete, behind) = clients.into_ended();
        assert_eq!((complete.len(), behind.len()), (1, 0));
    }

    #[test]
    fn a_client_that_closed_an_output_stays_for_the_other() {
        let (mut gone, end) = client(1);
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        gone.stderr = Some(write);
        drop(end);
        let mut clients = Clients::default();
        clients.add(gone);
        clients.write(Stream::Stdout, b"nobody reads this");
        clients.write(Stream::Stderr, b"errors");
        let mut bytes = [0_u8; 6];
        std::fs::File::from(read).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"errors");
        assert_eq!(clients.forget(|reply| reply.request == 1).len(), 1);
    }
}
