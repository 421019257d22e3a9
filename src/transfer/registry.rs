//! The registry client: manifests and blobs of one repository, from the first host that has
//! them, and to the first that takes them.
//!
//! ```text
//! Session            one pull: the hosts of a registry in order
//!   Endpoint         one host: token, repetition, back-off
//!     Exchange       one request: redirects, secrets kept at home
//!   upload           blobs and manifests to the repository
//! BlobStream         one blob: resumed where it broke, on the next host if need be
//! ```
//! Invariants: a session serves one caller's pull and ends with it, so no token of one caller is
//! used for another; each wait has an end; what the hosts said is in the error, all of them.
//!
//! Specification: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>

/// What broke, on which host.
pub mod error;
/// `hosts.toml`.
pub mod hosts;

mod blob;
mod body;
mod challenge;
mod client;
mod endpoint;
mod explain;
mod header;
mod resolver;
mod secret;
mod send;
mod share;
mod token;
mod trace;
mod upload;

use std::ops::Range;
use std::sync::Arc;

use reqwest::Method;

pub use self::client::ClientError;
pub use self::error::{HostFailure, HostsFailed, RequestError, RequestFailure};
pub use self::explain::Hop;
pub use self::hosts::{HostsError, hosts_file};
pub use self::resolver::ResolveError;

pub(super) use self::blob::{BlobError, BlobStream, NoRanges};
pub(super) use self::client::SystemRoots;
pub(super) use self::endpoint::Access;
pub(super) use self::share::{Share, Shares};
pub(super) use self::upload::{Body, Started, body};

use self::blob::Wanted;
use self::endpoint::{Endpoint, Extent, Means, Request};
use self::hosts::Capabilities;
use self::secret::HostSecret;
use super::config::Config;
use super::credentials::Credentials;
use super::reference::Reference;
use crate::content::Hasher;
use crate::content::{Algorithm, Digest};

/// Manifests and indexes of OCI and of Docker schema 2; nothing older.
const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// One repository during one pull.
#[derive(Debug)]
pub(super) struct Session {
    endpoints: Vec<Endpoint>,
    config: Arc<Config>,
    share: Arc<Share>,
}

/// A document as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    /// Its bytes; their digest is verified.
    pub(super) bytes: Vec<u8>,
    /// The digest of the bytes.
    pub(super) digest: Digest,
    /// What the host says they are.
    pub(super) media_type: Option<String>,
}

/// What a tag stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    /// A digest whose document is still to be fetched.
    Digest(Digest),
    /// The document itself: the host does not tell digests without it.
    Document(Document),
}

impl Session {
    /// Reads the hosts of the reference's registry and prepares to ask them. Reads files and
    /// waits for credential helpers, so it blocks.
    ///
    /// # Errors
    /// [`HostsError`]; a host whose certificates or credentials cannot be read fails when it
    /// is asked.
    pub(super) fn open(
        config: Arc<Config>,
        roots: &SystemRoots,
        reference: &Reference,
        credentials: Option<&Credentials>,
        access: &Access,
        share: Arc<Share>,
    ) -> Result<Self, HostsError> {
        let registry = reference.domain();
        let hosts = hosts::hosts_of(config.hosts_dir.as_deref(), registry)?;
        let endpoint = |host| {
            let means = Means {
                clients: client::build(&host, roots, config.connect_timeout),
                secret: HostSecret::choose(&host, reference, credentials, &config),
            };
            let config = Arc::clone(&config);
            let (repository, access) = (reference.path(), access.clone());
            Endpoint::new(host, means, registry, repository, access, config)
        };
        Ok(Self { endpoints: hosts.into_iter().map(endpoint).collect(), config, share })
    }

