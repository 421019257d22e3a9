//! RPCs that are answered with a URL, and what the streaming server does there.

use cri_api::v1;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;

use super::convert::request;
use crate::pods::{self, Pods};
use crate::streaming::{
    AttachOrder, ExecOrder, PortForwardOrder, Process, Resize, Socket, Streams, Target,
    TargetError, Urls,
};

/// `Exec`.
pub(super) fn exec(
    pods: &Pods,
    urls: &Urls,
    request: v1::ExecRequest,
) -> Result<v1::ExecResponse, Status> {
    request::exec(&request)?;
    let container = pods.running_container(&request.container_id)?;
    let url = urls.exec(ExecOrder {
        container: container.id.clone(),
        argv: request.cmd,
        streams: Streams {
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        },
    })?;
    Ok(v1::ExecResponse { url })
}

/// `Attach`.
pub(super) fn attach(
    pods: &Pods,
    urls: &Urls,
    request: &v1::AttachRequest,
) -> Result<v1::AttachResponse, Status> {
    request::attach(request)?;
    let streams = Streams {
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    let container = pods.attachable_container(&request.container_id, of_pods(streams))?;
    let url = urls.attach(AttachOrder { container: container.id.clone(), streams })?;
    Ok(v1::AttachResponse { url })
}

/// `PortForward`.
pub(super) fn port_forward(
    pods: &Pods,
    urls: &Urls,
    request: &v1::PortForwardRequest,
) -> Result<v1::PortForwardResponse, Status> {
    let ports = request::port_forward(request)?;
    let pod = pods.ready_pod(&request.pod_sandbox_id)?;
    let url = urls.port_forward(PortForwardOrder { pod: pod.id.clone(), ports })?;
    Ok(v1::PortForwardResponse { url })
}

/// Pods, as the streaming server needs them.
#[derive(Debug, Clone)]
pub struct PodTarget {
    pods: Pods,
}

impl PodTarget {
    /// The containers and ports of `pods`.
    #[must_use]
    pub fn new(pods: Pods) -> Self {
        Self { pods }
    }
}

impl Target for PodTarget {
    fn exec(&self, order: ExecOrder) -> BoxFuture<'_, Result<Process, TargetError>> {
        let ExecOrder { container, argv, streams } = order;
        Box::pin(async move {
            let begun = self.pods.exec_streaming(&container, argv, of_pods(streams)).await;
            begun.map(process).map_err(TargetError::new)
        })
    }

    fn attach(&self, order: AttachOrder) -> BoxFuture<'_, Result<Process, TargetError>> {
        let AttachOrder { container, streams } = order;
        Box::pin(async move {
            let begun = self.pods.attach(&container, of_pods(streams)).await;
            begun.map(process).map_err(TargetError::new)
        })
    }

    fn port_forward(
        &self,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Socket>, TargetError>> {
        Box::pin(async move {
            let socket = self.pods.port_forward(&pod, port).await.map_err(TargetError::new)?;
            Ok(Box::new(socket) as Box<dyn Socket>)
        })
    }
}

fn of_pods(streams: Streams) -> pods::Streams {
    let Streams { tty, stdin, stdout, stderr } = streams;
    pods::Streams { tty, stdin, stdout, stderr }
}

fn process(session: pods::Session) -> Process {
    let pods::Session { stdin, stdout, stderr, terminal, ended } = session;
    Process {
        stdin: stdin.map(|to| Box::new(to) as Box<dyn AsyncWrite + Send + Unpin>),
        stdout: stdout.map(readable),
        stderr: stderr.map(readable),
        terminal: terminal.map(resize),
        ended: ended.map_err(TargetError::new).boxed(),
    }
}

fn readable(output: pods::Output) -> Box<dyn AsyncRead + Send + Unpin> {
    Box::new(output)
}

fn resize(terminal: pods::Terminal) -> Resize {
    Box::new(move |columns, rows| {
        if let Err(error) = terminal.resize(columns, rows) {
            tracing::debug!(%error, columns, rows, "cannot resize a terminal");
        }
    })
}
