//! `orlop.admin.v1.Store`: what is in the store, why, and whether it is as it should be.

use std::io::Read as _;
use std::pin::Pin;

use arc_swap::ArcSwap;
use futures_util::Stream;
use tokio::sync::mpsc::channel;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::content::Digest;
use crate::images::{
    ContentRemoveError, Images, Layered, Pinning, Progress, Verdict, is_containers,
};
use crate::snapshots::SnapshotKey;

use super::refusal::{Refused, invalid};
use super::transfers::read_credentials;
use super::v1;
use super::v1::store_server::{Store as Api, StoreServer};

/// How much of a blob goes into one message.
const CHUNK_BYTES: u64 = 256 << 10;
/// Messages that wait for the connection.
const WAITING: usize = 4;

/// The API on top of `images`, to be served.
#[must_use]
pub fn store(images: Images) -> StoreServer<impl Api> {
    StoreServer::new(StoreApi { images })
}

#[derive(Debug)]
struct StoreApi {
    images: Images,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

#[tonic::async_trait]
impl Api for StoreApi {
    type ReadContentStream = Chunks;

    async fn inspect_image(
        &self,
        request: Request<v1::InspectImageRequest>,
    ) -> Result<Response<v1::InspectImageResponse>, Status> {
        let name = request.into_inner().image;
        let image = self.images.named(&name).map_err(|error| error.refusal())?;
        Ok(Response::new(v1::InspectImageResponse {
            id: image.id.to_string(),
            references: image.references().cloned().collect(),
            manifest: image.manifest.to_string(),
            layers: image.layers.iter().map(Digest::to_string).collect(),
            blobs: image.blobs.iter().map(Digest::to_string).collect(),
            size_bytes: image.size_bytes,
            pinned: image.pinned == Pinning::Pinned,
            config: image.config_bytes.to_vec(),
        }))
    }

    async fn verify_image(
        &self,
        request: Request<v1::VerifyImageRequest>,
    ) -> Result<Response<v1::VerifyImageResponse>, Status> {
        let v1::VerifyImageRequest { image, repair, credentials } = request.into_inner();
        let progress = ArcSwap::from_pointee(Progress::default());
        let verified = if repair {
            let credentials = read_credentials(credentials.as_ref())?;
            self.images.repair(&image, credentials.as_ref(), &progress).await
        } else {
            self.images.verify(&image, &progress).await
        };
        let verified = verified.map_err(|error| error.refusal())?;
        let objects = verified.into_iter().map(object).collect();
        Ok(Response::new(v1::VerifyImageResponse { objects }))
    }

    async fn list_content(
        &self,
        _request: Request<v1::ListContentRequest>,
    ) -> Result<Response<v1::ListContentResponse>, Status> {
        let blobs = self.images.blobs().into_iter().map(|blob| v1::Blob {
            digest: blob.digest.to_string(),
            bytes: blob.bytes,
            leases: blob.leases as u64,
            images: blob.images as u64,
        });
        Ok(Response::new(v1::ListContentResponse { blobs: blobs.collect() }))
    }

    async fn read_content(
        &self,
        request: Request<v1::ReadContentRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let digest = digest(&request.into_inner().digest)?;
        let images = self.images.clone();
        let (chunks, received) = channel(WAITING);
        let mut file = blocking(move || images.open_blob(&digest))
            .await?
            .map_err(|error| Status::new(Code::NotFound, error.to_string()))?;
        // It ends with the file, or when nobody takes the chunks any more.
        tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = Vec::new();
                let read = file.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk);
                let next = match read {
                    Ok(0) => return,
                    Ok(_) => Ok(v1::Chunk { chunk }),
                    Err(error) => Err(Status::new(Code::Internal, error.to_string())),
                };
                let ended = next.is_err();
                if chunks.blocking_send(next).is_err() || ended {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }

    async fn remove_content(
        &self,
        request: Request<v1::RemoveContentRequest>,
    ) -> Result<Response<v1::RemoveContentResponse>, Status> {
        let digest = digest(&request.into_inner().digest)?;
        self.images.remove_blob(&digest).await.map_err(|error| error.refusal())?;
        Ok(Response::new(v1::RemoveContentResponse {}))
    }

    async fn collect_content(
        &self,
        _request: Request<v1::CollectContentRequest>,
    ) -> Result<Response<v1::CollectContentResponse>, Status> {
        let swept = self.images.sweep().await.map_err(|error| error.refusal())?;
        let collected = |name, kind: &str, bytes| {
            let kind = kind.to_owned();
            v1::Collected { name, kind, bytes }
        };
        let blobs = swept.blobs.into_iter();
        let blobs = blobs.map(|(digest, bytes)| collected(digest.to_string(), "blob", bytes));
        let layers = swept.layers.into_iter();
        let layers = layers.map(|(name, usage)| collected(name, "layer", usage.bytes));
        let collected = blobs.chain(layers).collect();
        Ok(Response::new(v1::CollectContentResponse { collected }))
    }

    async fn explain_content(
        &self,
        request: Request<v1::ExplainContentRequest>,
    ) -> Result<Response<v1::ExplainContentResponse>, Status> {
        let digest = digest(&request.into_inner().digest)?;
        let Some(reasons) = self.images.why(&digest) else {
            let message = format!("there is no blob or layer {digest}");
            return Err(Status::new(Code::NotFound, message));
        };
        let reasons = reasons.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::ExplainContentResponse { reasons }))
    }

    async fn list_snapshots(
        &self,
        _request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        let images = self.images.clone();
        let listed = blocking(move || images.snapshots()).await?;
        let listed = listed.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        let snapshots = listed.into_iter().map(|snapshot| v1::SnapshotEntry {
            name: snapshot.name,
            kind: snapshot.kind.to_owned(),
            bytes: snapshot.usage.bytes,
            inodes: snapshot.usage.inodes,
        });
        Ok(Response::new(v1::ListSnapshotsResponse { snapshots: snapshots.collect() }))
    }

    async fn remove_snapshot(
        &self,
        request: Request<v1::RemoveSnapshotRequest>,
    ) -> Result<Response<v1::RemoveSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let key = SnapshotKey::parse(&key).map_err(|error| invalid(&error.to_string()))?;
        if is_containers(&key) {
            let message = format!("snapshot {key} belongs to a container");
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        let images = self.images.clone();
        let removed = blocking(move || images.remove_snapshot(&key)).await?;
        removed.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        Ok(Response::new(v1::RemoveSnapshotResponse {}))
    }
}

impl Refused for ContentRemoveError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::InUse { .. } => Code::FailedPrecondition,
            Self::Record { .. } | Self::Collect(_) | Self::Interrupted(_) => Code::Internal,
        }
    }
}

fn object(layered: Layered) -> v1::Verified {
    use v1::verified::Verdict as Said;
    let (verdict, faults) = match layered.verdict {
        Verdict::Intact => (Said::Intact, Vec::new()),
        Verdict::Damaged(faults) => {
            let faults = faults.into_iter().map(|fault| v1::Fault {
                path: fault.path.to_string_lossy().into_owned(),
                what: fault.what,
            });
            (Said::Damaged, faults.collect())
        }
        Verdict::Unproven(what) => (Said::Unproven, vec![v1::Fault { path: String::new(), what }]),
    };
    v1::Verified { digest: layered.digest.to_string(), verdict: verdict.into(), faults }
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|error: crate::content::DigestError| invalid(&error.to_string()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::new(Code::Internal, error.to_string()))
}
