//! What is remembered of a layer's archive, so that its very bytes can be made again.
//!
//! A layer's diffID is the digest of its archive, and the archive is thrown away. Its files'
//! contents are in the layer's directory; everything else, which is headers, padding and what
//! follows the last entry, is written down here as it passes by, in order. Made of both, the
//! archive comes out with its diffID again: this is how a layer whose blob was dropped is
//! pushed and exported, and how one is proven. (The idea is that of tar-split.)
//!
//! ```text
//! "orlopTR1"  u64 length of the archive   then one zstd frame of segments:
//!   0  u32 length, bytes                             bytes as they were
//!   1  path, u64 size, pieces (u64, u64), u32 crc    content of a file, from the directory
//!   2                                                the end
//! ```
//! Integers are little-endian; a path and a list of pieces begin with their u32 length. A file's
//! checksum only tells *which* file is damaged; that the whole is right, the diffID says.
//!
//! A layer that replaces one of its own files has no record: the first content is gone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::archive::Piece;

const MAGIC: &[u8; 8] = b"orlopTR1";
const LENGTH_AT: u64 = MAGIC.len() as u64;
/// Fast, and headers are so alike that it hardly matters.
const LEVEL: i32 = 1;
const RAW: u8 = 0;
const FILE: u8 = 1;
const END: u8 = 2;
/// Bytes that are gathered before they become a segment.
const RAW_BYTES: usize = 64 << 10;
/// No real record has longer parts.
const PART_MAX: usize = 16 << 20;

/// A part of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// These bytes.
    Raw(Vec<u8>),
    /// The content of a file of the layer's directory.
    File(Contents),
}

/// Which bytes of which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    /// Relative to the layer's root, without links.
    pub(super) path: PathBuf,
    /// The file's length.
    pub(super) size: u64,
    /// What of it is in the archive.
    pub(super) pieces: Vec<Piece>,
    /// Of the pieces, one after the other.
    pub(super) crc: u32,
}

/// A source that writes down what is read from it, if it has a file to write to.
pub(super) struct Recorder<R> {
    source: R,
    tape: Option<Tape>,
}

struct Tape {
    encoder: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    raw: Vec<u8>,
    /// Of the content that is being read, if one is.
    crc: Option<Crc>,
    bytes: u64,
    /// Reported at the end: who consumes bytes cannot fail.
    failed: Option<io::Error>,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It is complete.
    Whole,
    /// There is none.
    Nothing,
}

impl<R: BufRead> Recorder<R> {
    /// Writes nothing down.
    pub(super) fn off(source: R) -> Self {
        Self { source, tape: None }
    }

    /// Writes a record to `file`.
    ///
    /// # Errors
    /// When its beginning cannot be written.
    pub(super) fn on(source: R, mut file: File) -> io::Result<Self> {
        file.write_all(MAGIC)?;
        file.write_all(&[0; 8])?;
        let encoder = zstd::stream::write::Encoder::new(BufWriter::new(file), LEVEL)?;
        let raw = Vec::with_capacity(RAW_BYTES);
        let tape = Tape { encoder, raw, crc: None, bytes: 0, failed: None };
        Ok(Self { source, tape: Some(tape) })
    }

    /// What is read next is in a file.
    pub(super) fn begin_content(&mut self) {
        if let Some(tape) = &mut self.tape {
            tape.flush_raw();
            tape.crc = Some(Crc::new());
        }
    }

    /// What was read since the beginning of the content is these bytes of a file.
    pub(super) fn end_content(&mut self, path: &Path, size: u64, pieces: &[Piece]) {
        if let Some(tape) = &mut self.tape
            && let Some(crc) = tape.crc.take()
            && !pieces.is_empty()
        {
            let pieces = pieces.to_vec();
            let contents = Contents { path: path.to_owned(), size, pieces, crc: crc.sum() };
            tape.write(|encoder| write_file(encoder, &contents));
        }
    }

    /// The layer cannot be made again from its directory.
    pub(super) fn give_up(&mut self) {
        self.tape = None;
    }

    /// Completes the record; the source comes back.
    ///
    /// # Errors
    /// When any of it could not be written.
    pub(super) fn finish(self) -> (R, io::Result<Recorded>) {
        let recorded = self.tape.map_or(Ok(Recorded::Nothing), Tape::finish);
        (self.source, recorded)
    }
}

