//! Pulling images: from a registry in this process that misbehaves on demand, and from Debian's
//! `docker-registry`.
//!
//! No test asserts how long something takes; the time limits of the pipeline are set short, so
//! that what waits for them is quick.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "pull/authentication.rs"]
mod authentication;
#[path = "pull/debian.rs"]
mod debian;
#[path = "pull/faults.rs"]
mod faults;
#[path = "pull/flights.rs"]
mod flights;
#[path = "pull/forms.rs"]
mod forms;
#[path = "pull/full_disk.rs"]
mod full_disk;
#[path = "pull/image.rs"]
mod image;
#[path = "pull/images.rs"]
mod images;
#[path = "pull/mirrors.rs"]
mod mirrors;
#[path = "pull/prefetch.rs"]
mod prefetch;
#[path = "pull/ranges.rs"]
mod ranges;
#[path = "pull/registry.rs"]
mod registry;
#[path = "pull/repair.rs"]
mod repair;
#[path = "pull/secrets.rs"]
mod secrets;
#[path = "pull/shares.rs"]
mod shares;
#[path = "pull/signatures.rs"]
mod signatures;
#[path = "pull/signer.rs"]
mod signer;
#[path = "pull/tls.rs"]
mod tls;
#[path = "pull/trust.rs"]
mod trust;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orlop::content::ContentStore;
use orlop::metadata::Metadata;
use orlop::snapshots::Snapshots;
use orlop::transfer::{
    AuthFields, Config, Credentials, Pipeline, Platform, Progress, PullError, Pulled, Reference,
    Urgency,
};

/// The stores of one node, and the pipeline into them.
pub(crate) struct Node {
    directory: tempfile::TempDir,
    pub(crate) content: ContentStore,
    pub(crate) snapshots: Snapshots,
    pub(crate) transfer: Arc<Pipeline>,
}

/// Limits that tests do not have to wait for, wide enough for a slow machine.
pub(crate) fn config() -> Config {
    Config {
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(1500),
        no_progress_timeout: Duration::from_secs(20),
        attempts_per_host: 3,
        initial_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(50),
        ..Config::default()
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: Config) -> Self {
        Self::on(tempfile::tempdir().unwrap(), config)
    }

    pub(crate) fn on(directory: tempfile::TempDir, config: Config) -> Self {
        let metadata = Arc::new(Metadata::open(directory.path()).unwrap());
        let content = ContentStore::open(&directory.path().join("content")).unwrap();
        let snapshots = Snapshots::open(&directory.path().join("snapshots"), metadata).unwrap();
        let transfer = Arc::new(Pipeline::new(config, content.clone(), snapshots.clone()));
        Self { directory, content, snapshots, transfer }
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Pulled, PullError> {
        self.pull_with(reference, None).await
    }

    pub(crate) async fn pull_with(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> Result<Pulled, PullError> {
        let reference = Reference::parse(reference).unwrap();
        let progress = Arc::new(Progress::default());
        let platform = Platform::host();
        let (credentials, urgent) = (credentials.as_ref(), Urgency::urgent());
        self.transfer.pull(&reference, credentials, &platform, &progress, &urgent).await
    }

    /// The failure of a pull, checked to leave nothing.
    pub(crate) async fn fail(&self, reference: &str) -> PullError {
        self.fail_with(reference, None).await
    }

    pub(crate) async fn fail_with(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> PullError {
        let error = self.pull_with(reference, credentials).await.unwrap_err();
        self.assert_nothing_left().await;
        error
    }

    /// Neither layers nor blobs, but those that a collection takes.
    pub(crate) async fn assert_nothing_left(&self) {
        self.transfer.finish().await;
        self.snapshots.wait_until_removed();
        assert_eq!(self.layers(), Vec::<PathBuf>::new());
        self.content.collect(&HashSet::new()).unwrap();
        assert_eq!(self.content.list(), []);
        let ingests = std::fs::read_dir(self.directory.path().join("content/ingest")).unwrap();
        assert_eq!(ingests.count(), 0);
    }

    /// The directories of layers.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        let layers = std::fs::read_dir(self.snapshots.directory().join("layers")).unwrap();
        layers.map(|layer| layer.unwrap().path()).collect()
    }
}

/// The message of an error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Credentials from the fields that a test sets.
pub(crate) fn credentials(fields: AuthFields<'_>) -> Option<Credentials> {
    Credentials::parse(fields).unwrap()
}

/// User name and password for the registry of the reference.
pub(crate) fn login(username: &str, password: &str) -> Option<Credentials> {
    credentials(AuthFields { username, password, ..AuthFields::default() })
}
