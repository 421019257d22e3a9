//! A container in CRI's words.

use std::cmp::Reverse;

use cri_api::v1;

use crate::pods::{
    spec::StopSignal,
    view::{ContainerState, ContainerView, Exit, ExitCause, PodView},
};

/// Where the log of a container without a log is said to be. The kubelet's cleaner removes
/// whatever begins with a container's log path, and with an empty one that is every file of
/// its working directory; this directory exists nowhere.
const NO_LOG: &str = "/nonexistent/orlop";

/// The container's state.
#[must_use]
pub fn state(container: &ContainerView) -> v1::ContainerState {
    match container.record.state {
        ContainerState::Created | ContainerState::Starting => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited { .. } => v1::ContainerState::ContainerExited,
        ContainerState::Creating | ContainerState::Removing => v1::ContainerState::ContainerUnknown,
    }
}

/// The container as a line of a list.
#[must_use]
pub fn container(container: &ContainerView) -> v1::Container {
    let config = &container.request.config;
    let image = &container.record.image;
    v1::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.pod.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: image.id.clone(),
        state: state(container).into(),
        created_at: container.record.created_at_ns,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: image.id.clone(),
    }
}

/// The container as `ContainerStatus` answers.
#[must_use]
pub fn container_status(view: &ContainerView) -> v1::ContainerStatus {
    let v1::Container { id, metadata, state, created_at, labels, annotations, image_id, .. } =
        container(view);
    let record = &view.record;
    let end = end(&record.state);
    v1::ContainerStatus {
        id,
        metadata,
        state,
        created_at,
        started_at: started_at(&record.state),
        finished_at: end.map_or(0, |exit| exit.finished_at_ns),
        exit_code: end.map_or(0, |exit| exit.code),
        image: Some(image(view)),
        image_ref: record.image.reference.clone(),
        reason: end.map(reason).unwrap_or_default().to_owned(),
        message: record.message.clone(),
        labels,
        annotations,
        mounts: mounts(view),
        log_path: log_path(view),
        resources: resources(view),
        image_id,
        user: Some(user(view)),
        stop_signal: StopSignal::from_number(record.stop_signal)
            .map_or(v1::Signal::RuntimeDefault, StopSignal::to_cri)
            .into(),
    }
}

/// The containers of a pod, newest first: of those with one name the kubelet takes the
/// first for the one that is now.
#[must_use]
pub fn containers_statuses(pod: &PodView) -> Vec<v1::ContainerStatus> {
    let mut statuses: Vec<_> = pod.listed_containers().map(|one| container_status(one)).collect();
    statuses.sort_by_key(|status| Reverse(status.created_at));
    statuses
}

pub(super) fn started_at(state: &ContainerState) -> i64 {
    match state {
        ContainerState::Running { started_at_ns } => *started_at_ns,
        ContainerState::Exited { started_at_ns, .. } => started_at_ns.unwrap_or(0),
        ContainerState::Creating
        | ContainerState::Created
        | ContainerState::Starting
        | ContainerState::Removing => 0,
    }
}

fn end(state: &ContainerState) -> Option<&Exit> {
    match state {
        ContainerState::Exited { exit, .. } => Some(exit),
        _ => None,
    }
}

/// The word that the kubelet shows, `OOMKilled` being the one that others act on.
fn reason(exit: &Exit) -> &'static str {
    match (exit.cause, exit.code) {
        (ExitCause::Ended, 0) => "Completed",
        (ExitCause::Ended, _) => "Error",
        (ExitCause::OomKilled, _) => "OOMKilled",
        (ExitCause::StartFailed, _) => "StartError",
        (ExitCause::Lost, _) => "Unknown",
    }
}

/// The image under the name that the node knows it by; not empty even when the image is
/// gone, or the kubelet rejects the answer.
fn image(view: &ContainerView) -> v1::ImageSpec {
    let requested = view.request.config.image.clone().unwrap_or_default();
    v1::ImageSpec { image: view.record.image.name.clone(), ..requested }
}

fn log_path(view: &ContainerView) -> String {
    match &view.record.log_path {
        Some(path) => path.to_string_lossy().into_owned(),
        None => format!("{NO_LOG}/{}.log", view.id),
    }
}

/// The mounts of the request, those of images with the image that is mounted.
fn mounts(view: &ContainerView) -> Vec<v1::Mount> {
    let mut mounts = view.request.config.mounts.clone();
    for mount in &mut mounts {
        let used = view.record.image_mounts.get(&mount.container_path);
        if let (Some(image), Some(used)) = (&mut mount.image, used) {
            image.image_ref = used.id.clone();
        }
    }
    mounts
}

pub(super) fn resources(view: &ContainerView) -> Option<v1::ContainerResources> {
    let linux = match &view.record.resources {
        Some(resources) => resources.into(),
        None => view.request.config.linux.as_ref()?.resources.clone()?,
    };
    Some(v1::ContainerResources { linux: Some(linux), windows: None })
}

fn user(view: &ContainerView) -> v1::ContainerUser {
    let user = &view.record.user;
    v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.iter().map(|gid| i64::from(*gid)).collect(),
        }),
    }
}

#[cfg(test)]
mod tests;