    /// What this session and others may take of the registry.
    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    /// Asks which digest `tag` names; only hosts trusted to say so are asked.
    ///
    /// # Errors
    /// [`HostsFailed`] when none of them says.
    pub(super) async fn resolve(&self, tag: &str) -> Result<Resolved, HostsFailed> {
        let mut failed = HostsFailed::default();
        for endpoint in self.endpoints_that(|capabilities| capabilities.resolve) {
            let answer = self.resolve_at(endpoint, tag).await;
            if let Some(resolved) = note(&mut failed, endpoint, answer) {
                return Ok(resolved);
            }
        }
        Err(failed)
    }

    async fn resolve_at(&self, endpoint: &Endpoint, tag: &str) -> Result<Resolved, RequestError> {
        let path = format!("manifests/{tag}");
        let head = manifest_request(Method::HEAD, path.clone());
        match endpoint.request(&head).await {
            Ok(response) => {
                if let Some(digest) = header::content_digest(response.headers())? {
                    return Ok(Resolved::Digest(digest));
                }
            }
            // Some hosts know no HEAD.
            Err(RequestError::Status { status: 400 | 405 | 501, .. }) => {}
            Err(error) => return Err(error),
        }
        let get = manifest_request(Method::GET, path);
        let document = self.document_at(endpoint, &get, None, self.config.max_manifest_bytes);
        document.await.map(Resolved::Document)
    }

    /// Asks whether this caller may have the manifest, without fetching it.
    ///
    /// # Errors
    /// [`HostsFailed`] when no host gives it.
    pub(super) async fn authorize(&self, digest: &Digest) -> Result<(), HostsFailed> {
        let request = manifest_request(Method::HEAD, format!("manifests/{digest}"));
        let mut failed = HostsFailed::default();
        for endpoint in self.endpoints_that(|capabilities| capabilities.pull) {
            let answer = endpoint.request(&request).await;
            if note(&mut failed, endpoint, answer).is_some() {
                return Ok(());
            }
        }
        Err(failed)
    }

    /// Fetches a manifest or index by digest.
    ///
    /// # Errors
    /// [`HostsFailed`] when no host gives bytes of this digest.
    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Document, HostsFailed> {
        let request = manifest_request(Method::GET, format!("manifests/{digest}"));
        self.document(&request, digest, self.config.max_manifest_bytes).await
    }

    /// Fetches the manifest or index, of whatever kind, that `tag` names.
    ///
    /// # Errors
    /// [`HostsFailed`] when no host gives it.
    pub(super) async fn tagged(&self, tag: &str) -> Result<Vec<u8>, HostsFailed> {
        match self.resolve(tag).await? {
            Resolved::Digest(digest) => Ok(self.manifest(&digest).await?.bytes),
            Resolved::Document(document) => Ok(document.bytes),
        }
    }

    /// Fetches the index of what names `digest` as its subject.
    ///
    /// # Errors
    /// [`HostsFailed`] when no host gives one, which some never do.
    pub(super) async fn referrers(&self, digest: &Digest) -> Result<Vec<u8>, HostsFailed> {
        let path = format!("referrers/{digest}");
        let accept = Some("application/vnd.oci.image.index.v1+json");
        let request = Request {
            method: Method::GET,
            path,
            accept,
            extent: Extent::default(),
            query: Vec::new(),
        };
        let mut failed = HostsFailed::default();
        for endpoint in self.endpoints_that(|capabilities| capabilities.resolve) {
            let limit = self.config.max_manifest_bytes;
            let answer = self.document_at(endpoint, &request, None, limit).await;
            if let Some(document) = note(&mut failed, endpoint, answer) {
                return Ok(document.bytes);
            }
        }
        Err(failed)
    }

