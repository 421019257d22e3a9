//! RPCs about pods.

use std::collections::HashMap;

use cri_api::v1;
use serde_json::json;
use tonic::Status;

use super::convert::request::{self, present};
use super::convert::{container, filter, metrics, pod, stats};
use crate::pods::Pods;
use crate::pods::record::{PodRequest, PodResources};

/// `RunPodSandbox`.
pub(super) async fn run(
    pods: &Pods,
    request: v1::RunPodSandboxRequest,
) -> Result<v1::RunPodSandboxResponse, Status> {
    let (config, runtime_handler) = request::run_pod_sandbox(request)?;
    let pod_sandbox_id = pods.run_pod_sandbox(PodRequest { config, runtime_handler }).await?;
    Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
}

/// `StopPodSandbox`.
pub(super) async fn stop(
    pods: &Pods,
    request: v1::StopPodSandboxRequest,
) -> Result<v1::StopPodSandboxResponse, Status> {
    present("pod_sandbox_id", &request.pod_sandbox_id)?;
    pods.stop_pod_sandbox(&request.pod_sandbox_id).await?;
    Ok(v1::StopPodSandboxResponse {})
}

/// `RemovePodSandbox`.
pub(super) async fn remove(
    pods: &Pods,
    request: v1::RemovePodSandboxRequest,
) -> Result<v1::RemovePodSandboxResponse, Status> {
    present("pod_sandbox_id", &request.pod_sandbox_id)?;
    pods.remove_pod_sandbox(&request.pod_sandbox_id).await?;
    Ok(v1::RemovePodSandboxResponse {})
}

/// `UpdatePodSandboxResources`: shown by a verbose `PodSandboxStatus`, in its record.
pub(super) async fn update_resources(
    pods: &Pods,
    request: v1::UpdatePodSandboxResourcesRequest,
) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
    present("pod_sandbox_id", &request.pod_sandbox_id)?;
    let said = PodResources {
        resources: request.resources.as_ref().map(Into::into),
        overhead: request.overhead.as_ref().map(Into::into),
    };
    pods.update_pod_resources(&request.pod_sandbox_id, said).await?;
    Ok(v1::UpdatePodSandboxResourcesResponse {})
}

/// `PodSandboxStatus`, with the containers of the same instant as events carry them.
pub(super) fn status(
    pods: &Pods,
    request: &v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse, Status> {
    present("pod_sandbox_id", &request.pod_sandbox_id)?;
    let view = pods.pod(&request.pod_sandbox_id)?;
    let mut info = HashMap::new();
    if request.verbose {
        let said = json!({ "pid": view.shim().map(|shim| shim.pid), "record": view.record });
        info.insert("info".to_owned(), said.to_string());
    }
    Ok(v1::PodSandboxStatusResponse {
        status: Some(pod::pod_sandbox_status(&view)),
        info,
        containers_statuses: container::containers_statuses(&view),
        timestamp: view.at_ns,
    })
}

/// The items of `ListPodSandbox` and `StreamPodSandboxes`, made when they are asked for.
pub(super) fn list(
    pods: &Pods,
    filter: Option<&v1::PodSandboxFilter>,
) -> Result<impl Iterator<Item = v1::PodSandbox> + Send + use<>, Status> {
    let filter = filter::Pods::of_list(filter)?;
    let mut views = pods.pods();
    views.retain(|view| filter.means(&view.id, pod::state(view), &view.request.config.labels));
    Ok(views.into_iter().map(|view| pod::pod_sandbox(&view)))
}

/// `PodSandboxStats`.
pub(super) async fn stats(pods: &Pods, id: &str) -> Result<v1::PodSandboxStats, Status> {
    present("pod_sandbox_id", id)?;
    let (view, usage) = pods.pod_stats(id).await?;
    Ok(stats::pod(&view, &usage))
}

/// The items of `ListPodSandboxStats` and `StreamPodSandboxStats`: pods that are not ready
/// have none.
pub(super) async fn list_stats(
    pods: &Pods,
    filter: Option<&v1::PodSandboxStatsFilter>,
) -> Result<Vec<v1::PodSandboxStats>, Status> {
    let filter = filter::Pods::of_stats(filter);
    let mut views = pods.pods();
    views.retain(|view| filter.means(&view.id, pod::state(view), &view.request.config.labels));
    let used = pods.pods_stats(views).await?;
    Ok(used.iter().map(|(view, usage)| stats::pod(view, usage)).collect())
}

/// The items of `ListPodSandboxMetrics` and `StreamPodSandboxMetrics`.
pub(super) async fn metrics(
    pods: &Pods,
) -> Result<impl Iterator<Item = v1::PodSandboxMetrics> + Send + use<>, Status> {
    Ok(metrics::pods(pods.metrics().await?))
}
