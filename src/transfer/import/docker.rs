//! What `docker save` writes: `manifest.json`, configurations and layers by file name.
//!
//! Such an archive has no manifests in the sense of a registry. One is made up, so that every
//! image here has one; no registry knows its digest, so it gives the image no name.
//!
//! Specification: <https://github.com/moby/moby/blob/master/image/spec/v1.2.md>

use serde::Deserialize;

use super::{ImportError, Parts, Reader};
use crate::content::{Algorithm, Blob, Hasher};
use crate::transfer::manifest::{DOCKER_MANIFEST, Descriptor};
use crate::transfer::reference::Reference;

pub(super) const MANIFEST: &str = "manifest.json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
/// Whether they are compressed is seen from their bytes.
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Reader {
    pub(super) fn docker_images(&self) -> Result<Vec<Parts>, ImportError> {
        let saved: Vec<Saved> = serde_json::from_slice(&self.document(MANIFEST)?)
            .map_err(|source| ImportError::Document { name: MANIFEST.to_owned(), source })?;
        saved.into_iter().map(|saved| self.docker_image(saved)).collect()
    }

    fn docker_image(&self, saved: Saved) -> Result<Parts, ImportError> {
        let file =
            |name: &String| self.files.blob(name).ok_or_else(|| ImportError::Missing(name.clone()));
        let config = described(file(&saved.config)?, CONFIG_TYPE);
        let layers = saved.layers.unwrap_or_default();
        let layers = layers.iter().map(|name| Ok(described(file(name)?, LAYER_TYPE)));
        let layers = layers.collect::<Result<Vec<_>, ImportError>>()?;
        let references = saved.repo_tags.unwrap_or_default().into_iter().map(|name| {
            Reference::parse(&name).map_err(|source| ImportError::Name { name, source })
        });
        let references = references.collect::<Result<_, _>>()?;
        let manifest = made_up_manifest(&config, &layers);
        let digest = Hasher::digest(Algorithm::Sha256, &manifest);
        let blob = self
            .content
            .put(&manifest, &digest)
            .map_err(|source| ImportError::Store { name: digest.to_string(), source })?;
        Ok(Parts {
            references,
            target: None,
            manifest: digest,
            config: config.digest,
            layers,
            documents: vec![blob],
        })
    }
}

fn described(blob: &Blob, media_type: &str) -> Descriptor {
    Descriptor::of(media_type, blob.digest().clone(), blob.bytes())
}

fn made_up_manifest(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let json = |descriptor: &Descriptor| {
        serde_json::json!({
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
        })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": json(config),
        "layers": layers.iter().map(json).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}
