//! `orlop.admin.v1.Images`: what CRI cannot say about images.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::images::{Image, Images, ImportError};

use super::archive::{ArchiveWriter, NoReader, archive};
use super::v1;
use super::v1::images_server::{Images as Api, ImagesServer};

/// The largest message that is taken: a chunk of an archive.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The API on top of `images`, to be served.
#[must_use]
pub fn images(images: Images) -> ImagesServer<impl Api> {
    ImagesServer::new(ImageApi { images }).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[derive(Debug)]
struct ImageApi {
    images: Images,
}

#[tonic::async_trait]
impl Api for ImageApi {
    async fn import(
        &self,
        request: Request<Streaming<v1::ImportRequest>>,
    ) -> Result<Response<v1::ImportResponse>, Status> {
        let (writer, reader) = archive();
        let importing = self.images.import(reader);
        tokio::pin!(importing);
        let outcome = tokio::select! {
            outcome = &mut importing => outcome,
            () = receive(request.into_inner(), writer) => importing.await,
        };
        let images = outcome.map_err(|error| refusal(&error))?;
        let images = images.iter().map(imported).collect();
        Ok(Response::new(v1::ImportResponse { images }))
    }
}

/// Passes the chunks on. A stream that fails has no end, so the import fails too.
async fn receive(mut chunks: Streaming<v1::ImportRequest>, writer: ArchiveWriter) {
    while let Some(next) = chunks.next().await {
        match next {
            Ok(v1::ImportRequest { chunk }) => {
                if let Err(NoReader) = writer.write(chunk).await {
                    return;
                }
            }
            Err(broken) => {
                tracing::debug!(error = %broken, "the archive breaks off");
                return;
            }
        }
    }
    if let Err(NoReader) = writer.end().await {
        // The import has failed already, and says so.
    }
}

fn imported(image: &Arc<Image>) -> v1::ImportedImage {
    let references = if image.tags.is_empty() { &image.digests } else { &image.tags };
    v1::ImportedImage { id: image.id.to_string(), references: references.clone() }
}

/// The whole story for the one who asked, and whose fault it is.
fn refusal(error: &ImportError) -> Status {
    let code = match error {
        ImportError::Transfer(_) => match cause(error) {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Code::ResourceExhausted,
            Some(_) => Code::Internal,
            None => Code::InvalidArgument,
        },
        ImportError::Commit(_) | ImportError::Interrupted(_) => Code::Internal,
        ImportError::Cancelled => Code::Cancelled,
    };
    let causes = causes(error).skip(1);
    let message = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    Status::new(code, message)
}

/// What the operating system complained about, if it did.
fn cause(error: &ImportError) -> Option<ErrorKind> {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find(|cause| cause.raw_os_error().is_some())
        .map(io::Error::kind)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause| (*cause).source())
}
