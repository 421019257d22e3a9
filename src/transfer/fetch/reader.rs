//! The blocking end of the channel: hashes what arrives while it is unpacked.
//!
//! Invariant: a layer that unpacks well is still refused when its compressed bytes are not the
//! manifest's; the other way round, when unpacking fails the rest of the bytes is hashed too, to
//! tell a bad layer from a host that sends something else, and from one that is encrypted with
//! another key.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc::Receiver;

use super::is_local;
use crate::content::{Algorithm, Blob, ContentError, ContentStore, Digest, Hasher, Ingest};
use crate::snapshots::{LayerLease, LayerWriter};
use crate::transfer::decryption::{DecryptError, Opened, Opening, plain};
use crate::transfer::manifest::Descriptor;
use crate::transfer::progress::LayerProgress;
use crate::transfer::unpack::{UnpackError, unpack};

/// What goes through the channel.
#[derive(Debug)]
pub(super) enum Piece {
    /// The next bytes of the blob.
    Bytes(Bytes),
    /// There are no more. A channel that closes without this was given up.
    End,
}

/// How unpacking ended.
#[derive(Debug)]
pub(super) enum Unpacked {
    /// Verified and complete.
    Layer(Digest, LayerLease, Option<Blob>),
    /// The compressed bytes are not the manifest's.
    OtherBytes {
        /// What the manifest says.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The bytes are the manifest's, and not those that were encrypted with the key.
    Forged(DecryptError),
    /// The layer cannot be unpacked, or the pull was given up.
    Unpack(UnpackError),
    /// The compressed layer cannot be kept.
    Store(ContentError),
}

/// Reads the blob from the channel.
#[derive(Debug)]
pub(super) struct BlobReader<'a> {
    receiver: Receiver<Piece>,
    rest: Bytes,
    end: End,
    hasher: Hasher,
    ingest: Option<Ingest>,
    /// The error with which keeping the blob failed, until it is reported.
    failed: Option<ContentError>,
    progress: Option<&'a LayerProgress>,
}

/// Whether the blob's end was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ahead,
    Reached,
}

impl<'a> BlobReader<'a> {
    /// A reader that has read nothing.
    pub(super) fn new(
        receiver: Receiver<Piece>,
        algorithm: Algorithm,
        progress: Option<&'a LayerProgress>,
    ) -> Self {
        Self {
            receiver,
            rest: Bytes::new(),
            end: End::Ahead,
            hasher: Hasher::new(algorithm),
            ingest: None,
            failed: None,
            progress,
        }
    }

    /// Unpacks the blob, which is decrypted with `opening` if it is encrypted, into `writer`, and
    /// keeps it as it comes in `content` where one is given. Blocks.
    pub(super) fn unpack(
        mut self,
        descriptor: &Descriptor,
        opening: Option<Opening>,
        writer: LayerWriter,
        content: Option<&ContentStore>,
    ) -> Unpacked {
        match content.map(|content| content.ingest(descriptor.digest.algorithm())).transpose() {
            Ok(ingest) => self.ingest = ingest,
            Err(error) => return Unpacked::Store(error),
        }
        let diff_id = writer.diff_id().clone();
        let mut opened = Opened::new(&mut self, opening);
        let outcome = unpack(&mut opened, plain(&descriptor.media_type), writer);
        // A layer that does not unpack may not be the layer at all. Reading on stops where the
        // reader stopped when the pull was given up.
        let whole = match &outcome {
            Ok(_) => true,
            Err(error) => !is_local(error) && io::copy(&mut opened, &mut io::sink()).is_ok(),
        };
        let genuine = opened.verify();
        if let Some(error) = self.failed {
            return Unpacked::Store(error);
        }
        if whole {
            if let Some(other) = other_bytes(self.hasher, &descriptor.digest) {
                return other;
            }
            if let Err(error) = genuine {
                return Unpacked::Forged(error);
            }
        }
        let lease = match outcome {
            Ok(lease) => lease,
            Err(error) => return Unpacked::Unpack(error),
        };
        match self.ingest.map(|ingest| ingest.commit(Some(&descriptor.digest))).transpose() {
            Ok(blob) => Unpacked::Layer(diff_id, lease, blob),
            Err(error) => Unpacked::Store(error),
        }
    }

    /// The next bytes of the blob; empty at its end.
    fn refill(&mut self) -> io::Result<()> {
        while self.rest.is_empty() && self.end == End::Ahead {
            match self.receiver.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.take_in(bytes)?,
                Some(Piece::End) => self.end = End::Reached,
                None => {
                    let given_up = "the download was given up";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, given_up));
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, bytes: Bytes) -> io::Result<()> {
        self.hasher.update(&bytes);
        if let Some(ingest) = &mut self.ingest
            && let Err(error) = ingest.append(&bytes)
        {
            self.failed = Some(error);
            return Err(io::Error::other("the compressed layer cannot be stored"));
        }
        if let Some(progress) = self.progress {
            progress.unpacked(bytes.len());
        }
        self.rest = bytes;
        Ok(())
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.refill()?;
        let count = self.rest.as_ref().read(buffer)?;
        self.rest.advance(count);
        Ok(count)
    }
}

fn other_bytes(hasher: Hasher, expected: &Digest) -> Option<Unpacked> {
    let actual = hasher.finish();
    (actual != *expected).then(|| Unpacked::OtherBytes { expected: expected.clone(), actual })
}
