//! A client as sessions see it: byte streams from it and to it. Carriers make them.
//!
//! **Limits.** What waits for a session is [`PIECES`] pieces of [`PIECE`] bytes per stream;
//! then the carrier reads no more. What waits for the client is [`QUEUE`] pieces, all
//! streams of a connection together; then the session's writers wait.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The most bytes that are handed on at once.
pub(super) const PIECE: usize = 16 << 10;

/// How many pieces of one stream wait for the session.
pub(super) const PIECES: usize = 4;

/// How many pieces wait for the client.
pub(super) const QUEUE: usize = 8;

/// How often something is sent to a client at least. That it cannot be sent is the news that
/// the client is gone; nothing else is while it is not read from.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How long a client that was told everything may take to go away by itself. A connection
/// that is closed with something unread in it is reset, and the client may then lose what
/// it has not read yet.
pub(super) const LINGER: Duration = Duration::from_secs(30);

/// The client is not there any more, or wants nothing of this stream.
#[derive(Debug)]
pub(super) struct Gone;

/// Why a connection ended otherwise than by its client's or its session's wish.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarrierError {
    /// The connection.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// The client breaks the rules of SPDY.
    #[error("not SPDY/3.1: {0}")]
    Spdy(&'static str),
    /// The client breaks the rules of WebSocket.
    #[error("not WebSocket")]
    WebSocket(#[from] tokio_tungstenite::tungstenite::Error),
    /// Nothing happened for too long.
    #[error("nothing was sent either way for {seconds} s")]
    Idle {
        /// For so long.
        seconds: u64,
    },
}

/// Bytes from the client.
#[derive(Debug)]
pub(super) struct Inbound {
    pieces: mpsc::Receiver<Bytes>,
}

impl Inbound {
    /// The stream, and where its carrier puts what comes.
    pub(super) fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, Self { pieces })
    }

    /// The next bytes; none at the end.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await
    }
}

/// What a carrier is to write.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Bytes of a stream.
    Data { stream: u32, bytes: Bytes },
    /// The end of a stream.
    End { stream: u32 },
    /// The stream is of no use.
    Reset { stream: u32 },
    /// A frame of the carrier's own, as it goes over the wire.
    Frame(Bytes),
}

/// Bytes to the client.
#[derive(Debug)]
pub(super) struct Outbound {
    stream: u32,
    queue: mpsc::Sender<Outgoing>,
}

impl Outbound {
    pub(super) fn new(stream: u32, queue: mpsc::Sender<Outgoing>) -> Self {
        Self { stream, queue }
    }

    /// Sends at most [`PIECE`] bytes; waits while the client is slow.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.put(Outgoing::Data { stream: self.stream, bytes }).await
    }

    /// There is no more.
    pub(super) async fn finish(self) {
        let _gone = self.put(Outgoing::End { stream: self.stream }).await;
    }

    /// The stream is refused.
    pub(super) async fn reset(self) {
        let _gone = self.put(Outgoing::Reset { stream: self.stream }).await;
    }

    async fn put(&self, outgoing: Outgoing) -> Result<(), Gone> {
        self.queue.send(outgoing).await.map_err(|_closed| Gone)
    }
}

/// When something was last sent, either way.
#[derive(Debug)]
pub(super) struct Activity {
    last: Mutex<Instant>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { last: Mutex::new(Instant::now()) }
    }

    /// Something was sent just now.
    pub(super) fn note(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once nothing was sent for `limit`.
    pub(super) async fn idle(&self, limit: Duration) -> CarrierError {
        loop {
            let until = self.last() + limit;
            if until <= Instant::now() {
                return CarrierError::Idle { seconds: limit.as_secs() };
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
