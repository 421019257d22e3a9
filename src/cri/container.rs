//! RPCs about containers.

use std::collections::HashMap;
use std::time::Duration;

use cri_api::v1;
use serde_json::json;
use tonic::Status;

use super::convert::request::{self, present};
use super::convert::{container, filter, stats};
use crate::pods::Pods;
use crate::pods::record::ContainerRequest;

/// `CreateContainer`.
pub(super) async fn create(
    pods: &Pods,
    request: v1::CreateContainerRequest,
) -> Result<v1::CreateContainerResponse, Status> {
    let (pod, config) = request::create_container(request)?;
    let container_id = pods.create_container(&pod, ContainerRequest { config }).await?;
    Ok(v1::CreateContainerResponse { container_id })
}

/// `StartContainer`.
pub(super) async fn start(
    pods: &Pods,
    request: v1::StartContainerRequest,
) -> Result<v1::StartContainerResponse, Status> {
    present("container_id", &request.container_id)?;
    pods.start_container(&request.container_id).await?;
    Ok(v1::StartContainerResponse {})
}

/// `StopContainer`.
pub(super) async fn stop(
    pods: &Pods,
    request: v1::StopContainerRequest,
) -> Result<v1::StopContainerResponse, Status> {
    let grace = Duration::from_secs(request::stop_container(&request)?);
    pods.stop_container(&request.container_id, grace).await?;
    Ok(v1::StopContainerResponse {})
}

/// `RemoveContainer`.
pub(super) async fn remove(
    pods: &Pods,
    request: v1::RemoveContainerRequest,
) -> Result<v1::RemoveContainerResponse, Status> {
    present("container_id", &request.container_id)?;
    pods.remove_container(&request.container_id).await?;
    Ok(v1::RemoveContainerResponse {})
}

/// `UpdateContainerResources`.
pub(super) async fn update_resources(
    pods: &Pods,
    request: v1::UpdateContainerResourcesRequest,
) -> Result<v1::UpdateContainerResourcesResponse, Status> {
    let (id, asked) = request::update_container_resources(request)?;
    pods.update_container_resources(&id, asked).await?;
    Ok(v1::UpdateContainerResourcesResponse {})
}

/// `ContainerStatus`.
pub(super) fn status(
    pods: &Pods,
    request: &v1::ContainerStatusRequest,
) -> Result<v1::ContainerStatusResponse, Status> {
    present("container_id", &request.container_id)?;
    let view = pods.container(&request.container_id)?;
    let mut info = HashMap::new();
    if request.verbose {
        let said = json!({ "sandboxID": view.pod, "pid": view.pid, "record": view.record });
        info.insert("info".to_owned(), said.to_string());
    }
    Ok(v1::ContainerStatusResponse { status: Some(container::container_status(&view)), info })
}

/// The items of `ListContainers` and `StreamContainers`, made when they are asked for.
pub(super) fn list(
    pods: &Pods,
    filter: Option<&v1::ContainerFilter>,
) -> Result<impl Iterator<Item = v1::Container> + Send + use<>, Status> {
    let filter = filter::Containers::of_list(filter)?;
    let mut views = pods.containers();
    views.retain(|view| {
        filter.means(&view.id, &view.pod, container::state(view), &view.request.config.labels)
    });
    Ok(views.into_iter().map(|view| container::container(&view)))
}

/// `ContainerStats`.
pub(super) async fn stats(pods: &Pods, id: &str) -> Result<v1::ContainerStats, Status> {
    present("container_id", id)?;
    let (view, usage) = pods.container_stats(id).await?;
    Ok(stats::container(&view, &usage))
}

/// `ListContainerStats`, whole: containers that are not running have none.
pub(super) async fn list_stats(
    pods: &Pods,
    filter: Option<&v1::ContainerStatsFilter>,
) -> Result<Vec<v1::ContainerStats>, Status> {
    let filter = filter::Containers::of_stats(filter);
    let mut views = pods.containers();
    views.retain(|view| {
        filter.means(&view.id, &view.pod, container::state(view), &view.request.config.labels)
    });
    let used = pods.containers_stats(views).await?;
    Ok(used.iter().map(|(view, usage)| stats::container(view, usage)).collect())
}

/// `ExecSync`.
pub(super) async fn exec_sync(
    pods: &Pods,
    request: v1::ExecSyncRequest,
) -> Result<v1::ExecSyncResponse, Status> {
    let limit = request::exec_sync(&request)?.map(Duration::from_secs);
    let output = pods.exec_sync(&request.container_id, request.cmd, limit).await?;
    Ok(v1::ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code,
    })
}

/// `ReopenContainerLog`.
pub(super) async fn reopen_log(
    pods: &Pods,
    request: v1::ReopenContainerLogRequest,
) -> Result<v1::ReopenContainerLogResponse, Status> {
    present("container_id", &request.container_id)?;
    pods.reopen_container_log(&request.container_id).await?;
    Ok(v1::ReopenContainerLogResponse {})
}
