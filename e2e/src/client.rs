//! A small CRI client: the calls a kubelet makes, with the defaults tests want.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::image_service_client::ImageServiceClient;
use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use cri_api::v1::*;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint, Uri};

/// Longest time any one call may take; a call that hangs fails its test.
pub const CALL: Duration = Duration::from_secs(60);

/// Connections to both services of one socket.
#[derive(Clone, Debug)]
pub struct Cri {
    /// The runtime service.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The image service.
    pub images: ImageServiceClient<Channel>,
}

/// A pod that was started and the configuration it was started with.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// What `RunPodSandbox` was given; `CreateContainer` wants it again.
    pub config: PodSandboxConfig,
}

impl Pod {
    /// The file that the container's log is written to.
    #[must_use]
    pub fn log_path(&self, container: &ContainerConfig) -> PathBuf {
        Path::new(&self.config.log_directory).join(&container.log_path)
    }
}

/// A container that runs `command` in `image`.
#[must_use]
pub fn container(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            user_specified_image: image.to_owned(),
            ..Default::default()
        }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig::default()),
        ..Default::default()
    }
}

/// The refusal of a call that must not succeed.
///
/// # Errors
/// If it did succeed.
pub fn refusal<T>(outcome: Result<T, tonic::Status>) -> Result<tonic::Status> {
    match outcome {
        Ok(_) => bail!("the call succeeded"),
        Err(status) => Ok(status),
    }
}

/// A connection to a socket.
///
/// # Errors
/// If nothing accepts connections there.
pub async fn channel(socket: &Path) -> Result<Channel> {
    let socket = socket.to_owned();
    // The authority is required by HTTP/2 and means nothing on a unix socket.
    let endpoint = Endpoint::from_static("http://localhost").timeout(CALL);
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    endpoint.connect_with_connector(connector).await.context("connect to the CRI socket")
}

impl Cri {
    /// Connects to a socket.
    ///
    /// # Errors
    /// If nothing accepts connections there.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let channel = channel(socket).await?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    /// Pulls an image and returns its reference for `CreateContainer`.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn pull(&mut self, image: &str) -> Result<String, tonic::Status> {
        let image = Some(ImageSpec { image: image.to_owned(), ..Default::default() });
        let request = PullImageRequest { image, ..Default::default() };
        Ok(self.images.pull_image(request).await?.into_inner().image_ref)
    }

    /// The image of this name, if there is one.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn image(&mut self, image: &str) -> Result<Option<Image>, tonic::Status> {
        let image = Some(ImageSpec { image: image.to_owned(), ..Default::default() });
        let request = ImageStatusRequest { image, verbose: false };
        Ok(self.images.image_status(request).await?.into_inner().image)
    }

    /// `RunPodSandbox` with a runtime handler.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn run_pod(
        &mut self,
        config: PodSandboxConfig,
        handler: &str,
    ) -> Result<Pod, tonic::Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let id = self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        Ok(Pod { id, config })
    }

    /// `CreateContainer`.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn create(
        &mut self,
        pod: &Pod,
        config: &ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    /// `StartContainer`.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn start(&mut self, container: &str) -> Result<(), tonic::Status> {
        let request = StartContainerRequest { container_id: container.to_owned() };
        self.runtime.start_container(request).await.map(drop)
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// The status of the call that failed.
    pub async fn launch(
        &mut self,
        pod: &Pod,
        config: &ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let id = self.create(pod, config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// `StopContainer` with `timeout` seconds of grace.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn stop(&mut self, container: &str, timeout: i64) -> Result<(), tonic::Status> {
        let request = StopContainerRequest { container_id: container.to_owned(), timeout };
        self.runtime.stop_container(request).await.map(drop)
    }

    /// `RemoveContainer`.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn remove(&mut self, container: &str) -> Result<(), tonic::Status> {
        let request = RemoveContainerRequest { container_id: container.to_owned() };
        self.runtime.remove_container(request).await.map(drop)
    }

    /// `StopPodSandbox`.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn stop_pod(&mut self, pod: &str) -> Result<(), tonic::Status> {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.runtime.stop_pod_sandbox(request).await.map(drop)
    }

    /// `RemovePodSandbox`.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn remove_pod(&mut self, pod: &str) -> Result<(), tonic::Status> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.runtime.remove_pod_sandbox(request).await.map(drop)
    }

    /// Every pod.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn pods(&mut self) -> Result<Vec<PodSandbox>, tonic::Status> {
        Ok(self
            .runtime
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await?
            .into_inner()
            .items)
    }

    /// Every container.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn containers(&mut self) -> Result<Vec<Container>, tonic::Status> {
        Ok(self
            .runtime
            .list_containers(ListContainersRequest::default())
            .await?
            .into_inner()
            .containers)
    }

    /// The status of a container.
    ///
    /// # Errors
    /// The status of the call, or that it carried nothing.
    pub async fn status(&mut self, container: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        let answer = self.runtime.container_status(request).await?.into_inner();
        answer.status.context("ContainerStatus without a status")
    }

    /// Runs a command in a container and waits for its end.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn exec(
        &mut self,
        container: &str,
        command: &[&str],
    ) -> Result<ExecSyncResponse, tonic::Status> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    /// Waits until a container has exited and returns its last status.
    ///
    /// # Errors
    /// If it still runs after [`CALL`], or if its status cannot be had.
    pub async fn wait_exited(&mut self, container: &str) -> Result<ContainerStatus> {
        let deadline = Instant::now() + CALL;
        loop {
            let status = self.status(container).await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("container {container} is still {:?}", status.state());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops and removes every pod.
    ///
    /// # Errors
    /// The status of the call that failed.
    pub async fn remove_all(&mut self) -> Result<(), tonic::Status> {
        for pod in self.pods().await? {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        Ok(())
    }
}
