//! The command line as a client of a running daemon: both APIs on its socket.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cri_api::v1::image_service_client::ImageServiceClient;
use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use cri_api::v1::{
    ImageSpec, ImageStatusRequest, ListImagesRequest, RemoveImageRequest, VersionRequest,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::v1;
use super::v1::registries_client::RegistriesClient;
use super::v1::store_client::StoreClient;
use super::v1::transfer_event::Event;
use super::v1::transfer_request::Part;
use super::v1::transfers_client::TransfersClient;

/// The largest answer that is read; CRI's own limit.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How much of an archive goes into one message.
const CHUNK_BYTES: usize = 1 << 20;

/// How many chunks are read ahead of what was sent.
const READ_AHEAD: usize = 2;

/// Why a request to the daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket, or we may not use it.
    #[error("cannot reach the daemon at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Who serves the socket does not speak HTTP/2.
    #[error("{} is served, but not by a daemon", socket.display())]
    Greet {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        #[source]
        source: tonic::transport::Error,
    },
    /// The archive cannot be read to its end.
    #[error("cannot read the archive")]
    ReadArchive {
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// What the daemon sends cannot be written.
    #[error("cannot write what the daemon sends")]
    Write {
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The daemon went away before the end.
    #[error("the daemon went away before the transfer had ended")]
    BrokeOff,
    /// There is no such image.
    #[error("there is no image {reference}")]
    NoImage {
        /// What was asked for.
        reference: String,
    },
    /// The daemon refused or failed.
    #[error("{message}")]
    Refused {
        /// What the daemon says.
        message: String,
    },
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        let said = if status.message().is_empty() {
            status.code().description()
        } else {
            status.message()
        };
        Self::Refused { message: said.to_owned() }
    }
}

/// Bytes that are sent to the daemon, and how many where that is known.
pub type Bytes = (Box<dyn Read + Send>, u64);

/// Where a transfer comes from.
pub enum Start {
    /// A registry.
    Registry {
        /// The image.
        reference: String,
        /// What is shown to it.
        auth: Option<RegistryAuth>,
    },
    /// An archive of images.
    Archive(Bytes),
    /// An image of the store.
    Image(String),
    /// A layer's tar.
    Layer(Bytes),
    /// A snapshot's key, or a layer's diffID.
    Snapshot(String),
}

/// Where a transfer goes.
#[derive(Debug, Clone)]
pub enum End {
    /// The store.
    Store,
    /// A registry.
    Registry {
        /// What the image is to be called.
        reference: String,
        /// What is shown to it.
        auth: Option<RegistryAuth>,
    },
    /// An OCI image layout.
    OciArchive,
    /// What `docker load` takes.
    DockerArchive,
    /// Another tag of an image of the store.
    Name(String),
    /// A new snapshot.
    Snapshot {
        /// Its key.
        key: String,
        /// The image that it stands on; empty for none.
        base: String,
    },
    /// A layer's tar.
    Layer,
}

/// What is shown to one registry, and to no other.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base64 of `username:password`.
    pub auth: String,
    /// `host[:port]` of the registry.
    pub server_address: String,
    /// OAuth2 refresh token.
    pub identity_token: String,
    /// Bearer token for the registry.
    pub registry_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("server_address", &self.server_address).finish()
    }
}

/// That damaged layers are to be fetched again, and what their registry is shown.
#[derive(Debug, Clone, Default)]
pub struct Repair(pub Option<RegistryAuth>);

/// How a registry is asked for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedRegistry {
    /// The image's reference, written out.
    pub reference: String,
    /// The file that says which hosts there are; empty when none does.
    pub file: String,
    /// The hosts in the order in which they are asked.
    pub hops: Vec<RegistryHop>,
}

/// One host of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryHop {
    /// The address of its API.
    pub address: String,
    /// What is set for it.
    pub settings: Vec<(String, String)>,
    /// The requests and their answers.
    pub exchanges: Vec<String>,
    /// The digest that it gives, or why it gives none.
    pub outcome: Result<String, String>,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// Bytes moved.
    pub bytes: u64,
    /// What `bytes` will be; 0 while that is not known.
    pub total_bytes: u64,
    /// Layers that are there.
    pub layers_done: u32,
    /// All layers.
    pub layers: u32,
}

/// What came of a transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Images that are in the store now: ids and references.
    pub images: Vec<(String, Vec<String>)>,
    /// What the destination has now; empty when there is nothing to say.
    pub digest: String,
    /// Layers that went out in another form: what they were, what they are.
    pub recompressed: Vec<(String, String)>,
}

