//! A pod in CRI's words.
//!
//! Labels, annotations and metadata are given back byte for byte.

use cri_api::v1;

use crate::pods::view::PodView;

/// `SANDBOX_READY` or `SANDBOX_NOTREADY`; CRI has no words for what is between.
#[must_use]
pub fn state(pod: &PodView) -> v1::PodSandboxState {
    if pod.is_ready() {
        v1::PodSandboxState::SandboxReady
    } else {
        v1::PodSandboxState::SandboxNotready
    }
}

/// The pod as a line of a list.
#[must_use]
pub fn pod_sandbox(pod: &PodView) -> v1::PodSandbox {
    let config = &pod.request.config;
    v1::PodSandbox {
        id: pod.id.clone(),
        metadata: config.metadata.clone(),
        state: state(pod).into(),
        created_at: pod.record.created_at_ns,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: pod.request.runtime_handler.clone(),
    }
}

/// The pod as `PodSandboxStatus` answers.
#[must_use]
pub fn pod_sandbox_status(pod: &PodView) -> v1::PodSandboxStatus {
    let v1::PodSandbox { id, metadata, state, created_at, labels, annotations, runtime_handler } =
        pod_sandbox(pod);
    v1::PodSandboxStatus {
        id,
        metadata,
        state,
        created_at,
        network: Some(network(pod)),
        linux: Some(v1::LinuxPodSandboxStatus {
            // As asked: the kubelet makes the pod anew when the network mode differs.
            namespaces: Some(v1::Namespace { options: Some(pod.request.namespaces()) }),
        }),
        labels,
        annotations,
        runtime_handler,
    }
}

/// The primary address and the others; empty on the node's own network.
fn network(pod: &PodView) -> v1::PodSandboxNetworkStatus {
    let mut addresses = pod.ips().iter().map(ToString::to_string);
    v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    }
}

#[cfg(test)]
mod tests;
