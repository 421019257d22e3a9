//! An archive that arrives in chunks, read by code that blocks.
//!
//! The channel holds a few chunks, so a client sends no faster than the server unpacks. The
//! end of the archive is said explicitly: a client that goes away must not look like one
//! that has finished.

use std::io::{self, ErrorKind, Read};

use tokio::sync::mpsc::{Receiver, Sender, channel};

/// How many chunks wait between the connection and the unpacking.
const WAITING: usize = 4;

/// What goes through the channel.
#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// The side of the connection.
#[derive(Debug)]
pub(super) struct ArchiveWriter(Sender<Piece>);

/// The side of the unpacking. Reading blocks: not for threads that serve.
#[derive(Debug)]
pub(super) struct ArchiveReader {
    pieces: Receiver<Piece>,
    chunk: Vec<u8>,
    /// How much of `chunk` was read.
    read: usize,
    ended: bool,
}

/// Nobody reads any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the archive any more")]
pub(super) struct NoReader;

/// The two sides of one archive.
pub(super) fn archive() -> (ArchiveWriter, ArchiveReader) {
    let (sender, pieces) = channel(WAITING);
    (ArchiveWriter(sender), ArchiveReader { pieces, chunk: Vec::new(), read: 0, ended: false })
}

impl ArchiveWriter {
    /// Passes on a chunk, as soon as there is room.
    ///
    /// # Errors
    /// [`NoReader`] when the other side is gone.
    ///
    /// # Cancel safety
    /// The chunk may be lost; the archive is then broken off by dropping this side.
    pub(super) async fn write(&self, chunk: Vec<u8>) -> Result<(), NoReader> {
        self.send(Piece::Bytes(chunk)).await
    }

    /// Says that the archive is complete.
    ///
    /// # Errors
    /// [`NoReader`] when the other side is gone.
    ///
    /// # Cancel safety
    /// As [`Self::write`].
    pub(super) async fn end(self) -> Result<(), NoReader> {
        self.send(Piece::End).await
    }

    async fn send(&self, piece: Piece) -> Result<(), NoReader> {
        // The error carries nothing but the piece back.
        self.0.send(piece).await.or(Err(NoReader))
    }
}

impl Read for ArchiveReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.chunk.len() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(chunk)) => (self.chunk, self.read) = (chunk, 0),
                Some(Piece::End) => self.ended = true,
                None => {
                    let what = "the client went away before the end of the archive";
                    return Err(io::Error::new(ErrorKind::ConnectionAborted, what));
                }
            }
        }
        let rest = self.chunk.get(self.read..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.read += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn chunks_become_one_archive() -> Result<(), Box<dyn std::error::Error>> {
        let (writer, mut reader) = archive();
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        for chunk in ["one ", "", "two"] {
            writer.write(chunk.into()).await?;
        }
        writer.end().await?;
        assert_eq!(reading.await??, "one two");
        Ok(())
    }

    #[tokio::test]
    async fn a_client_that_goes_away_is_not_the_end() -> Result<(), Box<dyn std::error::Error>> {
        let (writer, mut reader) = archive();
        let reading = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
        writer.write(vec![1]).await?;
        drop(writer);
        let kind = reading.await?.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::ConnectionAborted));
        Ok(())
    }

    #[tokio::test]
    async fn a_reader_that_gives_up_stops_the_writer() {
        let (writer, reader) = archive();
        drop(reader);
        assert!(writer.write(vec![1]).await.is_err());
    }
}
