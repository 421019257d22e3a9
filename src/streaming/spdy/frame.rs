//! Frames of SPDY/3.1: their heads, and the few control frames that a server of streams
//! reads and writes.
//!
//! # References
//! - [SPDY Protocol 3.1, 2.2 and 2.6](https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/)

use bytes::{BufMut as _, Bytes, BytesMut};

use super::dictionary;
use crate::streaming::client::CarrierError;

/// Bytes before each frame's payload.
pub(super) const HEAD_BYTES: usize = 8;

/// The sender is done with the stream.
pub(super) const FIN: u8 = 1;

const VERSION: u16 = 3;
const CONTROL: u16 = 1 << 15;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal {
    /// The frame breaks the rules.
    ProtocolError = 1,
    /// There is no such stream, or no more.
    InvalidStream = 2,
    /// The stream is not wanted; nothing was done for it.
    RefusedStream = 3,
}

/// What the first bytes of a frame say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// So many bytes of a stream follow.
    Data { stream: u32, fin: bool, length: usize },
    /// The payload of a control frame follows.
    Control { kind: u16, flags: u8, length: usize },
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Self, CarrierError> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        let first = u16::from_be_bytes([a, b]);
        if first & CONTROL == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Self::Data { stream, fin: flags & FIN != 0, length });
        }
        if first & !CONTROL != VERSION {
            return Err(CarrierError::Spdy("a control frame of another version"));
        }
        Ok(Self::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

/// A control frame that means something here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Control<'a> {
    /// A new stream, with its compressed headers.
    SynStream { stream: u32, fin: bool, headers: &'a [u8] },
    /// More headers, which nobody wants; but their compression goes on.
    Headers { stream: u32, fin: bool, headers: &'a [u8] },
    /// The stream is no more.
    RstStream { stream: u32 },
    /// To be echoed.
    Ping { id: u32 },
    /// Nothing that changes anything: settings, windows (see [`super`]), farewells, and
    /// what later versions may have added.
    Other,
}

impl<'a> Control<'a> {
    pub(super) fn parse(kind: u16, flags: u8, payload: &'a [u8]) -> Result<Self, CarrierError> {
        let short = CarrierError::Spdy("a control frame is too short");
        let fin = flags & FIN != 0;
        let Some((first, rest)) = payload.split_first_chunk() else {
            return if matches!(kind, SETTINGS | GOAWAY | WINDOW_UPDATE) || kind > WINDOW_UPDATE {
                Ok(Self::Other)
            } else {
                Err(short)
            };
        };
        let number = u32::from_be_bytes(*first);
        let stream = number & !(1 << 31);
        match kind {
            SYN_STREAM => {
                // The associated stream, the priority and the slot say nothing here.
                let headers = rest.get(6..).ok_or(short)?;
                Ok(Self::SynStream { stream, fin, headers })
            }
            SYN_REPLY => Err(CarrierError::Spdy("a reply to a stream that nobody opened")),
            HEADERS => Ok(Self::Headers { stream, fin, headers: rest }),
            RST_STREAM => Ok(Self::RstStream { stream }),
            PING => Ok(Self::Ping { id: number }),
            _ => Ok(Self::Other),
        }
    }
}

/// The head of a data frame.
pub(super) fn data(stream: u32, fin: bool, length: usize) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = (stream & !(1 << 31)).to_be_bytes();
    let [_, x, y, z] = (length as u32).to_be_bytes();
    [a, b, c, d, u8::from(fin), x, y, z]
}

fn control(kind: u16, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    frame.put_u16(CONTROL | VERSION);
    frame.put_u16(kind);
    frame.put_u32(payload.len() as u32);
    frame.put_slice(payload);
    frame.freeze()
}

pub(super) fn ping(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

pub(super) fn rst_stream(stream: u32, refusal: Refusal) -> Bytes {
    control(RST_STREAM, &[stream.to_be_bytes(), (refusal as u32).to_be_bytes()].concat())
}

/// We take no new streams; the last one that was taken is `last`.
pub(super) fn goaway(last: u32) -> Bytes {
    control(GOAWAY, &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat())
}

/// Accepts a stream, with no headers. They are the only headers that a server sends, so
/// their compression is written out: a block of four bytes "stored" (the number of headers,
/// none), and an empty one that makes the reader hand them out. The `first` reply of a
/// connection begins the compressed stream.
pub(super) fn syn_reply(stream: u32, first: bool) -> Bytes {
    /// Method and window size; a dictionary is used.
    const BEGINNING: [u8; 2] = [0x78, 0x20];
    /// A stored block: its length, the complement of that, itself.
    const NO_HEADERS: [u8; 9] = [0, 4, 0, 0xFB, 0xFF, 0, 0, 0, 0];
    /// A stored block without content.
    const FLUSH: [u8; 5] = [0, 0, 0, 0xFF, 0xFF];
    let mut payload = BytesMut::new();
    payload.put_u32(stream);
    if first {
        payload.put_slice(&BEGINNING);
        payload.put_u32(dictionary::ID);
    }
    payload.put_slice(&NO_HEADERS);
    payload.put_slice(&FLUSH);
    control(SYN_REPLY, &payload)
}

/// A new stream, as clients ask for it.
#[cfg(test)]
pub(in crate::streaming) fn syn_stream(stream: u32, headers: &[u8]) -> Bytes {
    control(SYN_STREAM, &[&stream.to_be_bytes(), [0; 6].as_slice(), headers].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() -> Result<(), CarrierError> {
        assert_eq!(
            Head::parse(data(7, true, 70_000))?,
            Head::Data { stream: 7, fin: true, length: 70_000 }
        );
        let frame = ping(6);
        let (head, payload) = frame.split_at(HEAD_BYTES);
        let head = Head::parse(head.try_into().unwrap_or_default())?;
        assert_eq!(head, Head::Control { kind: PING, flags: 0, length: 4 });
        assert_eq!(Control::parse(PING, 0, payload)?, Control::Ping { id: 6 });
        let frame = rst_stream(9, Refusal::RefusedStream);
        let parsed = Control::parse(RST_STREAM, 0, &frame[HEAD_BYTES..])?;
        assert_eq!(parsed, Control::RstStream { stream: 9 });
        Ok(())
    }

    #[test]
    fn short_and_foreign_frames_are_refused() {
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, PING, HEADERS] {
            assert!(Control::parse(kind, 0, &[1, 2, 3]).is_err(), "{kind}");
        }
        assert!(Control::parse(SYN_STREAM, 0, &[0; 9]).is_err());
        assert!(Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]).is_err());
        assert_eq!(Control::parse(99, 0, &[]).ok(), Some(Control::Other));
    }
}
