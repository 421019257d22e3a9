//! Serving: from the bound socket to the last answer.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::admin;
use crate::cri::{self, deadline::DeadlineLayer};
use crate::metrics::{Exporter, Registry};
use crate::streaming;

use super::components::Components;
use super::requests::RequestMetricsLayer;
use super::socket::{ListenError, listen};
use super::{Config, supervisor, upkeep};

/// How long RPCs in flight are awaited. Pulls and commands in containers may take longer,
/// and service managers wait 90 seconds before they kill.
const DRAIN: Duration = Duration::from_secs(10);

/// How long pulls and imports that were stopped may clean up. What they leave otherwise,
/// the next start removes.
const CLOSE: Duration = Duration::from_secs(5);

/// Why serving began not, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address of the metrics cannot be bound.
    #[error("cannot serve metrics on {address}")]
    BindMetrics {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The streaming server.
    #[error("cannot serve exec, attach and port-forward")]
    BindStreaming {
        /// Its reason.
        #[source]
        source: streaming::BindError,
    },
    /// Signals cannot be watched.
    #[error("cannot watch for signals")]
    WatchSignals {
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be handed to the threads that serve.
    #[error("cannot watch the socket")]
    WatchSocket {
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The server gave up.
    #[error("serving ended")]
    Transport {
        /// The server's reason.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Serves `components` until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`ServeError`]; pods are not affected.
pub(super) async fn serve(config: &Config, components: Components) -> Result<(), ServeError> {
    let watch = |kind| signal(kind).map_err(|source| ServeError::WatchSignals { source });
    let (mut terminate, mut interrupt) =
        (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };

    let mut registry = Registry::new();
    let requests = RequestMetricsLayer::register(&mut registry);
    let mut tasks = JoinSet::new();
    upkeep::start(&components, &mut tasks);
    if let Some(address) = config.metrics {
        let exporter = Exporter::bind(address, registry)
            .await
            .map_err(|source| ServeError::BindMetrics { address, source })?;
        tasks.spawn(exporter.run());
    }

    let server = streaming::Server::bind(config.streaming.clone())
        .await
        .map_err(|source| ServeError::BindStreaming { source })?;
    let urls = server.urls();
    let (mut sessions, end_sessions) = (JoinSet::new(), CancellationToken::new());
    let target = Arc::new(cri::PodTarget::new(components.pods.clone()));
    sessions.spawn(server.run(target, end_sessions.clone()));

    let routes = cri::routes(components.pods.clone(), components.images.clone(), urls)
        .add_service(admin::transfers(components.images.clone()))
        .add_service(admin::registries(components.images.clone()))
        .add_service(admin::store(components.images.clone()));
    let socket = tokio::net::UnixListener::from_std(listen(&config.listen)?)
        .map_err(|source| ServeError::WatchSocket { source })?;
    supervisor::tell(NotifyState::Ready);
    tracing::info!(socket = %config.listen.display(), "serving CRI");
    let stop = async {
        stop.await;
        // Those who listen would do so for ever, and sessions last as long as they like.
        components.pods.end_events();
        end_sessions.cancel();
    };
    let ended = until_stopped(routes, requests, socket, stop).await;
    sessions.join_all().await;
    tasks.shutdown().await;
    if tokio::time::timeout(CLOSE, components.close()).await.is_err() {
        tracing::warn!(deadline_s = CLOSE.as_secs(), "what was under way is given up");
    }
    if let Err(error) = std::fs::remove_file(&config.listen) {
        tracing::warn!(%error, "cannot remove the socket");
    }
    ended
}

/// Serves until `stop`, then waits for RPCs in flight, but not for ever.
async fn until_stopped(
    routes: Routes,
    requests: RequestMetricsLayer,
    socket: tokio::net::UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let draining = async {
        stop.await;
        supervisor::tell(NotifyState::Stopping);
        tracing::info!("stopping; pods go on");
        drop(stopping);
        tokio::time::sleep(DRAIN).await;
    };
    let serving = Server::builder()
        .layer(requests)
        .layer(DeadlineLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(socket), async {
            let _closed = stopped.await;
        });
    let (serving, draining) = (pin!(serving), pin!(draining));
    tokio::select! {
        ended = serving => ended.map_err(|source| ServeError::Transport { source }),
        () = draining => {
            tracing::warn!(deadline_s = DRAIN.as_secs(), "RPCs in flight are given up");
            Ok(())
        }
    }
}
