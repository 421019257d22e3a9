//! Decompression on a thread of its own, so that inflating and extracting share two cores.
//!
//! Buffers go round in a circle: the inflating thread fills them, the reader empties them and
//! gives them back. The number of buffers bounds the memory.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use flate2::bufread::MultiGzDecoder;

use crate::content::{Digest, Hasher};

const BUFFER_BYTES: usize = 256 << 10;
const BUFFERS: usize = 4;
const SOURCE_BUFFER_BYTES: usize = 64 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A skippable zstd frame; its low four bits are free.
const ZSTD_SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// 128 MiB, what `zstd -d` accepts without being asked for more.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Whether this is the media type of a layer that is a tar archive, compressed or not.
pub(super) fn is_layer(media_type: &str) -> bool {
    let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.");
    let oci = media_type.strip_prefix("application/vnd.oci.image.layer.");
    match (docker, oci) {
        (Some(kind), _) => {
            let kind = kind.strip_prefix("foreign.").unwrap_or(kind);
            matches!(kind, "diff.tar" | "diff.tar.gzip" | "diff.tar.zstd")
        }
        (None, Some(kind)) => {
            let kind = kind.strip_prefix("nondistributable.").unwrap_or(kind);
            matches!(kind, "v1.tar" | "v1.tar+gzip" | "v1.tar+zstd")
        }
        (None, None) => false,
    }
}

/// The inflating side: what comes out of it goes to the reader.
pub(super) struct Inflater {
    filled: SyncSender<io::Result<Vec<u8>>>,
    emptied: Receiver<Vec<u8>>,
}

/// What became of the reading side.
enum Reader {
    /// It has all bytes.
    Satisfied,
    /// It gave up.
    Gone,
}

/// The reading side: the uncompressed bytes, hashed as they arrive.
pub(crate) struct Inflated {
    filled: Receiver<io::Result<Vec<u8>>>,
    emptied: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    start: usize,
    hasher: Hasher,
}

/// Both ends.
pub(super) fn circle(hasher: Hasher) -> (Inflater, Inflated) {
    let (fill, filled) = sync_channel(BUFFERS);
    let (empty, emptied) = channel();
    for _ in 0..BUFFERS {
        // The receiver is held right here.
        empty.send(Vec::with_capacity(BUFFER_BYTES)).ok();
    }
    let reader = Inflated { filled, emptied: empty, buffer: Vec::new(), start: 0, hasher };
    (Inflater { filled: fill, emptied }, reader)
}

impl Inflater {
    /// Inflates `source` to its end, or until the reader is gone.
    pub(super) fn run(self, source: impl Read) {
        let mut source = BufReader::with_capacity(SOURCE_BUFFER_BYTES, source);
        if let Err(error) = self.inflate(&mut source) {
            // A reader that is gone does not want to know.
            self.filled.send(Err(error)).ok();
        }
    }

    fn inflate(&self, source: &mut impl BufRead) -> io::Result<()> {
        let mut magic = [0; ZSTD_MAGIC.len()];
        let got = read_up_to(source, &mut magic)?;
        let start = &magic[..got];
        let mut whole = start.chain(&mut *source);
        let reader = if start.starts_with(&GZIP_MAGIC) {
            self.pass_on(&mut MultiGzDecoder::new(&mut whole))?
        } else if is_zstd(magic) {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            self.pass_on(&mut decoder)?
        } else {
            self.pass_on(&mut whole)?
        };
        match reader {
            // To the very end, so that the caller has hashed all that it gave.
            Reader::Satisfied => io::copy(source, &mut io::sink()).map(drop),
            // A download is not finished for an extraction that failed.
            Reader::Gone => Ok(()),
        }
    }

    fn pass_on(&self, decoder: &mut impl Read) -> io::Result<Reader> {
        while let Ok(mut buffer) = self.emptied.recv() {
            buffer.clear();
            decoder.take(BUFFER_BYTES as u64).read_to_end(&mut buffer)?;
            if buffer.is_empty() {
                return Ok(Reader::Satisfied);
            }
            if self.filled.send(Ok(buffer)).is_err() {
                break;
            }
        }
        Ok(Reader::Gone)
    }
}

fn is_zstd(magic: [u8; 4]) -> bool {
    let [first, rest @ ..] = magic;
    magic == ZSTD_MAGIC || [first & 0xf0, rest[0], rest[1], rest[2]] == ZSTD_SKIPPABLE_MAGIC
}

fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match source.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

impl Inflated {
    /// Reads to the end and says what the digest of all bytes is.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        loop {
            let left = self.fill_buf()?.len();
            if left == 0 {
                return Ok(self.hasher.finish());
            }
            self.consume(left);
        }
    }
}

impl Read for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let step = available.len().min(buffer.len());
        buffer[..step].copy_from_slice(&available[..step]);
        self.consume(step);
        Ok(step)
    }
}

impl BufRead for Inflated {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.buffer.len() {
            self.start = 0;
            let emptied = std::mem::take(&mut self.buffer);
            if emptied.capacity() > 0 {
                // At the end of the stream the thread does not listen any more.
                self.emptied.send(emptied).ok();
            }
            if let Ok(filled) = self.filled.recv() {
                self.buffer = filled?;
                self.hasher.update(&self.buffer);
            }
        }
        Ok(&self.buffer[self.start..])
    }

    fn consume(&mut self, amount: usize) {
        self.start += amount;
    }
}
