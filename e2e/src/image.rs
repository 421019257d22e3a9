//! OCI images in memory: made from layers, pushed to a registry or written as an archive.
//!
//! # References
//! - [OCI image-spec](https://github.com/opencontainers/image-spec/blob/main/spec.md)

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::layer::{Layer, digest};

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// An image for this machine's architecture.
#[derive(Clone, Debug)]
pub struct Image {
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// The configuration document.
    pub config: Vec<u8>,
    /// The manifest document.
    pub manifest: Vec<u8>,
}

/// The architecture of this machine in the words of the specification.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image {
    /// Makes an image; `settings` is the `config` object of the configuration document.
    ///
    /// # Errors
    /// If a document cannot be written as JSON.
    pub fn new(layers: Vec<Layer>, settings: &Value) -> Result<Self> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let history: Vec<_> =
            layers.iter().map(|_| json!({ "created": EPOCH, "created_by": "orlop e2e" })).collect();
        // Keys are in alphabetical order here, so that the bytes are the same whether or
        // not serde_json keeps the order of insertion, which other packages decide.
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(), "config": settings, "created": EPOCH, "history": history,
            "os": "linux", "rootfs": { "diff_ids": diff_ids, "type": "layers" },
        }))?;
        let descriptors: Vec<_> =
            layers.iter().map(|layer| descriptor(layer.media_type, &layer.blob)).collect();
        let manifest = serde_json::to_vec(&json!({
            "config": descriptor(CONFIG, &config), "layers": descriptors, "mediaType": MANIFEST, "schemaVersion": 2,
        }))?;
        Ok(Self { layers, config, manifest })
    }

    /// The digest of the manifest.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// The digest of the configuration, which is the image's id in CRI.
    #[must_use]
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// Configuration and layers, everything a registry stores but the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.config.as_slice())
            .chain(self.layers.iter().map(|layer| layer.blob.as_slice()))
    }

    /// Writes an OCI archive whose one image is named `reference`.
    ///
    /// # Errors
    /// If `path` cannot be written.
    pub fn write_archive(&self, path: &Path, reference: &str) -> Result<()> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut archive = tar::Builder::new(file);
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{
            "mediaType": MANIFEST, "digest": self.digest(), "size": self.manifest.len(),
            "platform": { "architecture": architecture(), "os": "linux" },
            "annotations": { "org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference },
        }]});
        add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add(&mut archive, "index.json", &serde_json::to_vec(&index)?)?;
        for blob in self.blobs().chain([self.manifest.as_slice()]) {
            add(&mut archive, &format!("blobs/{}", digest(blob).replace(':', "/")), blob)?;
        }
        archive.into_inner()?.sync_all()?;
        Ok(())
    }
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "digest": digest(blob), "mediaType": media_type, "size": blob.len() })
}

fn add(archive: &mut tar::Builder<File>, path: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content).with_context(|| format!("write {path}"))
}
