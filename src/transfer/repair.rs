//! Damaged layers fetched again: they and nothing else of their image.
//!
//! Invariant: a damaged layer keeps its place until its successor is verified and on disk.

use std::sync::Arc;

use super::credentials::Credentials;
use super::error::SessionError;
use super::fetch::{Demand, FetchError};
use super::manifest::{self, Manifest, ManifestError};
use super::permits::Urgency;
use super::progress::Progress;
use super::pull::Pipeline;
use super::reference::Reference;
use super::registry::{Access, HostsFailed};
use super::stored::StoredImage;
use super::tasks::Lost;
use crate::content::Digest;
use crate::snapshots::ReplaceError;

/// A damaged layer cannot be fetched again; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The registry cannot be spoken to.
    #[error("cannot prepare the repair")]
    Session(#[source] SessionError),
    /// No host gives the manifest.
    #[error("cannot fetch the manifest {digest}")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// What the hosts said.
        #[source]
        source: HostsFailed,
    },
    /// The manifest is not one.
    #[error("the manifest {digest} is not that of an image")]
    InvalidManifest {
        /// The manifest.
        digest: Digest,
        /// What is wrong; nothing where it is an index.
        #[source]
        source: Option<ManifestError>,
    },
    /// A layer does not come.
    #[error("cannot fetch layer {diff_id} again")]
    Fetch {
        /// The layer.
        diff_id: Digest,
        /// The cause.
        #[source]
        source: Box<FetchError>,
    },
    /// A layer cannot take its place.
    #[error("cannot put layer {diff_id} in its place")]
    Replace {
        /// The layer.
        diff_id: Digest,
        /// The cause.
        #[source]
        source: Box<ReplaceError>,
    },
    /// The thread that did the work is gone.
    #[error("cannot wait for the work of a transfer")]
    Task(#[source] Lost),
}

impl Pipeline {
    /// Fetches the layers `damaged` of `image` from the registry of `reference` and puts each in
    /// its place.
    ///
    /// # Errors
    /// [`RepairError`]; layers before the one that failed are replaced.
    ///
    /// # Cancel safety
    /// Dropping the future stops the download; a layer is replaced or as it was.
    pub async fn repair(
        &self,
        image: &StoredImage,
        damaged: &[Digest],
        reference: &Reference,
        credentials: Option<&Credentials>,
        progress: &Arc<Progress>,
    ) -> Result<(), RepairError> {
        let session = self.session(reference, credentials, Access::Pull).await;
        let session = Arc::new(session.map_err(RepairError::Session)?);
        let digest = &image.manifest;
        let document = session
            .manifest(digest)
            .await
            .map_err(|source| RepairError::Manifest { digest: digest.clone(), source })?;
        let invalid = |source| RepairError::InvalidManifest { digest: digest.clone(), source };
        let parsed = manifest::parse(&document.bytes, document.media_type.as_deref());
        let Manifest::Image(parts) = parsed.map_err(|error| invalid(Some(error)))? else {
            return Err(invalid(None));
        };
        let wanted: Vec<_> = parts
            .layers
            .into_iter()
            .zip(&image.layers)
            .filter(|(_, diff_id)| damaged.contains(diff_id))
            .collect();
        progress.begin(wanted.iter().map(|(layer, _)| (layer.digest.clone(), layer.size)));
        let fetcher = self.fetcher(session, progress, Demand::Anew, &Urgency::urgent());
        for (index, (descriptor, diff_id)) in wanted.into_iter().enumerate() {
            let fetched = fetcher.clone().layer(index, descriptor, diff_id.clone(), None).await;
            let fetched = fetched.map_err(|source| RepairError::Fetch {
                diff_id: diff_id.clone(),
                source: Box::new(source),
            })?;
            let (snapshots, place) = (self.snapshots.clone(), diff_id.clone());
            let replace = move || snapshots.replace(&place, fetched.lease);
            self.tasks.run_blocking(replace).await.map_err(RepairError::Task)?.map_err(
                |source| RepairError::Replace {
                    diff_id: diff_id.clone(),
                    source: Box::new(source),
                },
            )?;
        }
        Ok(())
    }
}
