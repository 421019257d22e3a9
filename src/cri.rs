//! CRI v1: wire to domain and back, nothing else.
//!
//! Every RPC is a line here and a function of its group: check the request, ask the
//! domain, say the answer. Nothing blocks; a client that goes away stops waiting and
//! stops nothing that must be finished.
//!
//! # References
//! - [CRI](https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto)

mod checkpoint;
mod container;
/// Messages to and from the words of the modules below.
pub mod convert;
/// Clients' deadlines.
pub mod deadline;
mod events;
mod image;
mod lists;
mod node;
mod pod_sandbox;
mod status;
mod streaming;

use cri_api::v1;
use cri_api::v1::image_service_server::{ImageService, ImageServiceServer};
use cri_api::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::images::Images;
use crate::pods::Pods;
use crate::streaming::Urls;
use lists::{Chunks, chunks, whole};
pub use streaming::PodTarget;

/// The largest message, either way; what the kubelet takes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

type Answer<T> = Result<Response<T>, Status>;

/// Both services, to be served on one socket. Streaming requests are answered with `urls`.
#[must_use]
pub fn routes(pods: Pods, images: Images, urls: Urls) -> Routes {
    let of_pods =
        RuntimeServiceServer::new(PodApi { pods: pods.clone(), images: images.clone(), urls })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let of_images = ImageServiceServer::new(ImageApi { pods, images })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(of_pods).add_service(of_images)
}

/// `runtime.v1.RuntimeService`.
struct PodApi {
    pods: Pods,
    images: Images,
    urls: Urls,
}

/// `runtime.v1.ImageService`.
struct ImageApi {
    pods: Pods,
    images: Images,
}

fn answer<T>(outcome: Result<T, Status>) -> Answer<T> {
    outcome.map(Response::new)
}

#[tonic::async_trait]
impl RuntimeService for PodApi {
    async fn version(&self, _request: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(node::version()))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        Ok(Response::new(node::status(&self.pods, &self.images, request.get_ref()).await))
    }

    async fn runtime_config(
        &self,
        _request: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        Ok(Response::new(node::config(&self.pods)))
    }

    async fn update_runtime_config(
        &self,
        _request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        answer(pod_sandbox::run(&self.pods, request.into_inner()).await)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        answer(pod_sandbox::stop(&self.pods, request.into_inner()).await)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        answer(pod_sandbox::remove(&self.pods, request.into_inner()).await)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        answer(pod_sandbox::status(&self.pods, request.get_ref()))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let items = pod_sandbox::list(&self.pods, request.get_ref().filter.as_ref())?;
        let items = whole(items, "StreamPodSandboxes")?;
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        answer(container::create(&self.pods, request.into_inner()).await)
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        answer(container::start(&self.pods, request.into_inner()).await)
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        answer(container::stop(&self.pods, request.into_inner()).await)
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        answer(container::remove(&self.pods, request.into_inner()).await)
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        answer(container::status(&self.pods, request.get_ref()))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let items = container::list(&self.pods, request.get_ref().filter.as_ref())?;
        let containers = whole(items, "StreamContainers")?;
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Answer<v1::ExecSyncResponse> {
        answer(container::exec_sync(&self.pods, request.into_inner()).await)
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        answer(container::reopen_log(&self.pods, request.into_inner()).await)
    }

    type StreamPodSandboxesStream = Chunks<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = pod_sandbox::list(&self.pods, request.get_ref().filter.as_ref())?;
        let message = |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes };
        Ok(Response::new(chunks(items, message)))
    }

    type StreamContainersStream = Chunks<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let items = container::list(&self.pods, request.get_ref().filter.as_ref())?;
        let message = |containers| v1::StreamContainersResponse { containers };
        Ok(Response::new(chunks(items, message)))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        answer(container::update_resources(&self.pods, request.into_inner()).await)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        answer(pod_sandbox::update_resources(&self.pods, request.into_inner()).await)
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        answer(streaming::exec(&self.pods, &self.urls, request.into_inner()))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        answer(streaming::attach(&self.pods, &self.urls, request.get_ref()))
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        answer(streaming::port_forward(&self.pods, &self.urls, request.get_ref()))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        let stats = container::stats(&self.pods, &request.get_ref().container_id).await;
        answer(stats.map(|stats| v1::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let items = container::list_stats(&self.pods, request.get_ref().filter.as_ref()).await?;
        let stats = whole(items.into_iter(), "StreamContainerStats")?;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        let stats = pod_sandbox::stats(&self.pods, &request.get_ref().pod_sandbox_id).await;
        answer(stats.map(|stats| v1::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let filter = request.get_ref().filter.as_ref();
        let items = pod_sandbox::list_stats(&self.pods, filter).await?;
        let stats = whole(items.into_iter(), "StreamPodSandboxStats")?;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        let descriptors = convert::metrics::descriptors();
        Ok(Response::new(v1::ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        let items = pod_sandbox::metrics(&self.pods).await?;
        let pod_metrics = whole(items, "StreamPodSandboxMetrics")?;
        Ok(Response::new(v1::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        answer(checkpoint::container(&self.pods, request.into_inner()).await)
    }

    async fn checkpoint_pod(
        &self,
        request: Request<v1::CheckpointPodRequest>,
    ) -> Answer<v1::CheckpointPodResponse> {
        answer(checkpoint::pod(&self.pods, request.into_inner()).await)
    }

    async fn restore_pod(
        &self,
        request: Request<v1::RestorePodRequest>,
    ) -> Answer<v1::RestorePodResponse> {
        answer(checkpoint::restore(&self.pods, request.into_inner()).await)
    }

    type StreamContainerStatsStream = Chunks<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = container::list_stats(&self.pods, request.get_ref().filter.as_ref()).await?;
        let message = |container_stats| v1::StreamContainerStatsResponse { container_stats };
        Ok(Response::new(chunks(stats, message)))
    }

    type StreamPodSandboxStatsStream = Chunks<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let filter = request.get_ref().filter.as_ref();
        let stats = pod_sandbox::list_stats(&self.pods, filter).await?;
        let message = |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(Response::new(chunks(stats, message)))
    }

    type StreamPodSandboxMetricsStream = Chunks<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let message =
            |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        Ok(Response::new(chunks(pod_sandbox::metrics(&self.pods).await?, message)))
    }

    type GetContainerEventsStream = events::EventStream;

    async fn get_container_events(
        &self,
        _request: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        Ok(Response::new(events::stream(&self.pods)))
    }
}

#[tonic::async_trait]
impl ImageService for ImageApi {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Answer<v1::ListImagesResponse> {
        let items = image::list(&self.images, request.get_ref().filter.as_ref());
        let images = whole(items, "StreamImages")?;
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    type StreamImagesStream = Chunks<v1::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let items = image::list(&self.images, request.get_ref().filter.as_ref());
        let message = |images| v1::StreamImagesResponse { images };
        Ok(Response::new(chunks(items, message)))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        answer(image::status(&self.images, request.into_inner()))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<v1::PullImageResponse> {
        answer(image::pull(&self.pods, &self.images, request.into_inner()).await)
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        answer(image::remove(&self.images, request.into_inner()).await)
    }

    async fn image_fs_info(
        &self,
        _request: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        Ok(Response::new(image::fs_info(&self.images)))
    }
}
