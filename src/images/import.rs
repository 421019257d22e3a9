//! Images from an archive, committed one after the other.

use std::io::Read;
use std::sync::Arc;

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::pull::{Arrived, CommitError};
use super::record::Image;
use super::{Images, Store};
use crate::transfer::{self, Imported};

/// Images cannot be imported. Those that came before the one that failed are there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive, or something in it, is not what it should be.
    #[error("cannot import the archive")]
    Transfer(#[source] transfer::ImportError),
    /// An image is complete and cannot be kept.
    #[error("cannot store an imported image")]
    Commit(#[source] CommitError),
    /// Nobody waits for it any more.
    #[error("import was cancelled")]
    Cancelled,
    /// The task is gone.
    #[error("import did not end")]
    Interrupted(#[source] JoinError),
}

impl Images {
    /// Takes all images of an archive (an OCI image layout, or what `docker save` writes; plain
    /// or compressed) that run on this machine. They get the names that the archive gives.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is left of the image that failed and of those behind it.
    ///
    /// # Cancel safety
    /// Dropping the future ends the import after the step that is being made; a source that
    /// then fails makes it end at once.
    pub async fn import(
        &self,
        source: impl Read + Send + 'static,
    ) -> Result<Vec<Arc<Image>>, ImportError> {
        let cancel = CancellationToken::new();
        let _cancelled_when_dropped = cancel.clone().drop_guard();
        let store = Arc::clone(&self.0);
        let import = self.0.tasks.spawn(async move {
            let outcome = store.import(source, &cancel).await;
            // Whatever the outcome: the compressed layers are not needed any more.
            store.collect_leftovers().await;
            outcome
        });
        import.await.map_err(ImportError::Interrupted)?
    }
}

impl Store {
    async fn import(
        self: &Arc<Self>,
        source: impl Read + Send + 'static,
        cancel: &CancellationToken,
    ) -> Result<Vec<Arc<Image>>, ImportError> {
        let archived = self.transfer.open_archive(source).await.map_err(ImportError::Transfer)?;
        let mut images = Vec::with_capacity(archived.len());
        for image in archived {
            if cancel.is_cancelled() {
                return Err(ImportError::Cancelled);
            }
            let unpacked =
                self.transfer.unpack_archived(image).await.map_err(ImportError::Transfer)?;
            let committed = Arc::clone(self).commit(Arrived::from(unpacked)).await;
            images.push(committed.map_err(ImportError::Commit)?);
        }
        Ok(images)
    }
}

impl From<Imported> for Arrived {
    fn from(imported: Imported) -> Self {
        let (layers, leases) = imported.layers.into_iter().unzip();
        let references = &imported.references;
        let digested = imported
            .target
            .iter()
            .flat_map(|target| references.iter().map(move |reference| reference.digested(target)));
        Self {
            tags: references.iter().filter_map(transfer::Reference::tagged).collect(),
            digests: digested.collect(),
            id: imported.config,
            manifest: imported.manifest,
            layers,
            leases,
            blobs: imported.blobs,
            config: imported.config_bytes,
        }
    }
}
