//! A pod in each of its states.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use super::*;
use crate::pods::record::{PodRecord, PodRequest};

fn view(state: serde_json::Value) -> PodView {
    let mut config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 3,
        }),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [("note".to_owned(), "ü\n".to_owned())].into(),
        ..Default::default()
    };
    let linux = config.linux.get_or_insert_default();
    let options =
        linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
    options.ipc = v1::NamespaceMode::Node.into();
    PodView {
        id: "p0d".into(),
        at_ns: 23,
        request: Arc::new(PodRequest { config, runtime_handler: "crun".into() }),
        record: record(state, serde_json::Value::Null),
        containers: BTreeMap::new(),
    }
}

/// As stored.
fn record(state: serde_json::Value, attachment: serde_json::Value) -> PodRecord {
    let record = json!({
        "version": 1, "boot_id": "b", "created_at_ns": 17, "state": state, "attachment": attachment
    });
    PodRecord::decode(record.to_string().as_bytes()).unwrap()
}

fn ready() -> serde_json::Value {
    json!({"Ready": {"held": [], "shim": {"pid": 7, "start_ticks": 8}}})
}

#[test]
fn states() {
    use v1::PodSandboxState::{SandboxNotready, SandboxReady};
    for (given, expected) in [
        (json!({"Preparing": {"held": []}}), SandboxNotready),
        (ready(), SandboxReady),
        (json!({"Stopping": {"held": [], "cause": "Requested"}}), SandboxNotready),
        (json!({"Stopped": {"cause": "ShimLost"}}), SandboxNotready),
        (json!("Removing"), SandboxNotready),
    ] {
        assert_eq!(state(&view(given)), expected);
    }
}

#[test]
fn everything_is_given_back() {
    let pod = view(ready());
    let status = pod_sandbox_status(&pod);
    let config = &pod.request.config;
    assert_eq!(status.id, "p0d");
    assert_eq!(status.created_at, 17);
    assert_eq!(status.metadata, config.metadata);
    assert_eq!(status.labels, config.labels);
    assert_eq!(status.annotations, config.annotations);
    assert_eq!(status.runtime_handler, "crun");
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.ipc(), v1::NamespaceMode::Node);
    assert_eq!(status.network, Some(v1::PodSandboxNetworkStatus::default()));
}

#[test]
fn addresses() {
    let mut pod = view(ready());
    pod.record = record(
        ready(),
        json!({"interface": "eth0", "ips": ["10.88.0.2", "fd00::2"], "origin": {"cni": {"config": null, "capabilities": {}, "args": ""}}}),
    );
    let network = pod_sandbox_status(&pod).network.unwrap();
    assert_eq!(network.ip, "10.88.0.2");
    assert_eq!(network.additional_ips, [v1::PodIp { ip: "fd00::2".into() }]);
}
