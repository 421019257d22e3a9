//! A layer's archive, made again from its directory and its record.
//!
//! Invariants: who reads to the end without an error has read bytes of the layer's diffID; a
//! file is opened beneath the layer's root and no link is followed. Memory is one buffer.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::Crc;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::archive::Piece;
use super::record::{Contents, Record, Segment};
use crate::content::{Digest, Hasher};
use crate::snapshots::LayerLease;

const BUFFER_BYTES: usize = 128 << 10;

/// A layer's archive cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// There is no record of the archive.
    #[error(
        "nothing was recorded about the archive of layer {0}: it was unpacked by an older \
         release, replaces its own files, or is served by a remote snapshotter"
    )]
    NoRecord(Digest),
    /// The record or the layer's directory cannot be read.
    #[error("cannot read what was recorded about layer {diff_id}")]
    Record {
        /// The layer.
        diff_id: Digest,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file of the layer is not what was unpacked.
    #[error("layer {diff_id} is damaged: {} {}", path.display(), fault)]
    Damaged {
        /// The layer.
        diff_id: Digest,
        /// The file, relative to the layer's root.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The archive comes out otherwise, and no file is to blame.
    #[error("layer {expected} comes out as {actual}: its record is damaged")]
    Mismatch {
        /// The layer.
        expected: Digest,
        /// What came out.
        actual: Digest,
    },
}

/// What happens when a file is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenDamaged {
    /// Reading fails.
    Stop,
    /// It is noted, and zeros take the place of what is not there.
    Note,
}

/// The archive, to be read.
pub(in crate::transfer) struct Rebuild {
    diff_id: Digest,
    record: Record,
    root: OwnedFd,
    open: Option<OpenFile>,
    buffer: Vec<u8>,
    start: usize,
    hasher: Option<Hasher>,
    when_damaged: WhenDamaged,
    /// Files that are not what they were.
    damaged: Vec<(PathBuf, &'static str)>,
    /// Keeps the layer on disk.
    _layer: LayerLease,
}

/// A file whose content is being given out.
struct OpenFile {
    file: Option<File>,
    path: PathBuf,
    pieces: VecDeque<Piece>,
    crc: Crc,
    expected: u32,
    fault: Option<&'static str>,
}

impl Rebuild {
    /// Prepares to read the archive of `layer`, which has this diffID. Blocks.
    ///
    /// # Errors
    /// [`RebuildError::NoRecord`] and [`RebuildError::Record`].
    pub(in crate::transfer) fn open(
        diff_id: &Digest,
        layer: LayerLease,
    ) -> Result<Self, RebuildError> {
        Self::open_as(diff_id, layer, WhenDamaged::Stop)
    }

    pub(super) fn open_as(
        diff_id: &Digest,
        layer: LayerLease,
        when_damaged: WhenDamaged,
    ) -> Result<Self, RebuildError> {
        let failed = |source| RebuildError::Record { diff_id: diff_id.clone(), source };
        let record = match File::open(layer.record_path()) {
            Ok(file) => Record::open(file).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RebuildError::NoRecord(diff_id.clone()));
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            diff_id: diff_id.clone(),
            record,
            root: File::open(layer.path()).map_err(failed)?.into(),
            open: None,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            start: 0,
            hasher: Some(Hasher::new(diff_id.algorithm())),
            when_damaged,
            damaged: Vec::new(),
            _layer: layer,
        })
    }

    /// The archive's length in bytes.
    pub(in crate::transfer) fn archive_bytes(&self) -> u64 {
        self.record.bytes
    }

    /// The files that were found damaged, where that does not stop the reading.
    pub(super) fn damaged(&mut self) -> Vec<(PathBuf, &'static str)> {
        std::mem::take(&mut self.damaged)
    }

    /// Puts the next bytes into the buffer; leaves it empty at the end.
    fn refill(&mut self) -> Result<(), RebuildError> {
        self.buffer.clear();
        self.start = 0;
        while self.buffer.is_empty() && self.hasher.is_some() {
            if self.open.is_some() {
                self.read_file()?;
                continue;
            }
            let next = self.record.next_segment();
            match next
                .map_err(|source| RebuildError::Record { diff_id: self.diff_id.clone(), source })?
            {
                Some(Segment::Raw(bytes)) => self.buffer = bytes,
                Some(Segment::File(contents)) => self.open = Some(self.open_file(contents)),
                None => return self.end(),
            }
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.buffer);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), RebuildError> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let actual = hasher.finish();
        if actual == self.diff_id
            || self.when_damaged == WhenDamaged::Note && !self.damaged.is_empty()
        {
            return Ok(());
        }
        Err(RebuildError::Mismatch { expected: self.diff_id.clone(), actual })
    }

    fn open_file(&self, contents: Contents) -> OpenFile {
        let opened = open_beneath(&self.root, &contents.path).and_then(|file| {
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        let (file, fault) = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Some("is missing")),
            Err(_unreadable) => (None, Some("cannot be read")),
            Ok((_, metadata)) if !metadata.is_file() => (None, Some("is not a file any more")),
            Ok((file, metadata)) if metadata.len() != contents.size => {
                (Some(file), Some("has another length"))
            }
            Ok((file, _)) => (Some(file), None),
        };
        OpenFile {
            file,
            path: contents.path,
            pieces: contents.pieces.into(),
            crc: Crc::new(),
            expected: contents.crc,
            fault,
        }
    }

    /// The next bytes of the open file; closes it behind its last one.
    fn read_file(&mut self) -> Result<(), RebuildError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if self.when_damaged == WhenDamaged::Stop && open.fault.is_some() {
            return self.close_file();
        }
        let Some(piece) = open.pieces.front_mut() else { return self.close_file() };
        let wanted = usize::try_from(piece.bytes).map_or(BUFFER_BYTES, |it| it.min(BUFFER_BYTES));
        self.buffer.resize(wanted, 0);
        let read =
            open.file.as_ref().map(|file| file.read_exact_at(&mut self.buffer, piece.offset));
        if let Some(Err(error)) = read {
            self.buffer.fill(0);
            open.fault.get_or_insert(match error.kind() {
                io::ErrorKind::UnexpectedEof => "is too short",
                _ => "cannot be read",
            });
        }
        open.crc.update(&self.buffer);
        piece.offset += wanted as u64;
        piece.bytes -= wanted as u64;
        if piece.bytes == 0 {
            open.pieces.pop_front();
        }
        Ok(())
    }

    fn close_file(&mut self) -> Result<(), RebuildError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let changed = (open.crc.sum() != open.expected).then_some("has other content");
        let Some(fault) = open.fault.or(changed) else { return Ok(()) };
        if self.when_damaged == WhenDamaged::Note {
            self.damaged.push((open.path, fault));
            return Ok(());
        }
        Err(RebuildError::Damaged { diff_id: self.diff_id.clone(), path: open.path, fault })
    }
}

impl Read for Rebuild {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.start == self.buffer.len() {
            self.refill().map_err(io::Error::other)?;
        }
        let available = self.buffer.get(self.start..).unwrap_or_default();
        let step = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..step), available.get(..step)) {
            to.copy_from_slice(from);
        }
        self.start += step;
        Ok(step)
    }
}

fn open_beneath(root: &OwnedFd, path: &Path) -> io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            outcome => return Ok(File::from(outcome?)),
        }
    }
}
