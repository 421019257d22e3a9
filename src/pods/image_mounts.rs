//! Images that containers mount as volumes.
//!
//! A mount holds a snapshot of its own on the image's layers, under the container's id and
//! the mount's number, so that the layers stay on disk as long as the container does,
//! whatever becomes of the image and of this daemon. Nothing is written there. What is
//! mounted is made by the shim, from the layers' directories.
//!
//! # References
//! - [KEP-4639](https://github.com/kubernetes/enhancements/tree/master/keps/sig-node/4639-oci-volume-source)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sandbox::protocol::ImageMount;

use super::error::{PodsError, RequestError};
use super::making::{Order, find_image, image_used};
use super::node::{Node, text};
use super::record::ImageUsed;
use super::spec::{ImageMountError, MountError, SpecError, check_image_mount};
use crate::snapshots::{SnapshotKey, has_path};

/// Parts a container's id from the number of one of its mounts.
const SEPARATOR: char = '-';

/// The images that one container mounts.
#[derive(Debug, Default)]
pub(super) struct ImageMounts {
    /// Where each is found on the host, by its path in the container.
    pub(super) sources: BTreeMap<String, PathBuf>,
    /// What the shim makes of them.
    pub(super) mounts: Vec<ImageMount>,
    /// What is told of them, by path in the container.
    pub(super) used: BTreeMap<String, ImageUsed>,
}

/// Finds the images that the container mounts, and holds their layers.
pub(super) fn prepare(node: &Node, order: &Order) -> Result<ImageMounts, PodsError> {
    let mut prepared = ImageMounts::default();
    let directory = node.pod_directory(&order.pod).join("c").join(&order.id).join("images");
    for (number, mount) in order.request.config.mounts.iter().enumerate() {
        let Some(name) = mount.image.as_ref().map(|image| &image.image) else { continue };
        if name.is_empty() {
            continue;
        }
        let destination = &mount.container_path;
        check_image_mount(mount).map_err(refused)?;
        let image = find_image(node, name).map_err(|error| match error {
            PodsError::Request(RequestError::NoImage { name }) => {
                refused(ImageMountError::NotAvailable {
                    destination: destination.clone(),
                    image: name,
                })
            }
            error => error,
        })?;
        let view = node.snapshots.view(&image.layers).map_err(PodsError::View)?;
        let sub_path = &mount.image_sub_path;
        if !sub_path.is_empty() && !has_path(&view, Path::new(sub_path)) {
            return Err(refused(ImageMountError::NoSubPath {
                destination: destination.clone(),
                image: name.clone(),
                sub_path: sub_path.clone(),
            }));
        }
        let key = SnapshotKey::parse(&format!("{}{SEPARATOR}{number}", order.id))
            .map_err(|_odd| PodsError::Gone { id: order.id.clone() })?;
        let active = node.snapshots.prepare(&key, &image.layers)?;
        let mut lower = active.lower;
        if lower.len() < 2 {
            // Overlayfs wants two, and what is to be written there is empty, and stays so; or
            // it has all the layers.
            lower.push(active.upper);
        }
        let source = directory.join(number.to_string());
        prepared.sources.insert(destination.clone(), source.clone());
        prepared.used.insert(destination.clone(), image_used(&image));
        prepared.mounts.push(ImageMount {
            source: text(&source),
            lower: lower.iter().map(|path| text(path)).collect(),
            sub_path: sub_path.clone(),
            context: String::new(),
        });
    }
    Ok(prepared)
}

/// Lets go of the layers. Idempotent.
pub(super) fn remove(node: &Node, container: &str) -> Result<(), PodsError> {
    for key in node.snapshots.keys() {
        if key.as_str() != container && owner(&key) == container {
            node.snapshots.remove(&key)?;
        }
    }
    Ok(())
}

/// The container that a snapshot belongs to, be it its own or that of a mount.
pub(super) fn owner(key: &SnapshotKey) -> &str {
    key.as_str().split(SEPARATOR).next().unwrap_or_default()
}

fn refused(error: ImageMountError) -> PodsError {
    RequestError::from(SpecError::from(MountError::from(error))).into()
}
