//! What a checkpoint says of its containers, beside criu's images.
//!
//! # References
//! - [checkpointctl](https://github.com/checkpoint-restore/checkpointctl), which shows archives

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::archive;
use super::error::CheckpointError;
use super::partial::failed;
use crate::pods::node::now_ns;
use crate::pods::record::User;
use crate::pods::view::{ContainerView, PodView};

/// What the container wrote.
pub(in crate::pods) const ROOTFS_DIFF: &str = "rootfs-diff.tar";

/// The OCI spec.
pub(in crate::pods) const SPEC: &str = "spec.dump";

/// The container, as podman and CRI-O describe it.
const CONFIG: &str = "config.dump";

/// The pod, in its checkpoint's directory.
pub(in crate::pods) const POD: &str = "pod.json";

/// The version of [`PodDescription`] that is written.
pub(in crate::pods) const VERSION: u32 = 1;

/// criu's images; the shim makes it.
pub(in crate::pods) const IMAGES: &str = "checkpoint";

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
pub(in crate::pods) struct PodDescription {
    pub(in crate::pods) version: u32,
    pod: String,
    pub(in crate::pods) containers: Vec<Described>,
}

/// One container of it; its files are in the directory of its number.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::pods) struct Described {
    pub(in crate::pods) name: String,
    id: String,
    pub(in crate::pods) image: String,
    pub(in crate::pods) command: Vec<String>,
    pub(in crate::pods) args: Vec<String>,
    pub(in crate::pods) envs: Vec<(String, Vec<u8>)>,
    user: User,
    /// The sizes of criu's images and of what was written, by path in its directory: of images
    /// that lack their end, criu does not always say so.
    pub(in crate::pods) files: BTreeMap<String, u64>,
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

fn sizes(directory: &Path) -> io::Result<BTreeMap<String, u64>> {
    let diff = fs::metadata(directory.join(ROOTFS_DIFF))?.len();
    let mut sizes = BTreeMap::from([(ROOTFS_DIFF.to_owned(), diff)]);
    for entry in fs::read_dir(directory.join(IMAGES))? {
        let entry = entry?;
        let name = format!("{IMAGES}/{}", entry.file_name().to_string_lossy());
        sizes.insert(name, entry.metadata()?.len());
    }
    Ok(sizes)
}

impl PodDescription {
    /// Of containers whose checkpoints are in `directories`.
    pub(super) fn of(
        pod: &PodView,
        containers: &[Arc<ContainerView>],
        directories: &[PathBuf],
    ) -> Result<Self, CheckpointError> {
        let describe = |(one, directory): (&Arc<ContainerView>, &PathBuf)| {
            let config = &one.request.config;
            let envs = config.envs.iter();
            Ok(Described {
                name: one.request.name().to_owned(),
                id: one.id.clone(),
                image: one.record.image.id.clone(),
                command: config.command.clone(),
                args: config.args.clone(),
                envs: envs.map(|env| (env.key.clone(), env.value.clone())).collect(),
                user: one.record.user.clone(),
                files: sizes(directory).map_err(failed("read", directory))?,
            })
        };
        let containers = containers.iter().zip(directories).map(describe);
        let containers = containers.collect::<Result<_, _>>()?;
        Ok(Self { version: VERSION, pod: pod.id.clone(), containers })
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), CheckpointError> {
        write_json(&directory.join(POD), self)
    }
}
