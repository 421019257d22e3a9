//! After a power cut: what was committed shortly before is held against its digests.
//!
//! Commits flush before they record, so on a disk that keeps its word nothing is found. What is
//! damaged all the same is taken out of the store, it alone, and never served.

use std::time::SystemTime;

use super::pull::Pipeline;
use super::tasks::Lost;
use super::unpack::{Verdict, verify};
use crate::content::{ContentError, Digest};
use crate::metadata::MetadataError;

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rechecked {
    /// Layers and blobs that are as they should be.
    pub intact: usize,
    /// Those that were not, and are not in the store any more.
    pub damaged: Vec<Digest>,
}

/// The store cannot be looked at, or not be mended.
#[derive(Debug, thiserror::Error)]
pub enum RecheckError {
    /// It is not known which blobs are new.
    #[error("cannot tell which blobs are new")]
    List(#[source] ContentError),
    /// A damaged blob cannot be deleted.
    #[error("cannot delete a damaged blob")]
    Blob(#[source] ContentError),
    /// A damaged layer cannot be taken out.
    #[error("cannot set the damaged layer {diff_id} aside")]
    Layer {
        /// The layer.
        diff_id: Digest,
        /// The cause.
        #[source]
        source: MetadataError,
    },
    /// The thread that did the work is gone.
    #[error("cannot wait for the work")]
    Task(#[source] Lost),
}

impl Pipeline {
    /// Verifies the layers with higher numbers than `settled`, and the blobs that were written
    /// `since`; takes damaged ones out of the store. To be called before anybody uses it.
    ///
    /// # Errors
    /// [`RecheckError`].
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; each object is in the store or not.
    pub async fn recheck(
        &self,
        settled: u64,
        since: SystemTime,
    ) -> Result<Rechecked, RecheckError> {
        let mut found = Rechecked::default();
        let content = self.content.clone();
        let blobs = self.tasks.run_blocking(move || {
            let mut found = Rechecked::default();
            for digest in content.written_since(since).map_err(RecheckError::List)? {
                if content.verify(&digest).is_ok() {
                    found.intact += 1;
                } else {
                    content.discard(&digest).map_err(RecheckError::Blob)?;
                    found.damaged.push(digest);
                }
            }
            Ok(found)
        });
        found.add(blobs.await.map_err(RecheckError::Task)??);
        for diff_id in self.snapshots.layers_after(settled) {
            let snapshots = self.snapshots.clone();
            let layer = self.tasks.run_blocking(move || {
                let Some(lease) = snapshots.lease(&diff_id) else {
                    return Ok(Rechecked::default());
                };
                match verify(&diff_id, lease) {
                    // Layers of older builds have no record to be held against.
                    Verdict::Intact | Verdict::Unproven(_) => {
                        Ok(Rechecked { intact: 1, damaged: Vec::new() })
                    }
                    Verdict::Damaged(_) => {
                        let failed =
                            |source| RecheckError::Layer { diff_id: diff_id.clone(), source };
                        snapshots.set_aside(&diff_id).map_err(failed)?;
                        Ok(Rechecked { intact: 0, damaged: vec![diff_id] })
                    }
                }
            });
            found.add(layer.await.map_err(RecheckError::Task)??);
        }
        Ok(found)
    }
}

impl Rechecked {
    fn add(&mut self, other: Self) {
        self.intact += other.intact;
        self.damaged.extend(other.damaged);
    }
}