impl From<v1::Result> for Transferred {
    fn from(result: v1::Result) -> Self {
        let images = result.images.into_iter().map(|image| (image.id, image.references));
        let layers = result.recompressed.into_iter().map(|layer| (layer.was, layer.is));
        Self { images: images.collect(), digest: result.digest, recompressed: layers.collect() }
    }
}

/// All about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDetails {
    /// Its id.
    pub id: String,
    /// Its references, tags first.
    pub references: Vec<String>,
    /// Its manifest.
    pub manifest: String,
    /// DiffIDs, lowest first.
    pub layers: Vec<String>,
    /// Blobs that are kept for it.
    pub blobs: Vec<String>,
    /// What it takes on disk.
    pub size_bytes: u64,
    /// Whether garbage collection must leave it alone.
    pub pinned: bool,
    /// The configuration as it was received.
    pub config: Vec<u8>,
}

/// An object of an image that was held against its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedObject {
    /// Of a document or a kept blob; a layer's diffID.
    pub digest: String,
    /// What came out.
    pub level: Level,
    /// Paths, empty when no file is to blame, and what is wrong.
    pub faults: Vec<(String, String)>,
}

/// What came out of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It is as it was.
    Intact,
    /// It is not.
    Damaged,
    /// Nothing was recorded that it could be held against.
    Unproven,
}

/// A blob of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Transfers that hold it now.
    pub leases: u64,
    /// Images that it is part of.
    pub images: u64,
}

/// A layer or a writable snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its key, or the layer's diffID.
    pub name: String,
    /// `active` or `layer`.
    pub kind: String,
    /// What it takes on disk.
    pub bytes: u64,
    /// Its inodes.
    pub inodes: u64,
}

impl Start {
    fn into_wire(self) -> (v1::source::Kind, Option<Box<dyn Read + Send>>) {
        use v1::source::Kind;
        match self {
            Self::Registry { reference, auth } => (Kind::Registry(registry(reference, auth)), None),
            Self::Archive((bytes, length)) => (Kind::Archive(v1::Stream { length }), Some(bytes)),
            Self::Image(name) => (Kind::Image(name), None),
            Self::Layer((bytes, length)) => (Kind::Layer(v1::Stream { length }), Some(bytes)),
            Self::Snapshot(name) => (Kind::Snapshot(name), None),
        }
    }
}

impl End {
    fn into_wire(self) -> v1::destination::Kind {
        use v1::destination::{Archive, Kind, Snapshot, Store, archive::Format};
        match self {
            Self::Store => Kind::Store(Store {}),
            Self::Registry { reference, auth } => Kind::Registry(registry(reference, auth)),
            Self::OciArchive => Kind::Archive(Archive { format: Format::Oci.into() }),
            Self::DockerArchive => Kind::Archive(Archive { format: Format::Docker.into() }),
            Self::Name(name) => Kind::Name(name),
            Self::Snapshot { key, base } => Kind::Snapshot(Snapshot { key, base }),
            Self::Layer => Kind::Layer(v1::Stream { length: 0 }),
        }
    }
}

fn registry(reference: String, auth: Option<RegistryAuth>) -> v1::Registry {
    let credentials = auth.map(|auth| v1::Credentials {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    });
    v1::Registry { reference, credentials }
}

