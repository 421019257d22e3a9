//! Running a transfer: which pair of source and destination it is, and what becomes of it.
//!
//! Invariant: what arrives in the store is committed as a pull is, data before the record; what
//! leaves it is leased by the pipeline. Whoever drops the future ends the transfer.

use std::io::{self, Read};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::record::Image;
use super::store::is_containers;
use super::{FindError, Images, ImportError, PullError, Store};
use crate::metadata::{Digest, MetadataError};
use crate::snapshots::SnapshotKey;
use crate::transfer::{
    Credentials, Destination, ExportError, Layered, Lost, MirrorEnds, MirrorError, Platform,
    Progress, PushError, Recompressed, Reference, RepairError, SnapshotError, Source, StoredImage,
    Transfer, Urgency, Verdict,
};

/// A transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A pair that means nothing.
    #[error("nothing can be transferred from {from} to {to}")]
    NoRoute {
        /// The source.
        from: &'static str,
        /// The destination.
        to: &'static str,
    },
    /// There is no such image.
    #[error("there is no image {0}")]
    NoImage(String),
    /// The name fits several images.
    #[error("cannot tell which image is meant")]
    Ambiguous(#[source] FindError),
    /// A pull.
    #[error(transparent)]
    Pull(Box<PullError>),
    /// An import.
    #[error(transparent)]
    Import(Box<ImportError>),
    /// A push.
    #[error("cannot push {image} to {reference}")]
    Push {
        /// The image.
        image: String,
        /// Where it was to go.
        reference: String,
        /// The cause.
        #[source]
        source: Box<PushError>,
    },
    /// An export.
    #[error("cannot export {image}")]
    Export {
        /// The image.
        image: String,
        /// The cause.
        #[source]
        source: Box<ExportError>,
    },
    /// A mirroring.
    #[error("cannot mirror {from} to {to}")]
    Mirror {
        /// Where it is.
        from: String,
        /// Where it was to go.
        to: String,
        /// The cause.
        #[source]
        source: Box<MirrorError>,
    },
    /// Unpacking or packing.
    #[error(transparent)]
    Snapshot(Box<SnapshotError>),
    /// A name that an image of the store cannot have.
    #[error("{0} names a digest; an image is given a tag")]
    NoTag(String),
    /// A key that only a container's snapshot can have.
    #[error("snapshot key {0} could be that of a container")]
    Reserved(String),
    /// Damaged layers cannot be fetched again.
    #[error("cannot repair {image} from {origin}")]
    Repair {
        /// The image.
        image: String,
        /// Where it came from.
        origin: String,
        /// The cause.
        #[source]
        source: Box<RepairError>,
    },
    /// Nobody knows where an image came from.
    #[error("{0} came from no registry; its damaged layers must be imported again")]
    NoOrigin(String),
    /// The new name cannot be recorded.
    #[error("cannot record the name {reference}")]
    Record {
        /// The name.
        reference: String,
        /// The cause.
        #[source]
        source: Box<MetadataError>,
    },
    /// The thread that did the work is gone.
    #[error("a transfer did not end")]
    Interrupted(#[source] tokio::task::JoinError),
    /// The work was lost.
    #[error("a transfer did not end")]
    Task(#[source] Lost),
}

/// What came of a transfer.
#[derive(Debug, Default)]
pub struct Transferred {
    /// Images that are in the store now.
    pub images: Vec<Arc<Image>>,
    /// What the destination has now: a manifest or index, or a layer's diffID.
    pub digest: Option<Digest>,
    /// Layers that went out in another form than they came in.
    pub recompressed: Vec<Recompressed>,
}

impl Images {
    /// Runs a transfer. How far it is can be seen in `progress`, which may be exchanged for one
    /// that several transfers share.
    ///
    /// # Errors
    /// [`TransferError`]; nothing partial is left at the destination.
    ///
    /// # Cancel safety
    /// Dropping the future ends the transfer, and leaves nothing partial.
    pub async fn transfer(
        &self,
        transfer: Transfer,
        progress: &ArcSwap<Progress>,
    ) -> Result<Transferred, TransferError> {
        let Transfer { source, destination, platform } = transfer;
        match (source, destination) {
            (Source::Registry { reference, credentials }, Destination::Store) => {
                let platform = platform.unwrap_or_else(Platform::host);
                let (credentials, urgent) = (credentials.as_ref(), Urgency::urgent());
                let pull = self.pull_for(&reference, credentials, &platform, progress, &urgent);
                Ok(Transferred {
                    images: vec![pull.await.map_err(|error| TransferError::Pull(Box::new(error)))?],
                    ..Transferred::default()
                })
            }
            (
                Source::Registry { reference: from, credentials: from_credentials },
                Destination::Registry { reference: to, credentials: to_credentials },
            ) => {
                let ends = MirrorEnds {
                    from: &from,
                    from_credentials: from_credentials.as_ref(),
                    to: &to,
                    to_credentials: to_credentials.as_ref(),
                };
                let progress = progress.load_full();
                let mirrored = self.0.transfer.mirror(ends, platform.as_ref(), &progress).await;
                let digest = mirrored.map_err(|source| TransferError::Mirror {
                    from: from.to_string(),
                    to: to.to_string(),
                    source: Box::new(source),
                })?;
                Ok(Transferred { digest: Some(digest), ..Transferred::default() })
            }
            (Source::Archive(archive), Destination::Store) => {
                let counted = Counted { source: archive, progress: progress.load_full() };
                let images = self.import(counted).await;
                let images = images.map_err(|error| TransferError::Import(Box::new(error)))?;
                Ok(Transferred { images, ..Transferred::default() })
            }
            (Source::Image(name), Destination::Registry { reference, credentials }) => {
                let image = self.named(&name)?;
                let (stored, progress) = (image.stored(), progress.load_full());
                let push =
                    self.0.transfer.push(&stored, &reference, credentials.as_ref(), &progress);
                let pushed = push.await.map_err(|source| TransferError::Push {
                    image: name,
                    reference: reference.to_string(),
                    source: Box::new(source),
                })?;
                Ok(Transferred {
                    images: Vec::new(),
                    digest: Some(pushed.manifest),
                    recompressed: pushed.recompressed,
                })
            }
            (Source::Image(name), Destination::Archive { format, to }) => {
                let image = self.named(&name)?;
                let (stored, progress) = (image.stored(), progress.load_full());
                let names = names_for(&image, &name);
                let export = self.0.transfer.export(&stored, names, format, to, &progress);
                let exported = export.await.map_err(|source| TransferError::Export {
                    image: name,
                    source: Box::new(source),
                })?;
                Ok(Transferred {
                    images: Vec::new(),
                    digest: Some(exported.manifest),
                    recompressed: exported.recompressed,
                })
            }
            (Source::Image(name), Destination::Name(reference)) => {
                let image = self.tag(&name, reference).await?;
                Ok(Transferred { images: vec![image], ..Transferred::default() })
            }
            (Source::Layer(layer), Destination::Snapshot { key, base }) => {
                if SnapshotKey::parse(&key).is_ok_and(|key| is_containers(&key)) {
                    return Err(TransferError::Reserved(key));
                }
                let base = base.map(|base: String| self.named(&base)).transpose()?;
                let layers = base.map(|image| image.layers.clone()).unwrap_or_default();
                let counted = Counted { source: layer, progress: progress.load_full() };
                let unpacked = self.0.transfer.unpack_snapshot(counted, &key, layers).await;
                let diff_id = unpacked.map_err(|error| TransferError::Snapshot(Box::new(error)))?;
                Ok(Transferred { digest: Some(diff_id), ..Transferred::default() })
            }
            (Source::Snapshot(name), Destination::Layer(to)) => {
                let written = self.0.transfer.diff(&name, to, &progress.load_full()).await;
                written.map_err(|error| TransferError::Snapshot(Box::new(error)))?;
                Ok(Transferred::default())
            }
            (source, destination) => {
                Err(TransferError::NoRoute { from: source.word(), to: destination.word() })
            }
        }
    }

    /// Makes a container's snapshot on these layers (lowest first) from an archive of what
    /// another container on them wrote.
    ///
    /// # Errors
    /// [`TransferError::Snapshot`]; nothing is left then.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; the work ends with its source.
    pub async fn unpack_writable(
        &self,
        archive: impl Read + Send + 'static,
        key: &SnapshotKey,
        layers: Vec<Digest>,
    ) -> Result<(), TransferError> {
        let unpacked = self.0.transfer.unpack_snapshot(archive, key.as_str(), layers).await;
        unpacked.map(drop).map_err(|error| TransferError::Snapshot(Box::new(error)))
    }

    /// Holds all that the store has of an image against its digests.
    ///
    /// # Errors
    /// [`TransferError`] when there is no such image; what is damaged is no error here.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn verify(
        &self,
        name: &str,
        progress: &ArcSwap<Progress>,
    ) -> Result<Vec<Layered>, TransferError> {
        let image = self.named(name)?;
        let progress = progress.load_full();
        let stored = image.stored();
        let verified = self.0.transfer.verify(&stored, &image.blobs, &progress);
        verified.await.map_err(TransferError::Task)
    }

    /// As [`Self::verify`], then fetches the damaged layers again, they and nothing else, from the
    /// registry that the image came from, and verifies once more. Containers that run keep what
    /// they have.
    ///
    /// # Errors
    /// [`TransferError`]; a layer that could not be fetched is as it was.
    ///
    /// # Cancel safety
    /// Dropping the future stops the download; a layer is replaced or as it was.
    pub async fn repair(
        &self,
        name: &str,
        credentials: Option<&Credentials>,
        progress: &ArcSwap<Progress>,
    ) -> Result<Vec<Layered>, TransferError> {
        let verified = self.verify(name, progress).await?;
        let image = self.named(name)?;
        let is_damaged = |layered: &&Layered| matches!(layered.verdict, Verdict::Damaged(_));
        let damaged = verified.iter().filter(is_damaged).map(|layered| layered.digest.clone());
        let damaged: Vec<Digest> = damaged.filter(|it| image.layers.contains(it)).collect();
        if damaged.is_empty() {
            return Ok(verified);
        }
        let origin = image.digests.iter().find_map(|name| Reference::parse(name).ok());
        let origin = origin.ok_or_else(|| TransferError::NoOrigin(name.to_owned()))?;
        let (stored, shown) = (image.stored(), progress.load_full());
        let repair = self.0.transfer.repair(&stored, &damaged, &origin, credentials, &shown);
        repair.await.map_err(|source| TransferError::Repair {
            image: name.to_owned(),
            origin: origin.to_string(),
            source: Box::new(source),
        })?;
        tracing::info!(image.id = %image.id, layers = damaged.len(), "damaged layers are replaced");
        // What nothing stands on any more goes.
        self.0.collect_leftovers().await;
        self.verify(name, progress).await
    }

    /// The image of this name.
    ///
    /// # Errors
    /// [`TransferError::NoImage`] and [`TransferError::Ambiguous`].
    pub fn named(&self, name: &str) -> Result<Arc<Image>, TransferError> {
        let found = self.find(name).map_err(TransferError::Ambiguous)?;
        found.ok_or_else(|| TransferError::NoImage(name.to_owned()))
    }

    async fn tag(&self, name: &str, reference: Reference) -> Result<Arc<Image>, TransferError> {
        let (store, name) = (Arc::clone(&self.0), name.to_owned());
        let tagging = self.0.tasks.spawn_blocking(move || store.tag(&name, reference));
        tagging.await.map_err(TransferError::Interrupted)?
    }
}

impl Store {
    fn tag(&self, name: &str, reference: Reference) -> Result<Arc<Image>, TransferError> {
        let tag = reference.tagged().filter(|_| reference.digest().is_none());
        let Some(tag) = tag else { return Err(TransferError::NoTag(reference.to_string())) };
        let _changing = self.changing();
        let mut index = Arc::unwrap_or_clone(self.index.load_full());
        let found = index.find(name).map_err(TransferError::Ambiguous)?;
        let found = found.ok_or_else(|| TransferError::NoImage(name.to_owned()))?;
        let mut image = Image::clone(&found);
        image.tags.push(tag);
        image.absorb(&found, &self.pins);
        self.metadata.commit_image(&image.to_row(), &[]).map_err(|source| {
            TransferError::Record { reference: reference.to_string(), source: Box::new(source) }
        })?;
        let image = Arc::new(image);
        self.list(&mut index, &image);
        self.index.store(Arc::new(index));
        Ok(image)
    }
}

impl Image {
    /// What the pipeline must know of it.
    fn stored(&self) -> StoredImage {
        StoredImage {
            manifest: self.manifest.clone(),
            config: self.id.clone(),
            layers: self.layers.clone(),
            digests: self.digests.clone(),
        }
    }
}

/// The names that an image has in an archive: the one it was asked for by, where that is a
/// reference; else all of them.
fn names_for(image: &Image, name: &str) -> Vec<String> {
    let tag = Reference::parse(name).ok().and_then(|reference| reference.tagged());
    match tag.filter(|tag| image.tags.contains(tag)) {
        Some(tag) => vec![tag],
        None => image.tags.clone(),
    }
}

struct Counted<R> {
    source: R,
    progress: Arc<Progress>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.progress.streamed(read);
        Ok(read)
    }
}
