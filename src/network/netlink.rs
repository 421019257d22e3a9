//! Netlink in this process: a socket, and messages with nested attributes.
//!
//! Written here because both families that the bridge needs, routes and nftables, share this
//! small codec. Requests are answered by the kernel before `send` returns, so the functions
//! are plain blocking calls.
//!
//! A socket belongs to the network namespace of the thread that opened it, wherever it is
//! used afterwards.
//!
//! Specification: [netlink](https://docs.kernel.org/userspace-api/netlink/intro.html).

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

pub(super) use self::message::{Attributes, Message, Reply};

pub(super) mod conntrack;
mod message;
pub(super) mod nftables;
pub(super) mod route;

/// Bytes read at once. The kernel sizes the parts of a dump by the reader's buffer and never
/// beyond 32 KiB.
const RECEIVE_BYTES: usize = 32 * 1024;

/// How long an answer may take. The kernel answers at once; a missing answer is a defect,
/// and must not hold the thread for ever.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_ACK: u16 = 0x4;
/// The request makes something.
pub(super) const NLM_F_CREATE: u16 = 0x400;
/// The request fails when it exists.
pub(super) const NLM_F_EXCL: u16 = 0x200;
/// The request goes to the end of a list.
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP: u16 = 0x300;

/// The netlink families used here.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    /// Links, addresses, routes.
    Route,
    /// nftables.
    Netfilter,
}

/// A netlink socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket into the network namespace of the calling thread.
    pub(super) fn open(family: Family) -> Result<Self, Errno> {
        let protocol = match family {
            // NETLINK_ROUTE is protocol 0.
            Family::Route => None,
            Family::Netfilter => Some(NETFILTER),
        };
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one request and waits until the kernel has done it.
    pub(super) fn request(&mut self, message: Message) -> Result<(), Errno> {
        self.exchange(message, NLM_F_ACK).map(drop)
    }

    /// Sends one request which the kernel answers with one message.
    pub(super) fn query(&mut self, message: Message) -> Result<Option<Reply>, Errno> {
        self.exchange(message, NLM_F_ACK).map(|replies| replies.into_iter().next())
    }

    /// Sends one request which the kernel answers with any number of messages.
    pub(super) fn dump(&mut self, message: Message) -> Result<Vec<Reply>, Errno> {
        self.exchange(message, NLM_F_DUMP)
    }

    fn exchange(&mut self, message: Message, flags: u16) -> Result<Vec<Reply>, Errno> {
        let sequence = self.next_sequence();
        self.send(&message.finish(NLM_F_REQUEST | flags, sequence))?;
        let mut replies = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            for reply in self.receive(&mut buffer)? {
                if reply.sequence != sequence {
                    continue; // the rest of an exchange that timed out
                }
                match reply.kind {
                    NLMSG_DONE => return reply.error_code().map_or(Ok(replies), Err),
                    NLMSG_ERROR => return reply.error_code().map_or(Ok(replies), Err),
                    _ => replies.push(reply),
                }
            }
        }
    }

    /// Sends several messages as one, and waits until the last is acknowledged. The kernel
    /// takes an nftables batch wholly or not at all.
    ///
    /// # Errors
    /// The first error that any of the messages met.
    fn transact(&mut self, batch: Vec<(Message, Acknowledge)>) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        let mut awaited = 0usize;
        let first = self.sequence.wrapping_add(1);
        for (message, acknowledge) in batch {
            let ack = match acknowledge {
                Acknowledge::Yes => {
                    awaited += 1;
                    NLM_F_ACK
                }
                Acknowledge::No => 0,
            };
            let sequence = self.next_sequence();
            bytes.extend_from_slice(&message.finish(NLM_F_REQUEST | ack, sequence));
        }
        self.send(&bytes)?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut failed = None;
        while awaited > 0 {
            for reply in self.receive(&mut buffer)? {
                if reply.kind != NLMSG_ERROR || reply.sequence.wrapping_sub(first) > u32::MAX / 2 {
                    continue;
                }
                let error = reply.error_code();
                failed = failed.or(error);
                if reply.sequence == first {
                    // The frame of the batch was refused: nothing else is answered.
                    return failed.map_or(Ok(()), Err);
                }
                awaited = awaited.saturating_sub(1);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.fd, bytes, SendFlags::empty(), &kernel).map(drop)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<Vec<Reply>, Errno> {
        let (length, whole) = recv(&self.fd, &mut *buffer, RecvFlags::TRUNC)?;
        if whole > buffer.len() {
            return Err(Errno::MSGSIZE);
        }
        Reply::parse_all(buffer.get(..length).unwrap_or_default())
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Whether the kernel is asked to answer a message of a batch.
#[derive(Debug, Clone, Copy)]
enum Acknowledge {
    Yes,
    No,
}

#[cfg(test)]
mod tests;
