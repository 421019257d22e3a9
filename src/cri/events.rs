//! `GetContainerEvents`: what happens to pods and containers, for as long as the client
//! listens.
//!
//! The stream ends only with an error, since to the kubelet an end without one is a fault
//! of the runtime: when the client has fallen behind, or when the daemon ends.

use cri_api::v1;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tonic::Status;

use super::convert::{container, pod};
use crate::pods::{Event, EventKind, Pods};

/// One client's events.
pub(super) type EventStream = BoxStream<'static, Result<v1::ContainerEventResponse, Status>>;

/// What happens after this has returned; the answer's head, sent next, tells the client
/// that it listens.
pub(super) fn stream(pods: &Pods) -> EventStream {
    let heard = stream::unfold(Some(pods.listen()), |listener| async {
        let mut listener = listener?;
        Some(match listener.next().await {
            Ok(event) => (Ok(message(&event)), Some(listener)),
            Err(silence) => (Err(silence.into()), None),
        })
    });
    heard.boxed()
}

fn message(event: &Event) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    let view = event.pod.as_deref();
    v1::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at_ns,
        pod_sandbox_status: view.map(pod::pod_sandbox_status),
        containers_statuses: view.map(container::containers_statuses).unwrap_or_default(),
    }
}
