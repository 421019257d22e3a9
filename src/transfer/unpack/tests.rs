//! Layers as they come from real builders and from attackers, and what becomes of them on disk.

mod attacks;
mod build;
mod kinds;
mod oracle;
mod parse;
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
        unpack(archive, PLAIN, self.writer(&Hasher::digest(Algorithm::Sha256, archive)))
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
