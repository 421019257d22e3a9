//! SPDY/3.1, the server's side of one connection: streams that the client opens.
//!
//! Why our own: the one crate for it, `spdystream-rs` 0.1.2, drops data when a stream's
//! reader is slow (its queue is filled with `try_send`), decompresses without bounds, and
//! leaves its detached tasks running when the connection ends. What is left after removing
//! those is the dozen frames below.
//!
//! **Flow control.** The one client that there is, Go's `spdystream`, neither sends nor
//! obeys windows. The windows of SPDY/3.1 are therefore not used in either direction; what
//! a slow side slows down is the connection. [`client`](super::client) says how much waits.
//!
//! **Invariants.** A connection is one future: dropping it ends everything of it. Nothing
//! that a client sends makes it hold more than the limits here and in `client`.
//!
//! # References
//! - [SPDY Protocol 3.1](https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/)

mod dictionary;
mod frame;
mod headers;
mod reading;
mod table;
mod writing;

use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::client::{Activity, CarrierError, Inbound, LINGER, Outbound, Outgoing, QUEUE};
pub(super) use headers::Headers;
use table::Table;

/// How many streams of a connection are open at once: a forwarded connection takes two.
const STREAMS_MAX: usize = 1024;

/// How many new streams wait to be looked at.
const NEW_STREAMS: usize = 8;

/// A stream that the client opened; it is accepted already.
#[derive(Debug)]
pub(super) struct NewStream {
    /// Its number on this connection.
    pub(super) id: u32,
    /// What it is for.
    pub(super) headers: Headers,
    /// What the client sends on it.
    pub(super) inbound: Inbound,
    /// What the client gets on it.
    pub(super) outbound: Outbound,
    /// Cancelled when the client resets it.
    pub(super) reset: CancellationToken,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection<T> {
    transport: T,
    streams: mpsc::Sender<NewStream>,
    queue: mpsc::Sender<Outgoing>,
    outgoing: mpsc::Receiver<Outgoing>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// The connection over `transport`, and the streams that its client opens.
    pub(super) fn new(transport: T) -> (Self, mpsc::Receiver<NewStream>) {
        let (streams, opened) = mpsc::channel(NEW_STREAMS);
        let (queue, outgoing) = mpsc::channel(QUEUE);
        (Self { transport, streams, queue, outgoing }, opened)
    }

    /// Carries the streams until the client goes away or breaks the rules, or nothing was
    /// sent for `idle`. After `finish` it writes what was given to it, says farewell, and
    /// waits a little for the client to go.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    pub(super) async fn run(
        self,
        finish: CancellationToken,
        idle: Duration,
    ) -> Result<(), CarrierError> {
        let Self { transport, streams, queue, outgoing } = self;
        let (table, activity) = (Table::default(), Activity::new());
        let (read, write) = tokio::io::split(transport);
        let mut reading = pin!(reading::read(read, streams, queue, &table, &activity));
        let writing = writing::write(write, outgoing, finish, &table, &activity);
        tokio::select! {
            ended = &mut reading => return ended,
            error = activity.idle(idle) => return Err(error),
            written = writing => written?,
        }
        // The client was told everything; what it still says is for nobody.
        tokio::time::timeout(LINGER, reading).await.unwrap_or(Ok(()))
    }
}

/// What a client needs.
#[cfg(test)]
pub(super) mod testing {
    pub(in crate::streaming) use super::frame::syn_stream;
    pub(in crate::streaming) use super::headers::tests::HeaderWriter;
}

#[cfg(test)]
mod tests;
