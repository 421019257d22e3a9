//! Writing to a repository: blobs whose digest is known or comes out on the way, blobs that the
//! registry takes from another repository, and manifests.
//!
//! All of a push goes to one host, the first that may be pushed to. A body passes through a
//! channel of a few pieces, so nothing of a blob's length is ever in memory. Invariant: a body
//! ends well only when its source said so; a source that fails makes the request fail, and the
//! registry keeps nothing.
//!
//! Specification:
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-blobs>

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use reqwest::Method;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use url::Url;

use super::endpoint::{Endpoint, Extent, Request, Upload};
use super::error::{HostsFailed, RequestError};
use super::{Session, failure};
use crate::content::Digest;

/// Pieces between the source of a body and the network.
const PIECES: usize = 8;
const BYTES: &str = "application/octet-stream";

/// What goes through the channel.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    Failed(io::Error),
    End,
}

/// The side of a body that gives the bytes.
#[derive(Debug, Clone)]
pub(in crate::transfer) struct Body(Sender<Piece>);

impl Body {
    /// Passes on the next bytes; `false` when nobody takes them any more.
    pub(in crate::transfer) async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// As [`Self::send`], for threads that may block.
    pub(in crate::transfer) fn send_blocking(&self, bytes: Bytes) -> bool {
        self.0.blocking_send(Piece::Bytes(bytes)).is_ok()
    }

    /// Says that these were all bytes.
    pub(in crate::transfer) async fn end(self) {
        self.0.send(Piece::End).await.ok();
    }

    /// As [`Self::end`], for threads that may block.
    pub(in crate::transfer) fn end_blocking(self) {
        self.0.blocking_send(Piece::End).ok();
    }

    /// Breaks the request off.
    pub(in crate::transfer) fn fail_blocking(self, error: io::Error) {
        self.0.blocking_send(Piece::Failed(error)).ok();
    }
}

/// The side of a body that is sent.
#[derive(Debug)]
pub(in crate::transfer) struct Content {
    pieces: Receiver<Piece>,
    left: Option<u64>,
    ended: bool,
}

/// Both sides of a body, of `bytes` where that is known.
pub(in crate::transfer) fn body(bytes: Option<u64>) -> (Body, Content) {
    let (sender, pieces) = channel(PIECES);
    (Body(sender), Content { pieces, left: bytes, ended: false })
}

impl hyper::body::Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Bytes(bytes)) => {
                let length = bytes.len() as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Piece::End) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Some(Piece::Failed(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let gone = "the source of the upload is gone";
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, gone))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// How an upload begins.
#[derive(Debug)]
pub(in crate::transfer) enum Started {
    /// The registry took the blob from another repository.
    Mounted,
    /// Its bytes are to be sent there.
    Upload(Url),
}

impl Session {
    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// [`HostsFailed`] when the host does not say.
    pub(in crate::transfer) async fn has_blob(&self, digest: &Digest) -> Result<bool, HostsFailed> {
        let endpoint = self.pusher()?;
        let request = Request {
            method: Method::HEAD,
            path: format!("blobs/{digest}"),
            accept: None,
            extent: Extent::default(),
            query: Vec::new(),
        };
        match endpoint.request(&request).await {
            Ok(_) => Ok(true),
            Err(RequestError::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed(endpoint, error)),
        }
    }

    /// Begins an upload; with `mount` asks for the blob of another repository first.
    ///
    /// # Errors
    /// [`HostsFailed`] when the host refuses.
    pub(in crate::transfer) async fn start_upload(
        &self,
        mount: Option<(&Digest, &str)>,
    ) -> Result<Started, HostsFailed> {
        let endpoint = self.pusher()?;
        let query = mount
            .into_iter()
            .flat_map(|(digest, from)| [("mount", digest.to_string()), ("from", from.to_owned())]);
        let request = Request {
            method: Method::POST,
            path: "blobs/uploads/".to_owned(),
            accept: None,
            extent: Extent::default(),
            query: query.collect(),
        };
        let answer = endpoint.request(&request).await.map_err(|error| failed(endpoint, error))?;
        if mount.is_some() && answer.status().as_u16() == 201 {
            return Ok(Started::Mounted);
        }
        let location = endpoint.location(&answer).map_err(|error| failed(endpoint, error))?;
        Ok(Started::Upload(location))
    }

    /// Sends a blob whose digest is known, in one request.
    ///
    /// # Errors
    /// [`HostsFailed`] when it is not taken.
    pub(in crate::transfer) async fn send_known(
        &self,
        to: Url,
        digest: &Digest,
        content: Content,
    ) -> Result<(), HostsFailed> {
        let endpoint = self.pusher()?;
        let body = reqwest::Body::wrap(content);
        let url = with_digest(to, digest);
        let upload = Upload { method: Method::PUT, url, media_type: BYTES, body };
        endpoint.upload(upload).await.map(drop).map_err(|error| failed(endpoint, error))
    }

    /// Sends a blob whose digest comes out on the way; gives where to say it.
    ///
    /// # Errors
    /// [`HostsFailed`] when it is not taken.
    pub(in crate::transfer) async fn send_unknown(
        &self,
        to: Url,
        content: Content,
    ) -> Result<Url, HostsFailed> {
        let endpoint = self.pusher()?;
        let body = reqwest::Body::wrap(content);
        let upload = Upload { method: Method::PATCH, url: to, media_type: BYTES, body };
        let answer = endpoint.upload(upload).await.map_err(|error| failed(endpoint, error))?;
        endpoint.location(&answer).map_err(|error| failed(endpoint, error))
    }

    /// Ends an upload by saying the digest of what was sent.
    ///
    /// # Errors
    /// [`HostsFailed`] when the registry received something else.
    pub(in crate::transfer) async fn finish_upload(
        &self,
        at: Url,
        digest: &Digest,
    ) -> Result<(), HostsFailed> {
        let (body, content) = body(Some(0));
        body.end().await;
        self.send_known(at, digest, content).await
    }

    /// Puts a manifest or an index under a tag or its digest.
    ///
    /// # Errors
    /// [`HostsFailed`] when it is not taken.
    pub(in crate::transfer) async fn put_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), HostsFailed> {
        let endpoint = self.pusher()?;
        let put = endpoint.put(&format!("manifests/{name}"), media_type, bytes).await;
        put.map(drop).map_err(|error| failed(endpoint, error))
    }

    /// The host that everything is pushed to.
    fn pusher(&self) -> Result<&Endpoint, HostsFailed> {
        let mut can = self.endpoints_that(|capabilities| capabilities.push);
        can.next().ok_or_else(HostsFailed::default)
    }
}

fn with_digest(mut url: Url, digest: &Digest) -> Url {
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}

fn failed(endpoint: &Endpoint, error: RequestError) -> HostsFailed {
    HostsFailed { tried: vec![failure(endpoint, error)] }
}
