//! Calls whose bytes the test chooses: what a client of another version, or a broken one, sends.

use std::path::Path;

use anyhow::Result;
use bytes::{Buf as _, BufMut as _};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;

use crate::client;

/// Messages as they are on the wire.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// Calls `/SERVICE/METHOD` of a daemon with this message; the answer's message or status.
///
/// # Errors
/// If nothing accepts connections at the socket.
pub async fn call(
    socket: &Path,
    path: &'static str,
    message: &[u8],
) -> Result<Result<Vec<u8>, Status>> {
    let mut grpc = Grpc::new(client::channel(socket).await?);
    grpc.ready().await?;
    let request = tonic::Request::new(message.to_vec());
    let answer = grpc.unary(request, PathAndQuery::from_static(path), Bytes).await;
    Ok(answer.map(tonic::Response::into_inner))
}

/// One field with bytes or a string: its number and content, as protobuf has them.
#[must_use]
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    const BYTES: u8 = 2;
    let mut wire = vec![number << 3 | BYTES, u8::try_from(content.len()).unwrap_or(u8::MAX)];
    wire.extend(content);
    wire
}
