//! The bytes of one layer in order; a big layer's from several answers at once.
//!
//! ```text
//! part 1   tail of its bytes ──> given out as they come
//! part 2   ######............    ahead: comes meanwhile, waits in memory
//! part 3   ##................
//! ```
//! Many registries limit what one connection gets, so a big layer is cut into parts of one size
//! that are asked for with a range each. Invariants: the layer's own connection always serves one
//! of them, and the first part in order needs no memory but a few pieces, so a layer waits for
//! nobody; every other part has a connection of the registry's share and its size of the
//! pipeline's memory, or is not begun. Parts ahead are a try: whatever goes wrong with ranges, the
//! layer goes on from where it is with one answer, and what that one says counts.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::transfer::config::Config;
use crate::transfer::manifest::Descriptor;
use crate::transfer::permits::{Permit, Urgency};
use crate::transfer::registry::{BlobError, HostIndex, NoRanges, RequestError, Session};
use crate::transfer::tasks::Tasks;

/// What all the parts of a layer need.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) session: Arc<Session>,
    pub(super) config: Arc<Config>,
    pub(super) urgency: Arc<Urgency>,
    pub(super) tasks: Tasks,
    /// How many parts of all layers may be held in memory.
    pub(super) memory: Arc<Semaphore>,
}

/// A layer on its way.
#[derive(Debug)]
pub(super) struct Ranges {
    means: Means,
    layer: Descriptor,
    /// The host that is asked first, or a later one that gave bytes.
    host: HostIndex,
    way: Way,
    /// Up to where bytes were given out, and up to where parts are begun.
    offset: u64,
    begun: u64,
    own: Own,
    parts: VecDeque<Part>,
    running: JoinSet<Line>,
}

/// How the layer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A part first, to see whether the host knows ranges.
    Probe,
    /// In parts, several at once.
    Parts,
    /// In one answer.
    Whole,
}

/// Whether the layer's own connection is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Free,
    Used,
}

/// What a part comes over.
#[derive(Debug)]
enum Line {
    /// The connection that the layer has anyway.
    Own,
    /// Another one.
    More { _permit: Permit },
}

/// A part that was begun.
#[derive(Debug)]
struct Part {
    range: Range<u64>,
    receiver: Receiver<Result<Chunk, BlobError>>,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Bytes of a part.
#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    host: HostIndex,
    /// Where the answer ends: behind the part if the host knows no ranges.
    end: u64,
}

impl Ranges {
    /// The layer from the host at `host`, of which nothing is asked yet.
    pub(super) fn new(means: Means, layer: Descriptor, host: HostIndex) -> Self {
        let config = &means.config;
        let in_parts = config.ranges_per_layer > 1
            && config.parts_ahead() > 0
            && layer.size >= config.least_ranged_bytes;
        Self {
            means,
            layer,
            host,
            way: if in_parts { Way::Probe } else { Way::Whole },
            offset: 0,
            begun: 0,
            own: Own::Free,
            parts: VecDeque::new(),
            running: JoinSet::new(),
        }
    }

    /// The last of the hosts that gave bytes.
    pub(super) fn host(&self) -> HostIndex {
        self.host
    }

