//! Small images for the tests: layers of one file each, with their config and manifest.

use std::io::Write;

use serde_json::{Value, json};

use crate::registry::{Registry, digest};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// One layer, ready to be served.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) media_type: String,
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: String,
}

impl Layer {
    /// A layer with one file.
    pub(crate) fn file(name: &str, content: &[u8], compression: Compression) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        archive.append_data(&mut header, name, content).unwrap();
        let tar = archive.into_inner().unwrap();
        let (suffix, blob) = match compression {
            Compression::Plain => ("", tar.clone()),
            Compression::Gzip => ("+gzip", gzip(&tar)),
            Compression::Zstd => ("+zstd", zstd::encode_all(tar.as_slice(), 3).unwrap()),
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        Self { media_type, blob, diff_id: digest(&tar) }
    }

    /// A gzipped layer of about `size` bytes that do not compress.
    pub(crate) fn noise(name: &str, size: usize) -> Self {
        let mut bytes = vec![0; size];
        getrandom::fill(&mut bytes).unwrap();
        Self::file(name, &bytes, Compression::Gzip)
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.blob)
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image configuration for these layers.
pub(crate) fn config(os: &str, architecture: &str, layers: &[Layer]) -> Vec<u8> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    json!({
        "os": os,
        "architecture": architecture,
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

/// A manifest document in OCI's or Docker's words.
pub(crate) fn manifest(media_type: &str, config: &Value, layers: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers})
}

/// An index document; each entry is a descriptor and `os/architecture[/variant]`.
pub(crate) fn index(media_type: &str, entries: &[(Value, &str)]) -> Value {
    let entry = |(descriptor, platform): &(Value, &str)| {
        let mut descriptor = descriptor.clone();
        let mut parts = platform.split('/');
        if let (Some(os), Some(architecture)) = (parts.next(), parts.next()) {
            descriptor["platform"] = json!({"os": os, "architecture": architecture});
            if let Some(variant) = parts.next() {
                descriptor["platform"]["variant"] = json!(variant);
            }
        }
        descriptor
    };
    let manifests: Vec<Value> = entries.iter().map(entry).collect();
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})
}

/// The architecture of this machine in OCI's words.
pub(crate) fn architecture() -> String {
    orlop::transfer::Platform::host().architecture
}

/// Serves an image of these layers; gives its manifest's descriptor.
pub(crate) fn serve(registry: &Registry, tag: Option<&str>, layers: &[Layer]) -> Value {
    serve_as(registry, tag, layers, OCI_MANIFEST, &architecture())
}

/// As [`serve`], in either form and for any architecture.
pub(crate) fn serve_as(
    registry: &Registry,
    tag: Option<&str>,
    layers: &[Layer],
    media_type: &str,
    architecture: &str,
) -> Value {
    let docker = media_type == DOCKER_MANIFEST;
    let config_type = if docker { DOCKER_CONFIG } else { OCI_CONFIG };
    let config = registry.put_blob(config_type, &config("linux", architecture, layers));
    let put = |layer: &Layer| {
        let docker_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let layer_type = if docker { docker_type } else { &layer.media_type };
        registry.put_blob(layer_type, &layer.blob)
    };
    let layers: Vec<Value> = layers.iter().map(put).collect();
    let document = manifest(media_type, &config, &layers).to_string();
    registry.put_manifest(tag, media_type, document.as_bytes())
}
