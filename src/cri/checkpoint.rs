//! RPCs about checkpoints, and about what is restored from them.

use std::path::Path;
use std::time::Duration;

use cri_api::v1;
use tonic::Status;

use super::convert::request::{self, InvalidRequest, present};
use crate::pods::Pods;
use crate::pods::record::{ContainerRequest, PodRequest};
use crate::pods::spec;

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

/// `RestorePod`.
pub(super) async fn restore(
    pods: &Pods,
    request: v1::RestorePodRequest,
) -> Result<v1::RestorePodResponse, Status> {
    let v1::RestorePodRequest {
        checkpoint_path,
        config,
        runtime_handler,
        options,
        container_configs,
    } = request;
    present("checkpoint_path", &checkpoint_path)?;
    let run = v1::RunPodSandboxRequest { config, runtime_handler };
    let (config, runtime_handler) = request::run_pod_sandbox(run)?;
    for container in &container_configs {
        request::container(container)?;
        spec::log_path(&config, container).map_err(InvalidRequest::from)?;
    }
    let request = PodRequest { config, runtime_handler };
    let containers = container_configs.into_iter().map(|config| ContainerRequest { config });
    let (from, options) = (Path::new(&checkpoint_path), options.into_keys());
    let restored = pods.restore_pod(request, from, containers.collect(), options).await?;
    let containers = restored.containers.into_iter();
    let containers =
        containers.map(|(name, container_id)| v1::RestoredContainer { name, container_id });
    Ok(v1::RestorePodResponse {
        pod_sandbox_id: restored.pod,
        restored_containers: containers.collect(),
    })
}
