//! Sockets of the pod's network, for the daemon to connect.
//!
//! A socket belongs to the network namespace of whoever made it, for ever. The shim is in
//! the pod's, so the daemon connects to the pod's loopback without going there.

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::container::ReplyTo;
use super::containers::step;
use super::event_loop::Shim;
use crate::protocol::Socket;

impl Shim {
    pub(super) fn socket(&mut self, reply: ReplyTo, socket: Socket) {
        let family = if socket.ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .map_err(|e| step("make a socket in the pod's network", &e));
        let outcome = made.map(|socket| self.hand(reply, Some(socket)));
        self.reply_done(reply, outcome);
    }
}