/// An image in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedImage {
    /// Its id.
    pub id: String,
    /// Its references with a tag, or else those with a digest.
    pub references: Vec<String>,
    /// What it takes on disk.
    pub size_bytes: u64,
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the daemon that serves `socket`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::Greet`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        // Tried once by itself, for the plain reason when it fails.
        UnixStream::connect(socket)
            .await
            .map_err(|source| ClientError::Connect { socket: socket.to_owned(), source })?;
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .map_err(|source| ClientError::Greet { socket: socket.to_owned(), source })?;
        Ok(Self { channel })
    }

    /// Runs a transfer. `to` takes the bytes of a destination that is a stream; `show` sees the
    /// progress, several times a second.
    ///
    /// # Errors
    /// [`ClientError::ReadArchive`] if a source fails, [`ClientError::Write`] if `to` does; the
    /// daemon then keeps nothing. [`ClientError::Refused`] with what the daemon says.
    ///
    /// # Cancel safety
    /// Safe: the daemon ends the transfer and keeps nothing partial.
    pub async fn transfer(
        &self,
        from: Start,
        to_what: End,
        platform: &str,
        to: &mut (dyn Write + Send),
        show: &mut (dyn FnMut(Shown) + Send),
    ) -> Result<Transferred, ClientError> {
        let (sender, requests) = mpsc::channel(READ_AHEAD);
        let (source, bytes) = from.into_wire();
        let transfer = v1::Transfer {
            source: Some(v1::Source { kind: Some(source) }),
            destination: Some(v1::Destination { kind: Some(to_what.into_wire()) }),
            platform: platform.to_owned(),
        };
        let first = v1::TransferRequest { part: Some(Part::Transfer(transfer)) };
        // There is room: nobody has sent yet.
        sender.send(first).await.ok();
        let (failed, failure) = oneshot::channel();
        let reading = tokio::task::spawn_blocking(move || {
            if let Some(bytes) = bytes
                && let Err(source) = send_all(bytes, &sender)
            {
                // Held until the call below is dropped: to end the stream would be to say
                // that the archive is complete.
                let _told = failed.send((source, sender));
            }
        });
        let mut client =
            TransfersClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answers = async {
            let mut events = client.transfer(ReceiverStream::new(requests)).await?.into_inner();
            while let Some(event) = events.message().await? {
                match event.event {
                    Some(Event::Progress(progress)) => show(Shown {
                        bytes: progress.bytes,
                        total_bytes: progress.total_bytes,
                        layers_done: progress.layers_done,
                        layers: progress.layers,
                    }),
                    Some(Event::Chunk(chunk)) => {
                        to.write_all(&chunk).map_err(|source| ClientError::Write { source })?;
                    }
                    Some(Event::Result(result)) => return Ok(Transferred::from(result)),
                    None => {}
                }
            }
            Err(ClientError::BrokeOff)
        };
        let outcome = tokio::select! {
            outcome = answers => outcome,
            Ok((source, _sender)) = failure => Err(ClientError::ReadArchive { source }),
        };
        drop(reading);
        outcome
    }

    /// All about an image.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn inspect(&self, image: &str) -> Result<ImageDetails, ClientError> {
        let request = v1::InspectImageRequest { image: image.to_owned() };
        let said = self.store().inspect_image(request).await?.into_inner();
        Ok(ImageDetails {
            id: said.id,
            references: said.references,
            manifest: said.manifest,
            layers: said.layers,
            blobs: said.blobs,
            size_bytes: said.size_bytes,
            pinned: said.pinned,
            config: said.config,
        })
    }

    /// Holds an image against its digests; with a `repair`, damaged layers are fetched again,
    /// with these credentials.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn verify(
        &self,
        image: &str,
        repair: Option<Repair>,
    ) -> Result<Vec<VerifiedObject>, ClientError> {
        let request = v1::VerifyImageRequest {
            image: image.to_owned(),
            repair: repair.is_some(),
            credentials: repair.and_then(|repair| registry(String::new(), repair.0).credentials),
        };
        let said = self.store().verify_image(request).await?.into_inner();
        let objects = said.objects.into_iter().map(|object| {
            use v1::verified::Verdict;
            let level = match object.verdict() {
                Verdict::Intact => Level::Intact,
                Verdict::Damaged => Level::Damaged,
                Verdict::Unproven => Level::Unproven,
            };
            let faults = object.faults.into_iter().map(|fault| (fault.path, fault.what)).collect();
            VerifiedObject { digest: object.digest, level, faults }
        });
        Ok(objects.collect())
    }

    /// Asks every host of a registry for an image.
    ///
    /// # Errors
    /// [`ClientError::Refused`]; what a host says is no error.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn explain(
        &self,
        reference: &str,
        auth: Option<RegistryAuth>,
    ) -> Result<ExplainedRegistry, ClientError> {
        let request = v1::ExplainRequest { image: Some(registry(reference.to_owned(), auth)) };
        let mut service = RegistriesClient::new(self.channel.clone());
        let said = service.explain(request).await?.into_inner();
        let hops = said.hops.into_iter().map(|hop| RegistryHop {
            address: hop.address,
            settings: hop.settings.into_iter().map(|it| (it.name, it.value)).collect(),
            exchanges: hop.exchanges,
            outcome: if hop.digest.is_empty() { Err(hop.error) } else { Ok(hop.digest) },
        });
        let hops = hops.collect();
        Ok(ExplainedRegistry { reference: said.reference, file: said.file, hops })
    }

    /// Every blob and its size in bytes.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn content(&self) -> Result<Vec<Blob>, ClientError> {
        let said = self.store().list_content(v1::ListContentRequest {}).await?.into_inner();
        let blobs = said.blobs.into_iter().map(|blob| Blob {
            digest: blob.digest,
            bytes: blob.bytes,
            leases: blob.leases,
            images: blob.images,
        });
        Ok(blobs.collect())
    }

    /// Deletes blobs and layers that nothing refers to; gives the kind, the name and the bytes
    /// of each.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe; the collection goes on.
    pub async fn collect(&self) -> Result<Vec<(String, String, u64)>, ClientError> {
        let said = self.store().collect_content(v1::CollectContentRequest {}).await?.into_inner();
        let each = said.collected.into_iter().map(|it| (it.kind, it.name, it.bytes));
        Ok(each.collect())
    }

    /// Writes a blob to `to`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] and [`ClientError::Write`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn read_content(
        &self,
        digest: &str,
        to: &mut (dyn Write + Send),
    ) -> Result<(), ClientError> {
        let request = v1::ReadContentRequest { digest: digest.to_owned() };
        let mut chunks = self.store().read_content(request).await?.into_inner();
        while let Some(v1::Chunk { chunk }) = chunks.message().await? {
            to.write_all(&chunk).map_err(|source| ClientError::Write { source })?;
        }
        Ok(())
    }

    /// Deletes a blob that nothing needs.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what needs it.
    ///
    /// # Cancel safety
    /// Safe; the blob may be gone or not.
    pub async fn remove_content(&self, digest: &str) -> Result<(), ClientError> {
        let request = v1::RemoveContentRequest { digest: digest.to_owned() };
        self.store().remove_content(request).await?;
        Ok(())
    }

    /// Why a blob or a layer is there; empty when nothing keeps it.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn why(&self, digest: &str) -> Result<Vec<String>, ClientError> {
        let request = v1::ExplainContentRequest { digest: digest.to_owned() };
        Ok(self.store().explain_content(request).await?.into_inner().reasons)
    }

    /// Layers and writable snapshots.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, ClientError> {
        let said = self.store().list_snapshots(v1::ListSnapshotsRequest {}).await?.into_inner();
        let snapshots = said.snapshots.into_iter().map(|entry| Snapshot {
            name: entry.name,
            kind: entry.kind,
            bytes: entry.bytes,
            inodes: entry.inodes,
        });
        Ok(snapshots.collect())
    }

    /// Removes a snapshot that no container has.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe; the snapshot may be gone or not.
    pub async fn remove_snapshot(&self, key: &str) -> Result<(), ClientError> {
        let request = v1::RemoveSnapshotRequest { key: key.to_owned() };
        self.store().remove_snapshot(request).await?;
        Ok(())
    }

    /// All images.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn images(&self) -> Result<Vec<ListedImage>, ClientError> {
        let request = ListImagesRequest { filter: None };
        let answer = self.image_service().list_images(request).await?.into_inner();
        let listed = answer.images.into_iter().map(|image| ListedImage {
            id: image.id,
            references: if image.repo_tags.is_empty() {
                image.repo_digests
            } else {
                image.repo_tags
            },
            size_bytes: image.size,
        });
        Ok(listed.collect())
    }

    /// Removes the image that `reference` names, an id or a reference, and all its references.
    ///
    /// # Errors
    /// [`ClientError::NoImage`] if there is none; [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe; the image may be gone or not.
    pub async fn remove_image(&self, reference: &str) -> Result<(), ClientError> {
        let mut service = self.image_service();
        let image = Some(ImageSpec { image: reference.to_owned(), ..ImageSpec::default() });
        let asked = ImageStatusRequest { image: image.clone(), verbose: false };
        if service.image_status(asked).await?.into_inner().image.is_none() {
            return Err(ClientError::NoImage { reference: reference.to_owned() });
        }
        service.remove_image(RemoveImageRequest { image }).await?;
        Ok(())
    }

    /// The daemon's version.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn version(&self) -> Result<String, ClientError> {
        let request = VersionRequest { version: "v1".to_owned() };
        let mut asked = RuntimeServiceClient::new(self.channel.clone());
        Ok(asked.version(request).await?.into_inner().runtime_version)
    }

    fn store(&self) -> StoreClient<Channel> {
        StoreClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn image_service(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// Reads `archive` to its end. Blocking; stops when nobody takes the chunks any more.
fn send_all(mut archive: impl Read, chunks: &mpsc::Sender<v1::TransferRequest>) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let limit = CHUNK_BYTES as u64;
        archive.by_ref().take(limit).read_to_end(&mut chunk)?;
        let ended = chunk.is_empty();
        let request = v1::TransferRequest { part: Some(Part::Chunk(chunk)) };
        if ended || chunks.blocking_send(request).is_err() {
            return Ok(());
        }
    }
}
