//! Exec, attach and port-forward for clients that stay: the streaming server of CRI.
//!
//! ```text
//! RPC      Exec, Attach, PortForward                             (cri)
//!           -> URL with a token                                  tokens
//! HTTP     GET or POST /exec/TOKEN, /attach/.., /portforward/..  server
//!           -> 101 Switching Protocols                           upgrade
//! session  what the client sends and gets                        session, forward
//!          <-> byte streams with limits                          client
//! carrier  SPDY/3.1, or WebSocket, or the one inside the other   spdy, websocket
//! ```
//!
//! The kubelet connects in the name of its clients, and hands on what they speak, so old
//! and new protocols are all spoken here.
//!
//! **Invariants.** A session and its carrier are futures of one task ([`carry`]), and all
//! of these tasks are in one set: no session outlives its client or the server. A slow
//! client costs what `client` says and slows down nobody but the program that writes to it.
//! This module knows no pods; [`Target`] does the work.
//!
//! # References
//! - [Streaming requests](https://github.com/kubernetes/community/blob/master/contributors/devel/sig-node/cri-streaming.md)

mod carry;
mod client;
mod forward;
mod roles;
mod server;
mod session;
mod spdy;
mod status;
mod target;
mod tls;
mod tokens;
mod upgrade;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use server::{BindError, Server};
pub use target::{AttachOrder, ExecOrder, Process, Resize, Socket, Streams, Target, TargetError};
pub use tls::{Tls, TlsError};
pub use tokens::{PortForwardOrder, TokenError};

use tokens::{CommandOrder, Order, Tokens};

/// What the server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Certificate and key; plain HTTP without.
    pub tls: Option<Tls>,
    /// How long a session may go on with nothing sent either way.
    pub idle_timeout: Duration,
    /// How long a client may take to open its streams.
    pub creation_timeout: Duration,
}

/// Gives out URLs, each of them good for one session and for a minute.
#[derive(Debug, Clone)]
pub struct Urls {
    base: String,
    tokens: Arc<Tokens>,
}

impl Urls {
    fn new(base: String, tokens: Arc<Tokens>) -> Self {
        Self { base, tokens }
    }

    /// The URL at which a program will be run.
    ///
    /// # Errors
    /// Too many are outstanding.
    pub fn exec(&self, order: ExecOrder) -> Result<String, TokenError> {
        self.give(Order::Command(CommandOrder::Exec(order)))
    }

    /// The URL at which a container will be attached to.
    ///
    /// # Errors
    /// Too many are outstanding.
    pub fn attach(&self, order: AttachOrder) -> Result<String, TokenError> {
        self.give(Order::Command(CommandOrder::Attach(order)))
    }

    /// The URL at which ports of a pod will be forwarded.
    ///
    /// # Errors
    /// Too many are outstanding.
    pub fn port_forward(&self, order: PortForwardOrder) -> Result<String, TokenError> {
        self.give(Order::PortForward(order))
    }

    fn give(&self, order: Order) -> Result<String, TokenError> {
        let path = order.path();
        Ok(format!("{}/{path}/{}", self.base, self.tokens.give(order, Instant::now())?))
    }
}

#[cfg(test)]
mod tests;
