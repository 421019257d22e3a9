//! Pulling an image: one call from a reference to unpacked layers.
//!
//! The manifest and the configuration come first, because the diffIDs tell which layers are here
//! already; then all missing layers at once. Invariants: what a pull gives is leased, so nothing
//! of it is collected before the caller commits it; dropping the future stops the download, and
//! [`Pipeline::finish`] waits for what is cleaned up behind it.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::config::Config;
use super::credentials::Credentials;
use super::decryption::Keys;
use super::error::{PullError, SessionError};
use super::fetch::{Demand, FetchError, Fetched, Fetcher};
use super::manifest::Descriptor;
use super::permits::{Permits, Urgency};
use super::platform::Platform;
use super::progress::Progress;
use super::reference::Reference;
use super::registry::{Access, Hop, Session, Shares, SystemRoots, hosts_file};
use super::resolve::{Image, Resolver};
use super::tasks::Tasks;
use super::trust::{demand, judge};
use crate::content::{Blob, ContentStore, Digest};
use crate::snapshots::{LayerLease, Offer, Snapshots};

/// The transfer pipeline: what all pulls share.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) config: Arc<Config>,
    pub(super) content: ContentStore,
    pub(super) snapshots: Snapshots,
    roots: Arc<SystemRoots>,
    shares: Shares,
    pub(super) permits: Arc<Permits>,
    memory: Arc<Semaphore>,
    pub(super) tasks: Tasks,
}

/// A pulled image, complete and leased, and not yet recorded anywhere.
#[derive(Debug)]
pub struct Pulled {
    /// The reference as it was asked for, whatever mirror answered.
    pub reference: Reference,
    /// What the reference names: the index, or the manifest where there is no index.
    pub target: Descriptor,
    /// The manifest of the image for the platform.
    pub manifest: Descriptor,
    /// The image configuration; its digest is the image's id.
    pub config: Descriptor,
    /// The image configuration as it came.
    pub config_bytes: Vec<u8>,
    /// The layers, bottom first.
    pub layers: Vec<PulledLayer>,
    /// Leases on the blobs of the image: index, manifest, configuration, and the compressed
    /// layers where they are kept.
    pub blobs: Vec<Blob>,
}

/// How a registry is asked for an image.
#[derive(Debug)]
pub struct Explained {
    /// What says which hosts there are; `None` when nothing does and the registry is asked itself.
    pub file: Option<PathBuf>,
    /// The hosts in their order.
    pub hops: Vec<Hop>,
}

/// One unpacked layer of a pulled image.
#[derive(Debug)]
pub struct PulledLayer {
    /// The compressed layer.
    pub descriptor: Descriptor,
    /// What the store knows it by: the digest of the uncompressed layer, unless it is served by a
    /// remote snapshotter.
    pub name: Digest,
    /// The claim on its directory.
    pub lease: LayerLease,
}

impl Pulled {
    /// The image's id.
    #[must_use]
    pub fn id(&self) -> &Digest {
        &self.config.digest
    }

    /// Bytes of the compressed layers and of the documents, as the registry counts them.
    #[must_use]
    pub fn compressed_bytes(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.descriptor.size).sum();
        layers + self.manifest.size + self.config.size
    }
}

impl Pipeline {
    /// A pipeline into these stores.
    #[must_use]
    pub fn new(config: Config, content: ContentStore, snapshots: Snapshots) -> Self {
        let permits = Permits::new(config.layers_at_once());
        let memory = Arc::new(Semaphore::new(config.parts_ahead()));
        let (config, tasks) = (Arc::new(config), Tasks::default());
        Self {
            config,
            content,
            snapshots,
            roots: Arc::default(),
            shares: Shares::default(),
            permits,
            memory,
            tasks,
        }
    }

