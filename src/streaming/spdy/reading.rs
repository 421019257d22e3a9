//! What comes from the client: frames, turned into streams and their bytes.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Control, HEAD_BYTES, Head, Refusal};
use super::headers::HeaderReader;
use super::table::Table;
use super::{Inbound, NewStream, Outbound, Outgoing};
use crate::streaming::client::{Activity, CarrierError, PIECE};

/// The largest control frame; header blocks are compressed.
const CONTROL_MAX: usize = 16 << 10;

/// Reads frames until the client closes the connection.
pub(super) async fn read(
    transport: impl AsyncRead + Unpin,
    streams: mpsc::Sender<NewStream>,
    queue: mpsc::Sender<Outgoing>,
    table: &Table,
    activity: &Activity,
) -> Result<(), CarrierError> {
    let transport = BufReader::with_capacity(PIECE, transport);
    let headers = HeaderReader::new();
    let reading =
        Reading { transport, headers, last: 0, replied: false, streams, queue, table, activity };
    reading.run().await
}

struct Reading<'a, R> {
    transport: BufReader<R>,
    headers: HeaderReader,
    /// The number of the newest stream; 0 before the first.
    last: u32,
    /// Whether a stream was accepted before.
    replied: bool,
    streams: mpsc::Sender<NewStream>,
    queue: mpsc::Sender<Outgoing>,
    table: &'a Table,
    activity: &'a Activity,
}

impl<R: AsyncRead + Unpin> Reading<'_, R> {
    async fn run(mut self) -> Result<(), CarrierError> {
        while let Some(head) = self.head().await? {
            match head {
                Head::Data { stream, fin, length } => self.data(stream, fin, length).await?,
                Head::Control { kind, flags, length } => self.control(kind, flags, length).await?,
            }
        }
        Ok(())
    }

    /// The head of the next frame; none when the connection ends between two.
    async fn head(&mut self) -> Result<Option<Head>, CarrierError> {
        let mut bytes = [0; HEAD_BYTES];
        let mut filled = 0;
        while filled < HEAD_BYTES {
            match self.transport.read(&mut bytes[filled..]).await? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(CarrierError::Spdy("a frame is cut off")),
                read => filled += read,
            }
        }
        Head::parse(bytes).map(Some)
    }

    /// Hands the bytes on as they come, however long the frame is.
    async fn data(&mut self, id: u32, fin: bool, length: usize) -> Result<(), CarrierError> {
        self.activity.note();
        let inbound = self.table.inbound(id);
        let mut left = length;
        while left > 0 {
            let mut piece = BytesMut::zeroed(left.min(PIECE));
            let read = self.transport.read(&mut piece).await?;
            if read == 0 {
                return Err(CarrierError::Spdy("a frame is cut off"));
            }
            left -= read;
            piece.truncate(read);
            if let Some(inbound) = &inbound {
                // Whoever does not listen any more misses it.
                let _unheard = inbound.send(piece.freeze()).await;
            }
        }
        if inbound.is_none() {
            self.say(frame::rst_stream(id, Refusal::InvalidStream)).await;
        } else if fin {
            self.table.received_end(id);
        }
        Ok(())
    }

    async fn control(&mut self, kind: u16, flags: u8, length: usize) -> Result<(), CarrierError> {
        if length > CONTROL_MAX {
            return Err(CarrierError::Spdy("a control frame is too long"));
        }
        let mut payload = vec![0; length];
        self.transport.read_exact(&mut payload).await?;
        match Control::parse(kind, flags, &payload)? {
            Control::SynStream { stream, fin, headers } => {
                self.open(stream, fin, headers).await?;
            }
            Control::Headers { stream, fin, headers } => {
                self.headers.read(headers)?;
                if fin {
                    self.table.received_end(stream);
                }
            }
            Control::RstStream { stream } => self.table.reset(stream),
            // Even numbers are ours, and the answer to them is no question.
            Control::Ping { id } if !id.is_multiple_of(2) => self.say(frame::ping(id)).await,
            Control::Ping { .. } | Control::Other => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: &[u8]) -> Result<(), CarrierError> {
        self.activity.note();
        let headers = self.headers.read(headers)?;
        if id.is_multiple_of(2) || id <= self.last {
            self.say(frame::rst_stream(id, Refusal::ProtocolError)).await;
            return Ok(());
        }
        let (sender, inbound) = Inbound::new();
        let reset = CancellationToken::new();
        if !self.table.open(id, sender, reset.clone()) {
            self.last = id;
            self.say(frame::rst_stream(id, Refusal::RefusedStream)).await;
            return Ok(());
        }
        self.say(frame::syn_reply(id, !self.replied)).await;
        (self.last, self.replied) = (id, true);
        if fin {
            self.table.received_end(id);
        }
        let outbound = Outbound::new(id, self.queue.clone());
        let stream = NewStream { id, headers, inbound, outbound, reset };
        if self.streams.send(stream).await.is_err() {
            // The session has the streams it wants, or is over.
            self.table.reset(id);
            self.say(frame::rst_stream(id, Refusal::RefusedStream)).await;
        }
        Ok(())
    }

    async fn say(&mut self, frame: Bytes) {
        // If nothing is written any more, the connection is about to end.
        let _closed = self.queue.send(Outgoing::Frame(frame)).await;
    }
}
