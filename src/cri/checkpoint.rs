//! RPCs about checkpoints.

use std::path::Path;
use std::time::Duration;

use cri_api::v1;
use tonic::Status;

use super::convert::request::{self, present};
use crate::pods::Pods;

/// `CheckpointContainer`.
pub(super) async fn container(
    pods: &Pods,
    request: v1::CheckpointContainerRequest,
) -> Result<v1::CheckpointContainerResponse, Status> {
    let limit = request::checkpoint_container(&request)?.map(Duration::from_secs);
    let location = Path::new(&request.location);
    pods.checkpoint_container(&request.container_id, location, limit).await?;
    Ok(v1::CheckpointContainerResponse {})
}

/// `CheckpointPod`.
pub(super) async fn pod(
    pods: &Pods,
    request: v1::CheckpointPodRequest,
) -> Result<v1::CheckpointPodResponse, Status> {
    present("pod_sandbox_id", &request.pod_sandbox_id)?;
    let output = Path::new(&request.output_path);
    let options = request.options.into_keys();
    pods.checkpoint_pod(&request.pod_sandbox_id, output, &request.container_ids, options).await?;
    Ok(v1::CheckpointPodResponse {})
}
