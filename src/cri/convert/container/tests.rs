//! A container in each of its states.

use std::sync::Arc;

use super::*;
use crate::pods::record::{ContainerRecord, ContainerRequest, ImageUsed, User};

fn view(state: ContainerState) -> ContainerView {
    let mut config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "web".into(), attempt: 2 }),
        image: Some(v1::ImageSpec {
            image: "sha256:1".into(),
            user_specified_image: "busybox".into(),
            ..Default::default()
        }),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [("note".to_owned(), "ü".to_owned())].into(),
        mounts: vec![v1::Mount {
            container_path: "/m".into(),
            host_path: "/h".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    config.linux.get_or_insert_default().resources.get_or_insert_default().cpu_shares = 512;
    let image = ImageUsed {
        id: "sha256:1".into(),
        name: "docker.io/library/busybox:latest".into(),
        reference: "docker.io/library/busybox@sha256:2".into(),
    };
    let mut record = ContainerRecord::new(5, image, "/pods/c".into(), 3);
    record.state = state;
    record.user = User { uid: 1000, gid: 1001, groups: vec![50, 1001] };
    record.log_path = Some("/var/log/pods/web/0.log".into());
    ContainerView {
        id: "c0".into(),
        pod: "p0".into(),
        request: Arc::new(ContainerRequest { config }),
        record,
        pid: None,
    }
}

fn exited(code: i32, cause: ExitCause, started_at_ns: Option<i64>) -> ContainerState {
    ContainerState::Exited { exit: Exit { code, finished_at_ns: 9, cause }, started_at_ns }
}

#[test]
fn times_codes_and_reasons() {
    use v1::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    for (given, state, started, finished, code, reason) in [
        (ContainerState::Created, ContainerCreated, 0, 0, 0, ""),
        (ContainerState::Starting, ContainerCreated, 0, 0, 0, ""),
        (ContainerState::Running { started_at_ns: 7 }, ContainerRunning, 7, 0, 0, ""),
        (exited(0, ExitCause::Ended, Some(7)), ContainerExited, 7, 9, 0, "Completed"),
        (exited(3, ExitCause::Ended, Some(7)), ContainerExited, 7, 9, 3, "Error"),
        (exited(137, ExitCause::OomKilled, Some(7)), ContainerExited, 7, 9, 137, "OOMKilled"),
        (exited(128, ExitCause::StartFailed, None), ContainerExited, 0, 9, 128, "StartError"),
        (exited(255, ExitCause::Lost, Some(7)), ContainerExited, 7, 9, 255, "Unknown"),
    ] {
        let status = container_status(&view(given));
        assert_eq!(status.state(), state);
        assert_eq!((status.started_at, status.finished_at), (started, finished), "{reason}");
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
    }
}

#[test]
fn everything_is_given_back() {
    let view = view(ContainerState::Created);
    let (status, listed) = (container_status(&view), container(&view));
    let config = &view.request.config;
    assert_eq!((status.id.as_str(), listed.pod_sandbox_id.as_str()), ("c0", "p0"));
    assert_eq!(status.metadata, config.metadata);
    assert_eq!(status.labels, config.labels);
    assert_eq!(status.annotations, config.annotations);
    assert_eq!(status.mounts, config.mounts);
    assert_eq!(status.created_at, 5);
    assert_eq!(status.stop_signal(), v1::Signal::Sigquit);
    assert_eq!(status.resources.unwrap().linux.unwrap().cpu_shares, 512);
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1001, vec![50, 1001]));
}

#[test]
fn the_image_has_its_names() {
    let status = container_status(&view(ContainerState::Created));
    let image = status.image.unwrap();
    assert_eq!(image.image, "docker.io/library/busybox:latest");
    assert_eq!(image.user_specified_image, "busybox");
    assert_eq!(status.image_ref, "docker.io/library/busybox@sha256:2");
    assert_eq!(status.image_id, "sha256:1");
}

/// An empty path makes the kubelet remove files of the node.
#[test]
fn log_paths_are_never_empty() {
    let mut view = view(ContainerState::Created);
    assert_eq!(container_status(&view).log_path, "/var/log/pods/web/0.log");
    view.record.log_path = None;
    assert_eq!(container_status(&view).log_path, "/nonexistent/orlop/c0.log");
}
