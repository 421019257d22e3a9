//! Reading a tar archive: headers, extended headers and file contents, in bounded memory.
//!
//! Why not a crate: the ones that are well kept read extended headers of any length into memory,
//! and none knows sparse files in all forms. What is here decides about one question that has
//! let archives smuggle entries past readers: **the length of an entry's content is that of the
//! extended header if there is one, else that of the header, and the same number is used for
//! reading and for finding the next header.** Links, devices and directories have no content,
//! whatever their header says, as in the reader that most image tools use (Go's).
//!
//! Specification: see `header` and `pax`.

use std::io::{self, BufRead, Read};

use super::header::{BLOCK_BYTES, BadField, Block, Header, gnu_sparse_extension, text};
use super::pax::{Overrides, decimal};

/// Longest extended header, long name or sparse map; as in Go's reader.
const SPECIAL_MAX_BYTES: u64 = 1 << 20;
/// Longest path or link target: what the kernel takes, without its final zero.
const PATH_MAX_BYTES: usize = 4095;
/// More entries than any real layer has; an archive of nothing but headers ends here.
const ENTRIES_MAX: u64 = 8_000_000;

/// A point in time, before or after 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Timestamp {
    /// Whole seconds, rounded down.
    pub(crate) seconds: i64,
    /// Less than a second.
    pub(crate) nanoseconds: u32,
}

/// One file of the archive; its content comes from [`Archive::content`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as it stands in the archive; not checked but for its length.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Timestamp,
    /// Extended attributes by their full names.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular {
        bytes: u64,
    },
    /// The content is the pieces, one after the other.
    Sparse {
        bytes: u64,
        pieces: Vec<Piece>,
    },
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u64,
        minor: u64,
    },
    BlockDevice {
        major: u64,
        minor: u64,
    },
    Directory,
    Fifo,
}

/// A piece of a sparse file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The archive cannot be read. Positions are bytes of the uncompressed archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes do not come.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The archive ends in the middle of an entry.
    #[error("archive ends early, at byte {0}")]
    Truncated(u64),
    /// A header field is wrong.
    #[error("archive has a bad {field} in the header before byte {position}")]
    Header {
        /// Where the header ends.
        position: u64,
        /// The field's name in the specification.
        field: &'static str,
    },
    /// An extended header is malformed.
    #[error("archive has a malformed extended header before byte {0}")]
    Extended(u64),
    /// An extended header, a name or a sparse map is too long to be meant well.
    #[error("archive has a {what} of {bytes} bytes before byte {position}, more than {limit}")]
    TooLong {
        /// Where it is.
        position: u64,
        /// What it is.
        what: &'static str,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        limit: u64,
    },
    /// A sparse file's pieces overlap, exceed it, or do not add up.
    #[error("archive has an inconsistent sparse file before byte {0}")]
    Sparse(u64),
    /// An entry of a kind that has no place in a layer.
    #[error("archive has an entry of unknown type {flag:?} before byte {position}")]
    Kind {
        /// Where its header ends.
        position: u64,
        /// The type flag.
        flag: char,
    },
    /// There are too many entries.
    #[error("archive has more than {ENTRIES_MAX} entries")]
    TooManyEntries,
}

