//! Which streams of a connection are open, and where what they bring goes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::STREAMS_MAX;

/// An open stream: open for the client, for us, or both.
#[derive(Debug)]
struct Stream {
    /// Where the client's bytes go, until its end.
    inbound: Option<mpsc::Sender<Bytes>>,
    /// Whether we may still send.
    sending: bool,
    reset: CancellationToken,
}

/// The open streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Table {
    streams: Mutex<HashMap<u32, Stream>>,
}

impl Table {
    /// Adds a stream; false if there are too many.
    pub(super) fn open(
        &self,
        id: u32,
        inbound: mpsc::Sender<Bytes>,
        reset: CancellationToken,
    ) -> bool {
        let mut streams = self.lock();
        if streams.len() >= STREAMS_MAX {
            return false;
        }
        streams.insert(id, Stream { inbound: Some(inbound), sending: true, reset });
        true
    }

    /// Where the client's bytes of a stream go; none if it is not open for the client.
    pub(super) fn inbound(&self, id: u32) -> Option<mpsc::Sender<Bytes>> {
        self.lock().get(&id)?.inbound.clone()
    }

    /// Whether we may send on a stream.
    pub(super) fn sends(&self, id: u32) -> bool {
        self.lock().get(&id).is_some_and(|stream| stream.sending)
    }

    /// The client sends no more.
    pub(super) fn received_end(&self, id: u32) {
        self.change(id, |stream| stream.inbound = None);
    }

    /// We send no more.
    pub(super) fn sent_end(&self, id: u32) {
        self.change(id, |stream| stream.sending = false);
    }

    /// The stream is no more.
    pub(super) fn reset(&self, id: u32) {
        if let Some(stream) = self.lock().remove(&id) {
            stream.reset.cancel();
        }
    }

    fn change(&self, id: u32, change: impl FnOnce(&mut Stream)) {
        let mut streams = self.lock();
        let Some(stream) = streams.get_mut(&id) else { return };
        change(stream);
        if stream.inbound.is_none() && !stream.sending {
            streams.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Stream>> {
        // Nothing panics with the map half changed.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
