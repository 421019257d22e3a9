//! Between layers' archives and snapshots, and proving what is in the store.
//!
//! A layer is unpacked beside all snapshots and becomes one when it is complete. A snapshot that
//! belongs to no container lives until it is removed or the daemon starts again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::str::FromStr as _;
use std::sync::Arc;

use super::progress::Progress;
use super::pull::Pipeline;
use super::stored::StoredImage;
use super::tasks::Lost;
use super::unpack::{
    Fault, PackError, Rebuild, RebuildError, UnpackError, Verdict, pack, unpack_into, verify,
};
use crate::content::{ContentError, Digest};
use crate::snapshots::{ActiveError, SnapshotKey, SnapshotKeyError, Snapshots};

/// A layer cannot be made a snapshot, or the other way round.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The key cannot name a snapshot.
    #[error("cannot name a snapshot so")]
    Key(#[source] SnapshotKeyError),
    /// There is no such snapshot, and no such layer.
    #[error("there is no snapshot or layer {0:?}")]
    NotFound(String),
    /// There is no room for it.
    #[error("cannot make a directory for the layer")]
    Scratch(#[source] io::Error),
    /// The layer cannot be unpacked.
    #[error("cannot unpack the layer")]
    Unpack(#[source] Box<UnpackError>),
    /// What was unpacked does not become a snapshot.
    #[error("cannot make snapshot {key}")]
    Prepare {
        /// Its key.
        key: SnapshotKey,
        /// The cause.
        #[source]
        source: Box<ActiveError>,
    },
    /// A snapshot cannot be packed.
    #[error("cannot pack snapshot {key}")]
    Pack {
        /// Its key.
        key: SnapshotKey,
        /// The cause.
        #[source]
        source: Box<PackError>,
    },
    /// A layer's archive cannot be made again.
    #[error("cannot make the layer's archive again")]
    Rebuild(#[source] Box<RebuildError>),
    /// The bytes do not go where they should, or a layer is damaged.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// The thread that did the work is gone.
    #[error("the work was lost")]
    Task(#[source] Lost),
}

/// What is in the store of one object, held against its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layered {
    /// The document's or blob's digest, or the layer's diffID.
    pub digest: Digest,
    /// What came out.
    pub verdict: Verdict,
}

impl Pipeline {
    /// Unpacks a layer's archive into a new snapshot on these layers (lowest first); gives the
    /// layer's diffID.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is left then.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; the work ends with its source.
    pub async fn unpack_snapshot(
        &self,
        source: impl Read + Send + 'static,
        key: &str,
        base: Vec<Digest>,
    ) -> Result<Digest, SnapshotError> {
        let key = SnapshotKey::parse(key).map_err(SnapshotError::Key)?;
        let snapshots = self.snapshots.clone();
        let work = move || {
            let prepared =
                |source| SnapshotError::Prepare { key: key.clone(), source: Box::new(source) };
            if snapshots.keys().contains(&key) {
                return Err(prepared(ActiveError::Conflict(key.clone())));
            }
            let scratch = snapshots.scratch().map_err(SnapshotError::Scratch)?;
            let path = scratch.path();
            let directory = File::open(&path).map_err(SnapshotError::Scratch)?;
            let diff_id = unpack_into(source, directory, &path)
                .map_err(|error| SnapshotError::Unpack(Box::new(error)))?;
            match snapshots.prepare_from(&key, &base, &scratch) {
                Ok(_) => Ok(diff_id),
                Err(error @ ActiveError::Conflict(_)) => Err(prepared(error)),
                Err(error) => {
                    // Idempotent, and whatever it says, the first error is the one to tell.
                    snapshots.remove(&key).ok();
                    Err(prepared(error))
                }
            }
        };
        self.tasks.run_blocking(work).await.map_err(SnapshotError::Task)?
    }

    /// Writes what a snapshot changes as a layer's archive; for a diffID, the very archive that
    /// the layer was unpacked from.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was written is no archive then.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; the work ends when `to` fails.
    pub async fn diff(
        &self,
        name: &str,
        to: impl Write + Send + 'static,
        progress: &Arc<Progress>,
    ) -> Result<(), SnapshotError> {
        let (snapshots, name) = (self.snapshots.clone(), name.to_owned());
        let counted = Counted { to, progress: Arc::clone(progress) };
        let work = move || diff(&snapshots, &name, counted);
        self.tasks.run_blocking(work).await.map_err(SnapshotError::Task)?
    }

    /// Holds all that the store has of an image against its digests: documents and kept blobs
    /// by themselves, each layer by making its archive again.
    ///
    /// # Errors
    /// [`Lost`].
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; the layer at hand is still read.
    pub async fn verify(
        &self,
        image: &StoredImage,
        blobs: &[Digest],
        progress: &Arc<Progress>,
    ) -> Result<Vec<Layered>, Lost> {
        let mut checked = Vec::new();
        let expected = |digest: &Digest| (digest.clone(), 0);
        progress.begin(blobs.iter().chain(&image.layers).map(expected));
        let mut done = progress.layers().unwrap_or_default().iter();
        for digest in blobs {
            let (content, wanted) = (self.content.clone(), digest.clone());
            let read = self.tasks.run_blocking(move || content.verify(&wanted)).await?;
            let verdict = match read {
                Ok(()) => Verdict::Intact,
                Err(error) => Verdict::Damaged(vec![fault(&error)]),
            };
            checked.push(Layered { digest: digest.clone(), verdict });
            super::push::enter(done.next(), super::progress::Stage::Done);
        }
        for diff_id in &image.layers {
            let verdict = match self.snapshots.lease(diff_id) {
                None => {
                    let what = "the layer is not unpacked".to_owned();
                    Verdict::Damaged(vec![Fault { path: std::path::PathBuf::new(), what }])
                }
                Some(lease) => {
                    let wanted = diff_id.clone();
                    self.tasks.run_blocking(move || verify(&wanted, lease)).await?
                }
            };
            checked.push(Layered { digest: diff_id.clone(), verdict });
            super::push::enter(done.next(), super::progress::Stage::Done);
        }
        Ok(checked)
    }
}

fn fault(error: &ContentError) -> Fault {
    Fault { path: std::path::PathBuf::new(), what: error.to_string() }
}

fn diff(snapshots: &Snapshots, name: &str, mut to: impl Write) -> Result<(), SnapshotError> {
    let unknown = || SnapshotError::NotFound(name.to_owned());
    if let Ok(diff_id) = Digest::from_str(name) {
        let lease = snapshots.lease(&diff_id).ok_or_else(unknown)?;
        let rebuild = Rebuild::open(&diff_id, lease);
        let mut rebuild = rebuild.map_err(|error| SnapshotError::Rebuild(Box::new(error)))?;
        io::copy(&mut rebuild, &mut to).map_err(SnapshotError::Write)?;
    } else {
        let key = SnapshotKey::parse(name).map_err(SnapshotError::Key)?;
        snapshots.active(&key).ok_or_else(unknown)?;
        let written = snapshots.written(&key).map_err(SnapshotError::Scratch)?;
        let written = written.ok_or_else(unknown)?;
        let root = File::open(written.path()).map_err(SnapshotError::Scratch)?;
        pack(root, &mut to)
            .map_err(|source| SnapshotError::Pack { key, source: Box::new(source) })?;
    }
    to.flush().map_err(SnapshotError::Write)
}

struct Counted<W> {
    to: W,
    progress: Arc<Progress>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.progress.streamed(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
