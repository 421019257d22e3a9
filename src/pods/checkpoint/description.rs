//! What a checkpoint says of its containers, beside criu's images.
//!
//! # References
//! - [checkpointctl](https://github.com/checkpoint-restore/checkpointctl), which shows archives

use std::fs;
use std::path::Path;
use std::sync::Arc;

use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::archive;
use super::error::CheckpointError;
use super::partial::failed;
use crate::pods::node::now_ns;
use crate::pods::record::User;
use crate::pods::view::{ContainerView, PodView};

/// What the container wrote.
pub(super) const ROOTFS_DIFF: &str = "rootfs-diff.tar";

/// The OCI spec.
const SPEC: &str = "spec.dump";

/// The container, as podman and CRI-O describe it.
const CONFIG: &str = "config.dump";

/// The pod, in its checkpoint's directory.
const POD: &str = "pod.json";

/// The version of [`PodDescription`] that is written.
const VERSION: u32 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerConfig<'a> {
    id: &'a str,
    name: String,
    #[serde(rename = "rootfsImage")]
    image: &'a str,
    rootfs_image_name: &'a str,
    rootfs_image_ref: &'a str,
    runtime: &'static str,
    created_time: String,
    checkpointed_time: String,
}

/// What a pod's checkpoint has of which containers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PodDescription {
    version: u32,
    pod: String,
    containers: Vec<Described>,
}

/// One container of it; its files are in the directory of its number.
#[derive(Debug, Serialize, Deserialize)]
struct Described {
    name: String,
    id: String,
    image: String,
    command: Vec<String>,
    args: Vec<String>,
    envs: Vec<(String, Vec<u8>)>,
    user: User,
}

/// Writes `spec.dump` and `config.dump`; `spec` is the file that the shim has.
pub(super) fn write(
    directory: &Path,
    spec: &Path,
    container: &ContainerView,
) -> Result<(), CheckpointError> {
    let bytes = fs::read(spec).map_err(failed("read", spec))?;
    let to = directory.join(SPEC);
    archive::write(&to, &bytes).map_err(failed("write", &to))?;
    let record = &container.record;
    let config = ContainerConfig {
        id: &container.id,
        name: container.request.unique_name(),
        image: &record.image.id,
        rootfs_image_name: &record.image.name,
        rootfs_image_ref: &record.image.reference,
        runtime: "orlop",
        created_time: rfc3339(record.created_at_ns),
        checkpointed_time: rfc3339(now_ns()),
    };
    write_json(&directory.join(CONFIG), &config)
}

fn write_json(path: &Path, content: &impl Serialize) -> Result<(), CheckpointError> {
    let json = serde_json::to_vec_pretty(content).map_err(std::io::Error::from);
    json.and_then(|json| archive::write(path, &json)).map_err(failed("write", path))
}

fn rfc3339(ns: i64) -> String {
    let (seconds, nanos) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or_default() }.to_string()
}

impl PodDescription {
    pub(super) fn of(pod: &PodView, containers: &[Arc<ContainerView>]) -> Self {
        let containers = containers.iter().map(|one| {
            let config = &one.request.config;
            let envs = config.envs.iter();
            Described {
                name: one.request.name().to_owned(),
                id: one.id.clone(),
                image: one.record.image.id.clone(),
                command: config.command.clone(),
                args: config.args.clone(),
                envs: envs.map(|env| (env.key.clone(), env.value.clone())).collect(),
                user: one.record.user.clone(),
            }
        });
        Self { version: VERSION, pod: pod.id.clone(), containers: containers.collect() }
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), CheckpointError> {
        write_json(&directory.join(POD), self)
    }
}
