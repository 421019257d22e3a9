//! Pulls as one operation: shared by those who ask for the same, cancelled when nobody waits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop::content::ContentStore;
use orlop::images::{self, Images, PullError};
use orlop::metadata::Metadata;
use orlop::snapshots::Snapshots;
use orlop::transfer::{Config, Credentials, Pipeline, PullFailure, Reference};

use crate::image::{Compression, Layer, serve};
use crate::registry::{Auth, Fault, Registry};
use crate::{chain, config, login};

/// Images of one root directory, with the stores in directories of the caller's choice.
pub(crate) struct Library {
    pub(crate) images: Images,
    content: ContentStore,
    pub(crate) snapshots: Snapshots,
}

impl Library {
    pub(crate) fn open(root: &Path, content: &Path, snapshots: &Path, config: Config) -> Self {
        let metadata = Arc::new(Metadata::open(root).unwrap());
        let content = ContentStore::open(content).unwrap();
        let snapshots = Snapshots::open(snapshots, Arc::clone(&metadata)).unwrap();
        let transfer = Arc::new(Pipeline::new(config, content.clone(), snapshots.clone()));
        let settings = images::Config::default();
        let images =
            Images::open(settings, metadata, content.clone(), snapshots.clone(), transfer).unwrap();
        Self { images, content, snapshots }
    }

    fn new(root: &Path) -> Self {
        Self::open(root, &root.join("content"), &root.join("snapshots"), config())
    }

    /// After everything has come to an end: no image, no layer, no blob.
    pub(crate) async fn assert_empty(&self) {
        self.images.close().await;
        self.snapshots.wait_until_removed();
        assert!(self.images.list().is_empty());
        assert_eq!(self.content.list(), []);
        let layers = self.snapshots.directory().join("layers");
        assert_eq!(std::fs::read_dir(layers).unwrap().count(), 0);
        let ingests = self.content.directory().join("ingest");
        assert_eq!(std::fs::read_dir(ingests).unwrap().count(), 0);
    }

    /// Starts a pull that others may watch.
    fn start(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> tokio::task::JoinHandle<Result<Arc<images::Image>, PullError>> {
        let (images, reference) = (self.images.clone(), reference.clone());
        tokio::spawn(async move { images.pull(&reference, credentials.as_ref()).await })
    }
}

/// Waits for something that is sure to come.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn served() -> (Registry, Reference, Vec<Layer>) {
    let registry = Registry::start().await;
    let layers =
        vec![Layer::file("base", b"one", Compression::Gzip), Layer::noise("noise", 300_000)];
    serve(&registry, Some("v1"), &layers);
    let reference = Reference::parse(&format!("{}/team/app:v1", registry.authority())).unwrap();
    (registry, reference, layers)
}

#[tokio::test]
async fn root_many_who_ask_share_one_download() {
    let root = tempfile::tempdir().unwrap();
    let library = Library::new(root.path());
    let (registry, reference, layers) = served().await;
    let pulls: Vec<_> = (0..8).map(|_| library.start(&reference, None)).collect();
    for pull in pulls {
        let image = pull.await.unwrap().unwrap();
        assert_eq!(image.tags, [reference.to_string()]);
        assert_eq!(image.digests.len(), 1);
        assert!(image.size_bytes > 300_000);
        // Listed as soon as it is pulled.
        let listed = library.images.find(&reference.to_string()).unwrap().unwrap();
        assert_eq!(listed.id, image.id);
    }
    for layer in &layers {
        assert_eq!(registry.count(&layer.digest()), 1);
    }
    assert!(library.images.pulling().is_empty());
    library.images.remove(&reference.to_string()).await.unwrap();
    library.assert_empty().await;
}

#[tokio::test]
async fn root_other_credentials_are_asked_for_themselves() {
    let root = tempfile::tempdir().unwrap();
    let library = Library::new(root.path());
    let (registry, reference, _) = served().await;
    registry.require(Auth::Basic("alice", "right"));
    let good = library.start(&reference, login("alice", "right"));
    let wrong = library.start(&reference, login("alice", "wrong"));
    let none = library.start(&reference, None);
    assert!(good.await.unwrap().is_ok());
    for refused in [wrong, none] {
        let error = refused.await.unwrap().unwrap_err();
        assert_eq!(error.failure(), PullFailure::Unauthorized, "{}", chain(&error));
    }
    // What the first one brought is there, and still not for everybody.
    let late = library.images.pull(&reference, None).await.unwrap_err();
    assert_eq!(late.failure(), PullFailure::Unauthorized);
}

#[tokio::test]
async fn root_who_stops_waiting_does_not_stop_the_others() {
    let root = tempfile::tempdir().unwrap();
    let library = Library::new(root.path());
    let (registry, reference, layers) = served().await;
    registry.fault(&layers[1].digest(), 1, Fault::Stall(1000));
    let impatient = library.start(&reference, None);
    until(|| registry.count(&layers[1].digest()) > 0).await;
    let patient = library.start(&reference, None);
    tokio::task::yield_now().await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    let image = patient.await.unwrap().unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(registry.count("/manifests/v1"), 1, "one resolution for both");
}

#[tokio::test]
async fn root_a_pull_that_nobody_waits_for_leaves_nothing() {
    for part in ["/manifests/", "/blobs/", "noise"] {
        let root = tempfile::tempdir().unwrap();
        let library = Library::new(root.path());
        let (registry, reference, layers) = served().await;
        let part = if part == "noise" { layers[1].digest() } else { part.to_owned() };
        registry.fault(&part, 1, Fault::Stall(500));
        let pull = library.start(&reference, None);
        until(|| registry.count(&part) > 0).await;
        assert_eq!(library.images.pulling().len(), 1);
        pull.abort();
        assert!(pull.await.unwrap_err().is_cancelled());
        until(|| library.images.pulling().is_empty()).await;
        library.assert_empty().await;
    }
}

#[tokio::test]
async fn root_after_a_failure_the_next_one_begins_anew() {
    let root = tempfile::tempdir().unwrap();
    let library = Library::new(root.path());
    let (registry, reference, layers) = served().await;
    registry.fault(&layers[1].digest(), 100, Fault::Status(404, Vec::new()));
    let both = [library.start(&reference, None), library.start(&reference, None)];
    for pull in both {
        let error = pull.await.unwrap().unwrap_err();
        assert_eq!(error.failure(), PullFailure::NotFound, "{}", chain(&error));
    }
    assert!(library.images.list().is_empty());
    let other = Registry::start().await;
    other.copy_from(&registry);
    let reference = Reference::parse(&format!("{}/team/app:v1", other.authority())).unwrap();
    assert!(library.images.pull(&reference, None).await.is_ok());
}
