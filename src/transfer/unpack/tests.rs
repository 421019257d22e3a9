//! Layers as they come from real builders and from attackers, and what becomes of them on disk.

mod attacks;
mod build;
mod kinds;
mod oracle;
mod parse;
mod rebuild;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::metadata::Metadata;
use crate::snapshots::{LayerSlot, Snapshots};

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// A snapshotter of its own.
struct Fixture {
    _root: tempfile::TempDir,
    snapshots: Snapshots,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let metadata = Arc::new(Metadata::open(root.path()).unwrap());
        let snapshots = Snapshots::open(&root.path().join("snapshots"), metadata).unwrap();
        Self { _root: root, snapshots }
    }

    fn writer(&self, diff_id: &Digest) -> LayerWriter {
        match self.snapshots.try_layer(diff_id) {
            Some(LayerSlot::Absent(writer)) => writer,
            other => panic!("{other:?}"),
        }
    }

    fn unpack(&self, archive: &[u8]) -> Result<LayerLease, UnpackError> {
        let diff_id = Hasher::digest(Algorithm::Sha256, archive);
        let lease = unpack(archive, PLAIN, self.writer(&diff_id))?;
        self.expect_rebuilt(&diff_id, archive);
        Ok(lease)
    }

    /// Whatever was unpacked can be proven, and comes out as the bytes it came from.
    fn expect_rebuilt(&self, diff_id: &Digest, archive: &[u8]) {
        let lease = || self.snapshots.lease(diff_id).unwrap();
        match Rebuild::open(diff_id, lease()) {
            Ok(mut rebuild) => {
                let mut bytes = Vec::new();
                rebuild.read_to_end(&mut bytes).unwrap();
                assert!(bytes == archive, "the archive comes out otherwise");
                assert_eq!(rebuild.archive_bytes(), archive.len() as u64);
                assert_eq!(verify(diff_id, lease()), Verdict::Intact);
            }
            Err(error) => {
                assert!(matches!(error, RebuildError::NoRecord(_)), "{error:?}");
                assert!(matches!(verify(diff_id, lease()), Verdict::Unproven(_)));
            }
        }
    }

    fn layers_on_disk(&self) -> Vec<PathBuf> {
        self.snapshots.wait_until_removed();
        let layers = std::fs::read_dir(self.snapshots.directory().join("layers")).unwrap();
        layers.map(|entry| entry.unwrap().path()).collect()
    }
}

/// The innermost cause, for messages that must say something.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
