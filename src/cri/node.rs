//! What the node says of itself: version, status, configuration.
//!
//! The status is polled; nothing here waits for anything.

use std::collections::HashMap;

use cri_api::v1;
use serde_json::json;

use crate::images::Images;
use crate::pods::{CgroupDriver, Pods};

/// Becomes the scheme of container ids in pod statuses, `orlop://`.
const NAME: &str = "orlop";

/// `Version`.
pub(super) fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

/// `Status`.
pub(super) async fn status(
    pods: &Pods,
    images: &Images,
    request: &v1::StatusRequest,
) -> v1::StatusResponse {
    let info = if request.verbose {
        let config = json!({ "stateDir": pods.state_directory(), "cgroupDriver": pods.cgroup_driver().name() });
        HashMap::from([("config".to_owned(), config.to_string())])
    } else {
        HashMap::new()
    };
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions: vec![ready(images), network(pods)] }),
        info,
        runtime_handlers: handlers(pods).await,
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: true,
            mount_options: true,
        }),
    }
}

/// `RuntimeConfig`.
pub(super) fn config(pods: &Pods) -> v1::RuntimeConfigResponse {
    let cgroup_driver = match pods.cgroup_driver() {
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
    };
    v1::RuntimeConfigResponse {
        linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: cgroup_driver.into() }),
    }
}

/// Whoever can ask is answered by a daemon that has recovered its pods; images may be missing
/// that the node was to have first.
fn ready(images: &Images) -> v1::RuntimeCondition {
    let (status, reason, message) = match images.readiness() {
        Ok(()) => (true, String::new(), String::new()),
        Err(prefetching) => (false, "Prefetching".to_owned(), prefetching.to_string()),
    };
    v1::RuntimeCondition { r#type: "RuntimeReady".to_owned(), status, reason, message }
}

fn network(pods: &Pods) -> v1::RuntimeCondition {
    let (status, reason, message) = match pods.network_status() {
        Ok(()) => (true, String::new(), String::new()),
        Err(not_ready) => (false, not_ready.reason.to_owned(), not_ready.message),
    };
    v1::RuntimeCondition { r#type: "NetworkReady".to_owned(), status, reason, message }
}

/// The default, which has no name, and the others.
async fn handlers(pods: &Pods) -> Vec<v1::RuntimeHandler> {
    let mut all = Vec::new();
    for name in std::iter::once(String::new()).chain(pods.handlers()) {
        let features = v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: pods.has_user_namespaces(&name).await,
        };
        all.push(v1::RuntimeHandler { name, features: Some(features) });
    }
    all
}