    /// The next bytes; `None` once all of them came.
    ///
    /// # Errors
    /// [`BlobError`] when no host is left, or one of them sent what it must not.
    ///
    /// # Cancel safety
    /// Safe: bytes are given out or still to be received.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        loop {
            if self.parts.is_empty() {
                // What was given up lets go of the own connection.
                while self.running.join_next().await.is_some() {}
                self.own = Own::Free;
                if self.offset == self.layer.size {
                    return Ok(None);
                }
                self.begin_first();
            }
            self.begin_ahead();
            let Some(first) = self.parts.front_mut() else { continue };
            match first.receiver.recv().await {
                Some(Ok(chunk)) => return Ok(Some(self.take(chunk))),
                None if self.offset == first.range.end => drop(self.parts.pop_front()),
                Some(Err(error)) if self.way == Way::Whole => return Err(error),
                Some(Err(error)) => self.give_parts_up(&error),
                None => {
                    let host = self.means.session.host_name(self.host);
                    let error = RequestError::Body { received: self.offset, source: None };
                    return Err(BlobError::Lie { host, error });
                }
            }
        }
    }

    /// Takes in what the first part got.
    fn take(&mut self, chunk: Chunk) -> Bytes {
        self.host = self.host.max(chunk.host);
        self.offset += chunk.bytes.len() as u64;
        if let Some(first) = self.parts.front_mut()
            && chunk.end > first.range.end
        {
            first.range.end = chunk.end;
            self.parts.truncate(1);
            (self.way, self.begun) = (Way::Whole, chunk.end);
        } else if self.way == Way::Probe {
            self.way = Way::Parts;
        }
        chunk.bytes
    }

    /// Goes on from here with one answer.
    fn give_parts_up(&mut self, error: &BlobError) {
        let (digest, offset) = (&self.layer.digest, self.offset);
        tracing::debug!(content.digest = %digest, offset, %error, "going on without ranges");
        self.parts.clear();
        self.running.abort_all();
        (self.way, self.begun) = (Way::Whole, offset);
    }

    /// Begins the part whose bytes are needed now.
    fn begin_first(&mut self) {
        let end = match self.way {
            Way::Whole => self.layer.size,
            Way::Probe | Way::Parts => self.part_end(self.offset),
        };
        self.own = Own::Used;
        self.begin(self.offset..end, Line::Own, None);
    }

    /// Begins those behind it for which there is room.
    fn begin_ahead(&mut self) {
        while let Some(ended) = self.running.try_join_next() {
            if matches!(ended, Ok(Line::Own)) {
                self.own = Own::Free;
            }
        }
        while self.way == Way::Parts
            && self.begun < self.layer.size
            && self.parts.len() < self.means.config.ranges_per_layer
        {
            let Ok(memory) = Arc::clone(&self.means.memory).try_acquire_owned() else { return };
            let line = if self.own == Own::Free {
                self.own = Own::Used;
                Line::Own
            } else {
                let permit = self.means.session.share().try_connection(&self.means.urgency);
                let Some(permit) = permit else { return };
                Line::More { _permit: permit }
            };
            self.begin(self.begun..self.part_end(self.begun), line, Some(memory));
        }
    }

    fn part_end(&self, start: u64) -> u64 {
        start.saturating_add(self.means.config.range_bytes).min(self.layer.size)
    }

    fn begin(&mut self, range: Range<u64>, line: Line, memory: Option<OwnedSemaphorePermit>) {
        // What is ahead never waits to be taken, and comes to no more than its size.
        let (pieces, place) = match memory {
            Some(_) => (usize::try_from(range.end - range.start), Place::Ahead),
            None => (Ok(1), Place::First),
        };
        let (sender, receiver) = mpsc::channel(pieces.unwrap_or(1));
        self.begun = range.end;
        let (session, layer, host) =
            (Arc::clone(&self.means.session), self.layer.clone(), self.host);
        self.parts.push_back(Part { range: range.clone(), receiver, _memory: memory });
        self.running.spawn(self.means.tasks.track(async move {
            fetch(&session, &layer, range, host, place, sender).await;
            line
        }));
    }
}

/// Where a part is when it is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Ahead,
}

/// Moves a part into its channel. A closed channel means that nobody wants it any more.
async fn fetch(
    session: &Session,
    layer: &Descriptor,
    range: Range<u64>,
    host: HostIndex,
    place: Place,
    sender: Sender<Result<Chunk, BlobError>>,
) {
    let no_ranges = match place {
        Place::First => NoRanges::Skip,
        Place::Ahead => NoRanges::Refuse,
    };
    let mut stream = session.part(&layer.digest, layer.size, range, no_ranges, host);
    loop {
        let next = match stream.next().await {
            Ok(Some(bytes)) => {
                let came = bytes.len();
                let bytes = match place {
                    Place::First => bytes,
                    // What was read of a socket may be a small piece of a big buffer.
                    Place::Ahead => Bytes::copy_from_slice(&bytes),
                };
                let chunk = Chunk { bytes, host: stream.host(), end: stream.end() };
                (Ok(chunk), came)
            }
            Ok(None) => return,
            Err(error) => (Err(error), 0),
        };
        let (next, came) = next;
        let is_last = next.is_err();
        if sender.send(next).await.is_err() || is_last {
            return;
        }
        session.share().pay(came).await;
    }
}