    /// Pulls the image that `reference` names for `platform`.
    ///
    /// What is urgent gets its permits first. The credentials serve this call alone. Layers that are here are not fetched; several
    /// pulls of one layer fetch it once.
    ///
    /// # Errors
    /// [`PullError`] names the step, the thing and every host tried. Nothing partial is left.
    ///
    /// # Cancel safety
    /// Dropping the future stops the download and leaves nothing: blobs and layers that were
    /// begun are removed soon after, those that were complete are collected.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        platform: &Platform,
        progress: &Arc<Progress>,
        urgency: &Arc<Urgency>,
    ) -> Result<Pulled, PullError> {
        let session = self.session(reference, credentials, Access::Pull).await;
        let session = session.map_err(PullError::from)?;
        let session = Arc::new(session);
        let resolver = Resolver {
            session: &session,
            content: &self.content,
            tasks: &self.tasks,
            config: &self.config,
            reference,
            platform,
        };
        let image = resolver.resolve().await?;
        self.judge(reference, &session, &image).await?;
        let layers = image.parts.layers.iter();
        progress.begin(layers.map(|layer| (layer.digest.clone(), layer.size)));
        let fetcher = self.fetcher(session, progress, Demand::Missing, urgency);
        let fetched = fetch_all(reference, &image, &fetcher).await?;
        Ok(assemble(reference, image, fetched))
    }

    /// Asks every host of the reference's registry for it, as a pull would, and tells about each:
    /// the file that says which hosts there are, if one does, and the hosts in their order.
    ///
    /// # Errors
    /// [`SessionError`] when the hosts cannot be told; what a host says is no error here.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn explain(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Explained, SessionError> {
        let session = self.session(reference, credentials, Access::Pull).await?;
        let (config, registry) = (Arc::clone(&self.config), reference.domain().to_owned());
        let find = move || hosts_file(config.hosts_dir.as_deref(), &registry);
        let found = self.tasks.run_blocking(find).await.map_err(SessionError::Task)?;
        let file = found.map_err(|source| SessionError::Hosts {
            registry: reference.domain().to_owned(),
            source: Box::new(source),
        })?;
        let digest = reference.digest().map(Digest::to_string);
        let wanted = digest.as_deref().or(reference.tag()).unwrap_or("latest");
        Ok(Explained { file, hops: session.explain(wanted).await })
    }

    /// Waits until what cancelled pulls left is cleaned up. A pull that is begun after this
    /// fails.
    pub async fn finish(&self) {
        self.permits.close();
        self.tasks.finish().await;
    }

    /// What fetches layers from `session`.
    pub(super) fn fetcher(
        &self,
        session: Arc<Session>,
        progress: &Arc<Progress>,
        demand: Demand,
        urgency: &Arc<Urgency>,
    ) -> Fetcher {
        Fetcher {
            session,
            content: self.content.clone(),
            snapshots: self.snapshots.clone(),
            tasks: self.tasks.clone(),
            config: Arc::clone(&self.config),
            keys: Keys::new(Arc::clone(&self.config), self.tasks.clone()),
            permits: Arc::clone(&self.permits),
            memory: Arc::clone(&self.memory),
            progress: Arc::clone(progress),
            demand,
            urgency: Arc::clone(urgency),
        }
    }

    /// Whether the image may be pulled.
    async fn judge(
        &self,
        reference: &Reference,
        session: &Session,
        image: &Image,
    ) -> Result<(), PullError> {
        if let Some(policy) = &self.config.trust.signature_policy {
            let digests = [&image.target.digest, &image.manifest.digest];
            let demanded = demand(session, &self.tasks, policy, reference, digests).await;
            demanded.map_err(|source| PullError::Signature(Box::new(source)))?;
        }
        let (config, name) = (Arc::clone(&self.config), reference.to_string());
        let target = image.target.clone();
        let judged = self.tasks.run_blocking(move || judge(&config.trust, &name, &target)).await;
        judged.map_err(PullError::Task)?.map_err(|source| PullError::Verifier(Box::new(source)))
    }

    /// A session with the reference's registry. Each serves one caller.
    pub(super) async fn session(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        access: Access,
    ) -> Result<Session, SessionError> {
        let (config, roots) = (Arc::clone(&self.config), Arc::clone(&self.roots));
        let (wanted, credentials) = (reference.clone(), credentials.cloned());
        let share = self.shares.of(reference.domain(), &config);
        let open =
            move || Session::open(config, &roots, &wanted, credentials.as_ref(), &access, share);
        let opened = self.tasks.run_blocking(open).await;
        opened.map_err(SessionError::Task)?.map_err(|source| SessionError::Hosts {
            registry: reference.domain().to_owned(),
            source: Box::new(source),
        })
    }
}

/// Fetches the layers at once; the first failure ends the others.
async fn fetch_all(
    reference: &Reference,
    image: &Image,
    fetcher: &Fetcher,
) -> Result<Vec<Fetched>, PullError> {
    let mut running = JoinSet::new();
    let pairs = image.parts.layers.iter().zip(&image.config_blob.diff_ids);
    for (index, (descriptor, diff_id)) in pairs.enumerate() {
        let offer =
            fetcher.snapshots.has_remote().then(|| offer(reference, image, index)).flatten();
        let layer = fetcher.clone().layer(index, descriptor.clone(), diff_id.clone(), offer);
        running.spawn(fetcher.tasks.track(async move { (index, layer.await) }));
    }
    let mut fetched = Vec::with_capacity(running.len());
    let outcome = join(image, &mut running, &mut fetched).await;
    // Nothing of the pull goes on behind an error.
    running.shutdown().await;
    outcome?;
    fetched.sort_by_key(|(index, _)| *index);
    Ok(fetched.into_iter().map(|(_, layer)| layer).collect())
}

/// What a remote snapshotter is told of a layer; nothing of an encrypted one, which it could not
/// read.
fn offer(reference: &Reference, image: &Image, index: usize) -> Option<Offer> {
    let from_here = image.parts.layers.get(index..)?;
    let layer = from_here.first().filter(|layer| layer.envelope.is_none())?;
    Some(Offer {
        repository: reference.name(),
        reference: reference.to_string(),
        manifest: image.manifest.digest.clone(),
        layer: layer.digest.clone(),
        from_here: from_here.iter().map(|layer| layer.digest.clone()).collect(),
        labels: layer.labels.clone(),
    })
}

async fn join(
    image: &Image,
    running: &mut JoinSet<(usize, Result<Fetched, FetchError>)>,
    fetched: &mut Vec<(usize, Fetched)>,
) -> Result<(), PullError> {
    while let Some(joined) = running.join_next().await {
        let (index, result) = joined.map_err(PullError::LayerTask)?;
        let layer = result.map_err(|source| layer_failed(image, index, source))?;
        fetched.push((index, layer));
    }
    Ok(())
}

fn assemble(reference: &Reference, image: Image, fetched: Vec<Fetched>) -> Pulled {
    let mut blobs = image.blobs;
    let mut layers = Vec::with_capacity(fetched.len());
    for (descriptor, fetched) in image.parts.layers.into_iter().zip(fetched) {
        blobs.extend(fetched.blob);
        layers.push(PulledLayer { descriptor, name: fetched.name, lease: fetched.lease });
    }
    Pulled {
        reference: reference.clone(),
        target: image.target,
        manifest: image.manifest,
        config: image.parts.config,
        config_bytes: image.config,
        layers,
        blobs,
    }
}

fn layer_failed(image: &Image, index: usize, source: FetchError) -> PullError {
    let digest = image.parts.layers.get(index).map(|layer| layer.digest.clone());
    PullError::Layer {
        digest: digest.unwrap_or_else(|| image.manifest.digest.clone()),
        source: Box::new(source),
    }
}
