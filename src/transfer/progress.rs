//! How far a transfer is, for whoever wants to look.
//!
//! Counters are atomics in one shared structure: writing one costs nothing worth measuring and
//! reading never waits. Invariant: counters only grow within one attempt at a layer; a layer
//! that is fetched again from its beginning starts again at zero.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::content::Digest;

/// The progress of one pull. Share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Progress {
    layers: OnceLock<Vec<LayerProgress>>,
    /// Of an archive or a layer that is read or written as one stream.
    stream_bytes: AtomicU64,
    stream_total_bytes: AtomicU64,
}

/// The progress of one layer.
#[derive(Debug)]
pub struct LayerProgress {
    digest: Digest,
    total_bytes: AtomicU64,
    received_bytes: AtomicU64,
    unpacked_bytes: AtomicU64,
    stage: AtomicU8,
}

/// What happens to a layer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Others are in front of it.
    Waiting,
    /// It is received, verified and unpacked.
    Fetching,
    /// It is there.
    Done,
    /// It was there before.
    Present,
}

/// A pull's progress at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes moved: of compressed layers as a rule; of archives as they are read or written.
    pub received_bytes: u64,
    /// Bytes that have to be moved, as far as is known; zero when it is not.
    pub total_bytes: u64,
    /// Bytes that came out of decompression.
    pub unpacked_bytes: u64,
    /// Layers that are there.
    pub layers_done: usize,
    /// All layers.
    pub layers: usize,
}

impl Progress {
    /// The layers, bottom first; `None` until the manifest is known.
    #[must_use]
    pub fn layers(&self) -> Option<&[LayerProgress]> {
        self.layers.get().map(Vec::as_slice)
    }

    /// The sums over all layers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let layers = self.layers().unwrap_or_default();
        let mut totals = Totals {
            layers: layers.len(),
            received_bytes: self.stream_bytes.load(Ordering::Relaxed),
            total_bytes: self.stream_total_bytes.load(Ordering::Relaxed),
            ..Totals::default()
        };
        for layer in layers {
            let stage = layer.stage();
            totals.layers_done += usize::from(stage >= Stage::Done);
            if stage != Stage::Present {
                totals.total_bytes += layer.total_bytes();
                totals.received_bytes += layer.received_bytes();
                totals.unpacked_bytes += layer.unpacked_bytes();
            }
        }
        totals
    }

    /// Says how long the stream will be.
    pub fn expect_stream(&self, bytes: u64) {
        self.stream_total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of the stream.
    pub fn streamed(&self, bytes: usize) {
        self.stream_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Sets the layers, once.
    pub(super) fn begin(&self, layers: impl Iterator<Item = (Digest, u64)>) -> &[LayerProgress] {
        self.layers.get_or_init(|| {
            layers.map(|(digest, total_bytes)| LayerProgress::new(digest, total_bytes)).collect()
        })
    }
}

impl LayerProgress {
    fn new(digest: Digest, total_bytes: u64) -> Self {
        Self {
            digest,
            total_bytes: AtomicU64::new(total_bytes),
            received_bytes: AtomicU64::new(0),
            unpacked_bytes: AtomicU64::new(0),
            stage: AtomicU8::new(Stage::Waiting as u8),
        }
    }

    /// Digest of the compressed layer.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Size of the compressed layer in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// What is moved is longer or shorter than was thought.
    pub(super) fn expect(&self, bytes: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Compressed bytes received.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that came out of decompression.
    #[must_use]
    pub fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes.load(Ordering::Relaxed)
    }

    /// What happens now.
    #[must_use]
    pub fn stage(&self) -> Stage {
        const STAGES: [Stage; 4] = [Stage::Waiting, Stage::Fetching, Stage::Done, Stage::Present];
        let index = usize::from(self.stage.load(Ordering::Relaxed));
        STAGES.get(index).copied().unwrap_or(Stage::Waiting)
    }

    pub(super) fn enter(&self, stage: Stage) {
        if stage == Stage::Fetching {
            self.received_bytes.store(0, Ordering::Relaxed);
            self.unpacked_bytes.store(0, Ordering::Relaxed);
        }
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn unpacked(&self, bytes: usize) {
        self.unpacked_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
