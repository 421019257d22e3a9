//! One connection of a daemon: frames in, frames out, never blocking.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};

use crate::protocol::{self, MAX_DESCRIPTORS, Message, Request};

/// Bytes that may wait for a daemon that does not read; more, and it is cut off.
const MAX_BACKLOG: usize = 4 << 20;

/// A connected daemon.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    output: Vec<u8>,
}

/// What a read brought.
pub(super) enum Input {
    /// Whole requests, each with the descriptors that came with its frame.
    Requests(Vec<(Request, Vec<OwnedFd>)>),
    /// The peer is gone, or does not speak the protocol.
    Closed,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, input: Vec::new(), descriptors: Vec::new(), output: Vec::new() }
    }

    /// Reads what is there.
    pub(super) fn receive(&mut self) -> Input {
        let mut requests = Vec::new();
        loop {
            match self.receive_some() {
                Ok(0) => return Input::Closed,
                Ok(_) => {}
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => return Input::Closed,
            }
            loop {
                match protocol::take_frame::<Request>(&mut self.input) {
                    Ok(Some(request)) => {
                        // They came with the frame's first byte, so they are here.
                        let n = (request.descriptors as usize).min(self.descriptors.len());
                        requests.push((request, self.descriptors.drain(..n).collect()));
                    }
                    Ok(None) => break,
                    Err(_) => return Input::Closed,
                }
            }
        }
        self.input.shrink_to(4096);
        Input::Requests(requests)
    }

    fn receive_some(&mut self) -> Result<usize, Errno> {
        let mut bytes = [0_u8; 16 << 10];
        let mut space =
            [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.input.extend_from_slice(&bytes[..received.bytes]);
        Ok(received.bytes)
    }

    /// Queues a message.
    pub(super) fn queue(&mut self, message: &Message) -> io::Result<()> {
        let frame = protocol::encode(message).map_err(io::Error::other)?;
        if self.output.len() + frame.len() > MAX_BACKLOG {
            return Err(io::Error::other("the daemon does not read"));
        }
        self.output.extend_from_slice(&frame);
        Ok(())
    }

    /// Sends what it can; `true` when nothing is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let mut sent = 0;
        while sent < self.output.len() {
            match rustix::net::send(&self.socket, &self.output[sent..], SendFlags::NOSIGNAL) {
                Ok(n) => sent += n,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.output.drain(..sent);
        self.output.shrink_to(4096);
        Ok(self.output.is_empty())
    }
}