    /// Fetches a small blob whole, of exactly `size` bytes.
    ///
    /// # Errors
    /// [`HostsFailed`] when no host gives bytes of this digest and size.
    pub(super) async fn small_blob(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<Document, HostsFailed> {
        let path = format!("blobs/{digest}");
        let request = Request {
            method: Method::GET,
            path,
            accept: None,
            extent: Extent::default(),
            query: Vec::new(),
        };
        self.document(&request, digest, size).await
    }

    /// A stream of a blob's bytes, beginning with the host at `first`.
    pub(super) fn blob<'a>(
        &'a self,
        digest: &Digest,
        size: u64,
        first: HostIndex,
    ) -> BlobStream<'a> {
        self.part(digest, size, 0..size, NoRanges::Skip, first)
    }

    /// A stream of some of a blob's bytes, beginning with the host at `first`.
    pub(super) fn part<'a>(
        &'a self,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
        no_ranges: NoRanges,
        first: HostIndex,
    ) -> BlobStream<'a> {
        let endpoints = self.pull_hosts().skip(first.0).collect();
        let wanted = Wanted { digest, size, range, no_ranges };
        BlobStream::new(endpoints, first, wanted, &self.config)
    }

    /// Whether blobs can be pulled from a host at this place.
    pub(super) fn has_host(&self, host: HostIndex) -> bool {
        self.pull_hosts().nth(host.0).is_some()
    }

    /// The name of the host at this place; empty when there is none.
    pub(super) fn host_name(&self, host: HostIndex) -> String {
        let endpoint = self.pull_hosts().nth(host.0);
        endpoint.map(|endpoint| endpoint.host().authority.clone()).unwrap_or_default()
    }

    fn pull_hosts(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints_that(|capabilities| capabilities.pull)
    }

    async fn document(
        &self,
        request: &Request,
        digest: &Digest,
        limit: u64,
    ) -> Result<Document, HostsFailed> {
        let mut failed = HostsFailed::default();
        for endpoint in self.endpoints_that(|capabilities| capabilities.pull) {
            let answer = self.document_at(endpoint, request, Some(digest), limit).await;
            if let Some(document) = note(&mut failed, endpoint, answer) {
                return Ok(document);
            }
        }
        Err(failed)
    }

    /// Fetches and verifies; a body that breaks is fetched again from its beginning.
    async fn document_at(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        expected: Option<&Digest>,
        limit: u64,
    ) -> Result<Document, RequestError> {
        let mut attempt = 1;
        let (bytes, headers) = loop {
            let response = endpoint.request(request).await?;
            let headers = response.headers().clone();
            match body::read(response, limit, &self.config).await {
                Ok(bytes) => break (bytes, headers),
                Err(error) if error.is_transient() && attempt < self.config.attempts_per_host => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        };
        let announced = header::content_digest(&headers)?;
        for expected in expected.into_iter().chain(&announced) {
            let actual = Hasher::digest(expected.algorithm(), &bytes);
            if actual != *expected {
                return Err(RequestError::Digest { expected: expected.clone(), actual });
            }
        }
        let digest = expected.cloned().or(announced);
        let digest = digest.unwrap_or_else(|| Hasher::digest(Algorithm::Sha256, &bytes));
        Ok(Document { bytes, digest, media_type: header::media_type(&headers) })
    }

    fn endpoints_that(
        &self,
        can: impl Fn(Capabilities) -> bool,
    ) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| can(endpoint.host().capabilities))
    }
}

/// The answer of `endpoint`, if it has one; its failure is noted among those of other hosts.
fn note<T>(
    failed: &mut HostsFailed,
    endpoint: &Endpoint,
    answer: Result<T, RequestError>,
) -> Option<T> {
    match answer {
        Ok(answer) => {
            failed.log_overcome();
            Some(answer)
        }
        Err(error) => {
            failed.tried.push(failure(endpoint, error));
            None
        }
    }
}

/// A host's place among those that blobs may be pulled from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostIndex(usize);

impl HostIndex {
    /// The host behind this one.
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

fn manifest_request(method: Method, path: String) -> Request {
    Request {
        method,
        path,
        accept: Some(ACCEPT_MANIFESTS),
        extent: Extent::default(),
        query: Vec::new(),
    }
}

fn failure(endpoint: &Endpoint, error: RequestError) -> HostFailure {
    HostFailure { host: endpoint.host().authority.clone(), error }
}