/// An archive that is read once, from front to back.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    source: R,
    position: u64,
    /// Content of the current entry that was not read yet.
    content: u64,
    /// Zero bytes after it.
    padding: u64,
    entries: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, position: 0, content: 0, padding: 0, entries: 0 }
    }

    /// The next entry; what was not read of the last one's content is skipped. `None` at the
    /// end, after which the source stands behind the archive's last block.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut overrides = Overrides::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip_content()?;
            let Some(block) = self.next_header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(ArchiveError::TooManyEntries);
            }
            let header = Header::parse(&block).map_err(|bad| self.bad(bad))?;
            match header.type_flag() {
                b'x' => overrides = self.extended(&header)?,
                // Global defaults: nothing that a layer needs, and no length may come from them.
                b'g' => drop(self.extended(&header)?),
                b'L' => long_name = Some(self.long_text(&header)?),
                b'K' => long_link = Some(self.long_text(&header)?),
                // A volume's label.
                b'V' => self.expect_content(header.size().map_err(|bad| self.bad(bad))?),
                _ => {
                    overrides.path = long_name.or(overrides.path);
                    overrides.link_path = long_link.or(overrides.link_path);
                    return self.entry(&header, overrides).map(Some);
                }
            }
        }
    }

    /// What is left of the current entry's content.
    pub(crate) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// What the archive is read from, to be told things.
    pub(super) fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// Where the archive was read from.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn entry(&mut self, header: &Header<'_>, overrides: Overrides) -> Result<Entry, ArchiveError> {
        let mut path = overrides.path.unwrap_or_else(|| header.path());
        let link = overrides.link_path.unwrap_or_else(|| header.link_name());
        let bad = |bad| self.bad(bad);
        let size = header.size().map_err(bad)?;
        let bytes = overrides.size.unwrap_or(size);
        let device = || Ok((header.device_major()?, header.device_minor()?));
        let flag = header.type_flag();
        let mut entry = Entry {
            path: Vec::new(),
            kind: Kind::Directory,
            mode: u32::try_from(header.mode().map_err(bad)? & 0o7777).unwrap_or_default(),
            uid: overrides.uid.map_or_else(|| header.uid(), Ok).map_err(bad)?,
            gid: overrides.gid.map_or_else(|| header.gid(), Ok).map_err(bad)?,
            mtime: match overrides.mtime {
                Some(mtime) => mtime,
                None => Timestamp { seconds: header.mtime().map_err(bad)?, nanoseconds: 0 },
            },
            xattrs: overrides.xattrs,
        };
        entry.kind = match flag {
            b'\0' if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'\0' | b'7' => {
                self.expect_content(bytes);
                let records = overrides.sparse;
                path = records.name.unwrap_or(path);
                self.pax_sparse(records.major, records.real_size, &records.map)?
            }
            b'S' => {
                self.expect_content(bytes);
                self.gnu_sparse(header)?
            }
            b'1' => Kind::HardLink { target: link },
            b'2' => Kind::Symlink { target: link },
            b'3' => {
                device().map(|(major, minor)| Kind::CharDevice { major, minor }).map_err(bad)?
            }
            b'4' => {
                device().map(|(major, minor)| Kind::BlockDevice { major, minor }).map_err(bad)?
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(ArchiveError::Kind { position: self.position, flag: flag.into() }),
        };
        if let Kind::HardLink { target } | Kind::Symlink { target } = &entry.kind {
            self.check_length("link target", target.len() as u64, PATH_MAX_BYTES as u64)?;
        }
        self.check_length("path", path.len() as u64, PATH_MAX_BYTES as u64)?;
        entry.path = path;
        Ok(entry)
    }

    /// The next header, or `None` at the end: two zero blocks, or simply no more bytes.
    fn next_header(&mut self) -> Result<Option<Block>, ArchiveError> {
        if self.source.fill_buf().map_err(ArchiveError::Read)?.is_empty() {
            return Ok(None);
        }
        let block = self.block()?;
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        if self.source.fill_buf().map_err(ArchiveError::Read)?.is_empty() {
            return Ok(None);
        }
        let second = self.block()?;
        if second.iter().any(|byte| *byte != 0) {
            return Err(self.bad(BadField("end mark")));
        }
        Ok(None)
    }

    fn block(&mut self) -> Result<Block, ArchiveError> {
        let mut block = [0; BLOCK_BYTES];
        match self.source.read_exact(&mut block) {
            Ok(()) => {
                self.position += BLOCK_BYTES as u64;
                Ok(block)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ArchiveError::Truncated(self.position))
            }
            Err(error) => Err(ArchiveError::Read(error)),
        }
    }

    fn extended(&mut self, header: &Header<'_>) -> Result<Overrides, ArchiveError> {
        let bytes = self.special("extended header", header)?;
        Overrides::parse(&bytes).ok_or(ArchiveError::Extended(self.position))
    }

    fn long_text(&mut self, header: &Header<'_>) -> Result<Vec<u8>, ArchiveError> {
        self.special("long name", header).map(|bytes| text(&bytes).to_vec())
    }

    /// The content of an entry that is about another entry.
    fn special(
        &mut self,
        what: &'static str,
        header: &Header<'_>,
    ) -> Result<Vec<u8>, ArchiveError> {
        let size = header.size().map_err(|bad| self.bad(bad))?;
        self.check_length(what, size, SPECIAL_MAX_BYTES)?;
        self.expect_content(size);
        let mut bytes = Vec::new();
        self.content().read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        self.skip_content()?;
        Ok(bytes)
    }

    fn gnu_sparse(&mut self, header: &Header<'_>) -> Result<Kind, ArchiveError> {
        let bytes = header.gnu_real_size().map_err(|bad| self.bad(bad))?;
        let (mut map, mut more) = header.gnu_sparse().map_err(|bad| self.bad(bad))?;
        while more {
            self.check_length("sparse map", map.len() as u64 * 24, SPECIAL_MAX_BYTES)?;
            let block = self.block()?;
            let (pairs, again) = gnu_sparse_extension(&block).map_err(|bad| self.bad(bad))?;
            map.extend(pairs);
            more = again;
        }
        self.sparse(bytes, map)
    }

    fn pax_sparse(
        &mut self,
        major: Option<u64>,
        real_size: Option<u64>,
        map: &[u64],
    ) -> Result<Kind, ArchiveError> {
        let map = match major {
            Some(1) => self.sparse_map_in_content()?,
            Some(_) | None if map.is_empty() => return Ok(Kind::Regular { bytes: self.content }),
            Some(_) | None => map.to_vec(),
        };
        let (pairs, rest) = map.as_chunks::<2>();
        match real_size {
            Some(bytes) if rest.is_empty() => {
                self.sparse(bytes, pairs.iter().map(|[offset, bytes]| (*offset, *bytes)).collect())
            }
            Some(_) | None => Err(ArchiveError::Sparse(self.position)),
        }
    }

    /// Format 1.0: the content starts with decimal lines, filled up to a whole block.
    fn sparse_map_in_content(&mut self) -> Result<Vec<u64>, ArchiveError> {
        let inconsistent = ArchiveError::Sparse(self.position);
        let (mut numbers, mut wanted) = (Vec::new(), None);
        let (mut line, mut consumed) = (Vec::new(), 0);
        while wanted.is_none_or(|wanted| (numbers.len() as u64) < wanted) {
            let mut block = [0; BLOCK_BYTES];
            self.content().read_exact(&mut block).map_err(ArchiveError::Read)?;
            consumed += BLOCK_BYTES as u64;
            self.check_length("sparse map", consumed, SPECIAL_MAX_BYTES)?;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let Some(number) = decimal(&line) else { return Err(inconsistent) };
                line.clear();
                match wanted {
                    None => wanted = Some(number.saturating_mul(2)),
                    Some(_) => numbers.push(number),
                }
                if wanted == Some(numbers.len() as u64) {
                    break;
                }
            }
        }
        Ok(numbers)
    }

    /// Checks that the pieces are in order, inside the file, and are the content.
    fn sparse(&self, bytes: u64, map: Vec<(u64, u64)>) -> Result<Kind, ArchiveError> {
        let inconsistent = || ArchiveError::Sparse(self.position);
        let mut pieces = Vec::with_capacity(map.len());
        let (mut end, mut total) = (0, 0_u64);
        for (offset, length) in map {
            let next = offset.checked_add(length).filter(|next| offset >= end && *next <= bytes);
            end = next.ok_or_else(inconsistent)?;
            total = total.checked_add(length).ok_or_else(inconsistent)?;
            pieces.push(Piece { offset, bytes: length });
        }
        if total == self.content { Ok(Kind::Sparse { bytes, pieces }) } else { Err(inconsistent()) }
    }

    fn expect_content(&mut self, bytes: u64) {
        self.content = bytes;
        let odd = bytes % BLOCK_BYTES as u64;
        self.padding = if odd == 0 { 0 } else { BLOCK_BYTES as u64 - odd };
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut left = self.content.saturating_add(self.padding);
        while left > 0 {
            let buffer = self.source.fill_buf().map_err(ArchiveError::Read)?;
            if buffer.is_empty() {
                return Err(ArchiveError::Truncated(self.position));
            }
            let step = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            self.source.consume(step);
            self.position += step as u64;
            left -= step as u64;
        }
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    fn check_length(&self, what: &'static str, bytes: u64, limit: u64) -> Result<(), ArchiveError> {
        if bytes <= limit {
            return Ok(());
        }
        Err(ArchiveError::TooLong { position: self.position, what, bytes, limit })
    }

    fn bad(&self, BadField(field): BadField) -> ArchiveError {
        ArchiveError::Header { position: self.position, field }
    }
}

/// The content of the current entry. Its end without all bytes is an error, not an end.
#[derive(Debug)]
pub(crate) struct Content<'a, R>(&'a mut Archive<R>);

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let step = available.len().min(buffer.len());
        buffer[..step].copy_from_slice(&available[..step]);
        self.consume(step);
        Ok(step)
    }
}

impl<R: BufRead> BufRead for Content<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.0.content == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.0.content).unwrap_or(usize::MAX);
        let buffer = self.0.source.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(&buffer[..buffer.len().min(left)])
    }

    fn consume(&mut self, amount: usize) {
        self.0.source.consume(amount);
        self.0.content -= amount as u64;
        self.0.position += amount as u64;
    }
}
