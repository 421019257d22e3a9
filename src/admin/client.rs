//! The command line as a client of a running daemon: both APIs on its socket.

use std::io::{self, Read};
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

use super::v1::ImportRequest;
use super::v1::images_client::ImagesClient;

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

/// An image that an archive held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// Its id.
    pub id: String,
    /// The references it has now.
    pub references: Vec<String>,
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

    /// Sends an archive and returns the images it held.
    ///
    /// # Errors
    /// [`ClientError::ReadArchive`] if `archive` fails; the daemon then keeps nothing of it.
    /// [`ClientError::Refused`] with what the daemon says about the archive.
    ///
    /// # Cancel safety
    /// Safe: the daemon keeps nothing of an archive that breaks off.
    pub async fn import(
        &self,
        archive: impl Read + Send + 'static,
    ) -> Result<Vec<ImportedImage>, ClientError> {
        let (sender, chunks) = mpsc::channel(READ_AHEAD);
        let (failed, failure) = oneshot::channel();
        let reading = tokio::task::spawn_blocking(move || {
            if let Err(source) = send_all(archive, &sender) {
                // Held until the call below is dropped: to end the stream would be to say
                // that the archive is complete.
                let _told = failed.send((source, sender));
            }
        });
        let mut images = ImagesClient::new(self.channel.clone());
        let answer = tokio::select! {
            answer = images.import(ReceiverStream::new(chunks)) => answer?.into_inner(),
            Ok((source, _sender)) = failure => return Err(ClientError::ReadArchive { source }),
        };
        drop(reading);
        let images = answer.images.into_iter();
        Ok(images
            .map(|image| ImportedImage { id: image.id, references: image.references })
            .collect())
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

    fn image_service(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// Reads `archive` to its end. Blocking; stops when nobody takes the chunks any more.
fn send_all(mut archive: impl Read, chunks: &mpsc::Sender<ImportRequest>) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let limit = CHUNK_BYTES as u64;
        archive.by_ref().take(limit).read_to_end(&mut chunk)?;
        if chunk.is_empty() || chunks.blocking_send(ImportRequest { chunk }).is_err() {
            return Ok(());
        }
    }
}
