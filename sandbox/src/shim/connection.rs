//! One connection of a daemon: frames in, frames out, never blocking.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::protocol::{self, MAX_DESCRIPTORS, Message, Request};

/// Bytes that may wait for a daemon that does not read; more, and it is cut off.
const MAX_BACKLOG: usize = 4 << 20;

/// A connected daemon.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    output: VecDeque<Parcel>,
    backlog: usize,
}

/// What is left to send of one frame, and the descriptors that go with its first byte.
#[derive(Debug)]
struct Parcel {
    frame: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
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
        let (input, descriptors) = (Vec::new(), Vec::new());
        Self { socket, input, descriptors, output: VecDeque::new(), backlog: 0 }
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

    /// Queues a message with the descriptors whose number it tells.
    pub(super) fn queue(&mut self, message: &Message, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let frame = protocol::encode(message).map_err(io::Error::other)?;
        if self.backlog + frame.len() > MAX_BACKLOG {
            return Err(io::Error::other("the daemon does not read"));
        }
        self.backlog += frame.len();
        self.output.push_back(Parcel { frame, sent: 0, descriptors });
        Ok(())
    }

    /// Sends what it can; `true` when nothing is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while let Some(parcel) = self.output.front_mut() {
            match parcel.send(&self.socket) {
                Ok(n) => {
                    parcel.sent += n;
                    self.backlog -= n;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if parcel.sent == parcel.frame.len() {
                self.output.pop_front();
            }
        }
        self.output.shrink_to(16);
        Ok(self.output.is_empty())
    }
}

impl Parcel {
    /// Sends some of it. The descriptors have gone, and are closed here, with the first.
    fn send(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let mut space =
            [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let bytes = [IoSlice::new(&self.frame[self.sent..])];
        let sent = rustix::net::sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)?;
        self.descriptors.clear();
        Ok(sent)
    }
}