impl Tape {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
            return;
        }
        if self.raw.len() + bytes.len() > RAW_BYTES {
            self.flush_raw();
        }
        if bytes.len() > RAW_BYTES {
            for chunk in bytes.chunks(RAW_BYTES) {
                self.write(|encoder| write_raw(encoder, chunk));
            }
        } else {
            self.raw.extend_from_slice(bytes);
        }
    }

    fn flush_raw(&mut self) {
        if !self.raw.is_empty() {
            let raw = std::mem::take(&mut self.raw);
            self.write(|encoder| write_raw(encoder, &raw));
            self.raw = raw;
            self.raw.clear();
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.failed.is_none() {
            self.failed = write(&mut self.encoder).err();
        }
    }

    fn finish(mut self) -> io::Result<Recorded> {
        self.flush_raw();
        self.write(|encoder| encoder.write_all(&[END]));
        if let Some(error) = self.failed {
            return Err(error);
        }
        let file = self.encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.write_all_at(&self.bytes.to_le_bytes(), LENGTH_AT)?;
        Ok(Recorded::Whole)
    }
}

impl<R: BufRead> BufRead for Recorder<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(tape) = &mut self.tape
            && amount > 0
        {
            // What is in the buffer was given out before, so this reads nothing.
            match self.source.fill_buf() {
                Ok(buffer) => tape.take(buffer.get(..amount).unwrap_or_default()),
                Err(error) => tape.failed = Some(error),
            }
        }
        self.source.consume(amount);
    }
}

impl<R: BufRead> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let step = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..step), available.get(..step)) {
            to.copy_from_slice(from);
        }
        self.consume(step);
        Ok(step)
    }
}

/// A record that is read.
pub(super) struct Record {
    decoder: zstd::stream::read::Decoder<'static, BufReader<File>>,
    /// Length of the archive.
    pub(super) bytes: u64,
}

impl Record {
    /// Reads the beginning of a record.
    ///
    /// # Errors
    /// When it is not one.
    pub(super) fn open(mut file: File) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(malformed());
        }
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        let bytes = u64::from_le_bytes(bytes);
        Ok(Self { decoder: zstd::stream::read::Decoder::new(file)?, bytes })
    }

    /// The next part of the archive; `None` at the end.
    ///
    /// # Errors
    /// When the record is damaged or breaks off.
    pub(super) fn next_segment(&mut self) -> io::Result<Option<Segment>> {
        let [tag] = self.array()?;
        match tag {
            RAW => self.part().map(|raw| Some(Segment::Raw(raw))),
            FILE => {
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(&self.part()?));
                let size = self.number()?;
                let count = self.length()?;
                let pieces = (0..count)
                    .map(|_| Ok(Piece { offset: self.number()?, bytes: self.number()? }))
                    .collect::<io::Result<_>>()?;
                let crc = u32::from_le_bytes(self.array()?);
                Ok(Some(Segment::File(Contents { path, size, pieces, crc })))
            }
            END => Ok(None),
            _ => Err(malformed()),
        }
    }

    fn part(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length()?];
        self.decoder.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn length(&mut self) -> io::Result<usize> {
        let length = usize::try_from(u32::from_le_bytes(self.array()?)).unwrap_or(usize::MAX);
        if length <= PART_MAX { Ok(length) } else { Err(malformed()) }
    }

    fn number(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.decoder.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of a layer's archive is malformed")
}

fn write_raw(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&[RAW])?;
    write_part(to, bytes)
}

fn write_part(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&length(bytes.len())?)?;
    to.write_all(bytes)
}

fn write_file(to: &mut dyn Write, contents: &Contents) -> io::Result<()> {
    to.write_all(&[FILE])?;
    write_part(to, contents.path.as_os_str().as_bytes())?;
    to.write_all(&contents.size.to_le_bytes())?;
    to.write_all(&length(contents.pieces.len())?)?;
    for piece in &contents.pieces {
        to.write_all(&piece.offset.to_le_bytes())?;
        to.write_all(&piece.bytes.to_le_bytes())?;
    }
    to.write_all(&contents.crc.to_le_bytes())
}

fn length(length: usize) -> io::Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_le_bytes).map_err(io::Error::other)
}
