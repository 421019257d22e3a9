//! RPCs about images.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use cri_api::v1;
use serde_json::{Value, json};
use tonic::Status;

use super::convert::image::{filtered, image};
use super::convert::request::InvalidRequest;
use crate::images::{AuthFields, Credentials, Image, Images, Reference};
use crate::pods::Pods;

/// The items of `ListImages` and `StreamImages`.
pub(super) fn list(
    images: &Images,
    filter: Option<&v1::ImageFilter>,
) -> impl Iterator<Item = v1::Image> + Send + use<> {
    filtered(images, filter).into_iter().map(|found| image(&found))
}

/// `ImageStatus`; an image that is not there is no error.
pub(super) fn status(
    images: &Images,
    request: v1::ImageStatusRequest,
) -> Result<v1::ImageStatusResponse, Status> {
    let found = images.find(&named(request.image)?.image)?;
    let mut info = HashMap::new();
    if let Some(found) = found.as_ref().filter(|_| request.verbose) {
        info.insert("info".to_owned(), said(found).to_string());
    }
    Ok(v1::ImageStatusResponse { image: found.as_deref().map(image), info })
}

/// `PullImage`.
pub(super) async fn pull(
    pods: &Pods,
    images: &Images,
    request: v1::PullImageRequest,
) -> Result<v1::PullImageResponse, Status> {
    let spec = named(request.image)?;
    let handler = spec.runtime_handler;
    if !handler.is_empty() && !pods.handlers().contains(&handler) {
        return Err(InvalidRequest::Text {
            field: "image.runtime_handler",
            value: handler,
            allowed: "a runtime handler of this node",
        }
        .into());
    }
    let reference = Reference::parse(&spec.image)?;
    let credentials = credentials(request.auth.as_ref())?;
    let pulled = images.pull(&reference, credentials.as_ref()).await?;
    Ok(v1::PullImageResponse { image_ref: pulled.id.to_string() })
}

/// `RemoveImage`.
pub(super) async fn remove(
    images: &Images,
    request: v1::RemoveImageRequest,
) -> Result<v1::RemoveImageResponse, Status> {
    images.remove(&named(request.image)?.image).await?;
    Ok(v1::RemoveImageResponse {})
}

/// `ImageFsInfo`. Images and containers are on one file system, so both name the same
/// place.
pub(super) fn fs_info(images: &Images) -> v1::ImageFsInfoResponse {
    let usage = images.fs_usage();
    let mountpoint = usage.directory.to_string_lossy().into_owned();
    let timestamp = now_ns();
    let filesystem = |bytes, inodes| v1::FilesystemUsage {
        timestamp,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.clone() }),
        used_bytes: Some(v1::UInt64Value { value: bytes }),
        inodes_used: Some(v1::UInt64Value { value: inodes }),
    };
    v1::ImageFsInfoResponse {
        image_filesystems: vec![filesystem(usage.images.bytes, usage.images.inodes)],
        container_filesystems: vec![filesystem(usage.containers.bytes, usage.containers.inodes)],
    }
}

/// The image of a request, which must have a name.
fn named(spec: Option<v1::ImageSpec>) -> Result<v1::ImageSpec, InvalidRequest> {
    spec.filter(|spec| !spec.image.is_empty()).ok_or(InvalidRequest::Missing("image.image"))
}

fn credentials(auth: Option<&v1::AuthConfig>) -> Result<Option<Credentials>, Status> {
    let Some(auth) = auth else { return Ok(None) };
    Ok(Credentials::parse(AuthFields {
        username: &auth.username,
        password: &auth.password,
        auth: &auth.auth,
        server_address: &auth.server_address,
        identity_token: &auth.identity_token,
        registry_token: &auth.registry_token,
    })?)
}

/// What is said only when asked for.
fn said(image: &Image) -> Value {
    let words = |digests: &[_]| digests.iter().map(ToString::to_string).collect::<Vec<String>>();
    let config: Value = serde_json::from_slice(&image.config_bytes).unwrap_or(Value::Null);
    json!({
        "manifest": image.manifest.to_string(),
        "layers": words(&image.layers),
        "imageSpec": config,
    })
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
