//! A client of SPDY/3.1, as small as can be.

use std::collections::BTreeMap;
use std::error::Error;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::split;
use crate::streaming::spdy::testing::{HeaderWriter, syn_stream};

type Failure = Box<dyn Error + Send + Sync>;

/// An upgraded connection.
pub(super) struct SpdyClient<T> {
    pub(super) io: T,
    headers: HeaderWriter,
    next: u32,
}

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Data { stream: u32, fin: bool, bytes: Vec<u8> },
    Control { kind: u16, payload: Vec<u8> },
    End,
}

pub(super) const SYN_REPLY: u16 = 2;
pub(super) const RST_STREAM: u16 = 3;
pub(super) const PING: u16 = 6;

/// Sends a request that asks for an upgrade, and reads the head of the answer.
pub(super) async fn request(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<String, Failure> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    io.write_all(format!("{text}\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if !head.is_empty() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(String::from_utf8(head)?)
}

impl SpdyClient<TcpStream> {
    /// Connects to `url` and speaks `protocol` there.
    pub(super) async fn connect(url: &str, protocol: &str) -> Result<Self, Failure> {
        let (host, path) = split(url)?;
        let io = TcpStream::connect(host).await?;
        Self::upgrade(io, &path, protocol).await
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> SpdyClient<T> {
    pub(super) async fn upgrade(mut io: T, path: &str, protocol: &str) -> Result<Self, Failure> {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", protocol),
            ("Content-Length", "0"),
        ];
        let head = request(&mut io, "POST", path, &headers).await?;
        if !head.starts_with("HTTP/1.1 101 ")
            || !head
                .to_lowercase()
                .contains(&format!("x-stream-protocol-version: {}", protocol.to_lowercase()))
        {
            return Err(head.into());
        }
        Self::over(io)
    }

    /// Over a transport that is upgraded already.
    pub(super) fn over(io: T) -> Result<Self, Failure> {
        Ok(Self { io, headers: HeaderWriter::new()?, next: 1 })
    }

    /// Opens a stream.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32, Failure> {
        let id = self.next;
        self.next += 2;
        let frame = syn_stream(id, &self.headers.write(headers)?);
        self.io.write_all(&frame).await?;
        Ok(id)
    }

    /// Opens the streams of a command; returns their numbers in the order of `roles`.
    pub(super) async fn open_roles<const N: usize>(
        &mut self,
        roles: [&str; N],
    ) -> Result<[u32; N], Failure> {
        let mut ids = [0; N];
        for (id, role) in ids.iter_mut().zip(roles) {
            *id = self.open(&[("streamtype", role)]).await?;
        }
        Ok(ids)
    }

    pub(super) async fn send(
        &mut self,
        stream: u32,
        bytes: &[u8],
        fin: bool,
    ) -> Result<(), Failure> {
        self.io.write_all(&data(stream, bytes, fin)?).await?;
        Ok(())
    }

    pub(super) async fn hear(&mut self) -> Result<Heard, Failure> {
        hear(&mut self.io).await
    }

    /// Everything until the end of the connection, by stream, and which streams ended.
    pub(super) async fn rest(&mut self) -> Result<BTreeMap<u32, (Vec<u8>, bool)>, Failure> {
        rest(&mut self.io).await
    }
}

pub(super) fn data(stream: u32, bytes: &[u8], fin: bool) -> Result<Vec<u8>, Failure> {
    let mut frame = stream.to_be_bytes().to_vec();
    let length = u32::try_from(bytes.len())?.to_be_bytes();
    frame.extend([u8::from(fin), length[1], length[2], length[3]]);
    frame.extend(bytes);
    Ok(frame)
}

pub(super) async fn hear(io: &mut (impl AsyncRead + Unpin)) -> Result<Heard, Failure> {
    let mut head = [0; 8];
    if io.read(&mut head[..1]).await? == 0 {
        return Ok(Heard::End);
    }
    io.read_exact(&mut head[1..]).await?;
    let [a, b, c, d, flags, x, y, z] = head;
    let mut bytes = vec![0; u32::from_be_bytes([0, x, y, z]) as usize];
    io.read_exact(&mut bytes).await?;
    if a & 0x80 == 0 {
        let stream = u32::from_be_bytes([a, b, c, d]);
        return Ok(Heard::Data { stream, fin: flags & 1 != 0, bytes });
    }
    Ok(Heard::Control { kind: u16::from_be_bytes([c, d]), payload: bytes })
}

pub(super) async fn rest(
    io: &mut (impl AsyncRead + Unpin),
) -> Result<BTreeMap<u32, (Vec<u8>, bool)>, Failure> {
    let mut streams: BTreeMap<u32, (Vec<u8>, bool)> = BTreeMap::new();
    loop {
        match hear(io).await? {
            Heard::Data { stream, fin, bytes } => {
                let (so_far, ended) = streams.entry(stream).or_default();
                so_far.extend(bytes);
                *ended |= fin;
            }
            Heard::Control { .. } => {}
            Heard::End => return Ok(streams),
        }
    }
}
