//! WebSocket as a carrier: each message begins with the number of its channel.
//!
//! There are channels from the beginning, and they end with the connection. Only from
//! version 5 on can a client end a single one: channel 255 carries the number of the
//! channel that it is done with.
//!
//! **Invariants.** As for [`spdy`](super::spdy): one future, and limits.
//!
//! # References
//! - [RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)
//! - [KEP-4006](https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets)

mod tunnel;

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::client::{
    Activity, CarrierError, Inbound, LINGER, Outbound, Outgoing, PIECE, QUEUE, SIGN_OF_LIFE,
};
pub(super) use tunnel::Tunnel;

/// The largest message of a client; kubectl's have 32 KiB, but there are clients that send
/// whole files in one.
const MESSAGE_MAX: usize = 16 << 20;

/// The channel on which a client says that it is done with another one.
const CLOSE: u8 = 255;

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Binary; the channel's number is the first byte.
    Binary,
    /// Text, for browsers; the channel's number is the first digit, the rest base64.
    Base64,
}

impl Encoding {
    fn write(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut message = BytesMut::with_capacity(1 + bytes.len());
                message.put_u8(channel);
                message.put_slice(bytes);
                Message::Binary(message.freeze())
            }
            Self::Base64 => {
                Message::text(format!("{}{}", char::from(b'0' + channel), BASE64.encode(bytes)))
            }
        }
    }

    /// Channel and bytes; none for what is no message of a channel.
    fn read(self, message: Bytes) -> Option<(u8, Bytes)> {
        let first = *message.first()?;
        let rest = message.slice(1..);
        match self {
            Self::Binary => Some((first, rest)),
            Self::Base64 => Some((first.checked_sub(b'0')?, BASE64.decode(&rest).ok()?.into())),
        }
    }
}

/// The server's side of an upgraded connection.
pub(super) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(transport: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .read_buffer_size(PIECE)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * PIECE)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    WebSocketStream::from_raw_socket(transport, Role::Server, Some(config)).await
}

/// One connection.
#[derive(Debug)]
pub(super) struct Channels<T> {
    socket: WebSocketStream<T>,
    encoding: Encoding,
    /// Whether the client may be done with single channels.
    closes: bool,
    inbound: BTreeMap<u8, mpsc::Sender<Bytes>>,
    queue: mpsc::Sender<Outgoing>,
    outgoing: mpsc::Receiver<Outgoing>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Channels<T> {
    pub(super) fn new(socket: WebSocketStream<T>, encoding: Encoding, closes: bool) -> Self {
        let (queue, outgoing) = mpsc::channel(QUEUE);
        Self { socket, encoding, closes, inbound: BTreeMap::new(), queue, outgoing }
    }

    /// The channel from the client with this number.
    pub(super) fn inbound(&mut self, channel: u8) -> Inbound {
        let (sender, inbound) = Inbound::new();
        self.inbound.insert(channel, sender);
        inbound
    }

    /// The channel to the client with this number.
    pub(super) fn outbound(&self, channel: u8) -> Outbound {
        Outbound::new(u32::from(channel), self.queue.clone())
    }

    /// Carries the channels until the client goes away or breaks the rules, or nothing was
    /// sent for `idle`. After `finish` it writes what was given to it, closes, and waits a
    /// little for the client to do so too.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    pub(super) async fn run(
        self,
        finish: CancellationToken,
        idle: Duration,
    ) -> Result<(), CarrierError> {
        let Self { socket, encoding, closes, inbound, queue: _, outgoing } = self;
        let activity = Activity::new();
        let (sink, stream) = socket.split();
        let mut reading = pin!(read(stream, encoding, closes, inbound, &activity));
        let writing = write(sink, encoding, outgoing, finish, &activity);
        tokio::select! {
            ended = &mut reading => return ended,
            error = activity.idle(idle) => return Err(error),
            written = writing => written?,
        }
        tokio::time::timeout(LINGER, reading).await.unwrap_or(Ok(()))
    }
}

async fn read<T: AsyncRead + AsyncWrite + Unpin>(
    mut socket: SplitStream<WebSocketStream<T>>,
    encoding: Encoding,
    closes: bool,
    mut inbound: BTreeMap<u8, mpsc::Sender<Bytes>>,
    activity: &Activity,
) -> Result<(), CarrierError> {
    while let Some(message) = socket.next().await {
        let message = match message? {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            // Pings are answered by the library. After a close the stream ends by itself.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => continue,
        };
        activity.note();
        let Some((channel, mut bytes)) = encoding.read(message) else { continue };
        if closes && channel == CLOSE {
            inbound.remove(bytes.first().unwrap_or(&CLOSE));
            continue;
        }
        let Some(sender) = inbound.get(&channel) else { continue };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            // Whoever does not listen any more misses it.
            let _unheard = sender.send(piece).await;
        }
    }
    Ok(())
}

async fn write<T: AsyncRead + AsyncWrite + Unpin>(
    mut socket: SplitSink<WebSocketStream<T>, Message>,
    encoding: Encoding,
    mut queue: mpsc::Receiver<Outgoing>,
    finish: CancellationToken,
    activity: &Activity,
) -> Result<(), CarrierError> {
    let mut finishing = false;
    let mut alive = tokio::time::interval(SIGN_OF_LIFE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let outgoing = tokio::select! {
            biased;
            // Not a question but an answer: clients give up when theirs stay unanswered,
            // and are read only as fast as the program reads.
            _ = alive.tick() => {
                socket.send(Message::Pong(Bytes::new())).await?;
                continue;
            }
            outgoing = queue.recv() => outgoing,
            () = finish.cancelled(), if !finishing => {
                finishing = true;
                queue.close();
                continue;
            }
        };
        match outgoing {
            Some(Outgoing::Data { stream, bytes }) => {
                activity.note();
                socket.send(encoding.write(stream as u8, &bytes)).await?;
            }
            // Channels end with the connection.
            Some(Outgoing::End { .. } | Outgoing::Reset { .. } | Outgoing::Frame(_)) => {}
            None => break,
        }
    }
    let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    Ok(socket.send(Message::Close(Some(farewell))).await?)
}
