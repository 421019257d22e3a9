//! An image of the store as an archive: an OCI image layout, or what `docker load` takes.
//!
//! The archive is written in one pass and the same image gives the same bytes. A tar says the
//! length of a file before its content, so a layer whose blob was dropped goes into a layout as
//! its uncompressed archive, whose digest and length are known before. Into a docker archive
//! layers go uncompressed where they can be made again. Invariant: an archive ends well only
//! when all of it was verified: what is damaged breaks it off.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>,
//! <https://github.com/moby/moby/blob/master/image/spec/v1.2.md>

use std::io::{self, Read, Write};
use std::sync::Arc;

use serde_json::json;
use tar::{Builder, Header};

use super::manifest::{Descriptor, OCI_INDEX};
use super::platform::Platform;
use super::progress::Progress;
use super::pull::Pipeline;
use super::stored::{
    LayerBytes, Outgoing, OutgoingLayer, Packing, Recompressed, StoredError, StoredImage,
    layer_type, with_layers,
};
use super::tasks::Lost;
use crate::content::{Algorithm, ContentStore, Digest, Hasher};
use crate::snapshots::Snapshots;

/// What an archive of images looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// What `docker save` writes.
    Docker,
}

/// An image cannot be exported; what was written is no archive.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The image cannot be read.
    #[error("cannot read the image")]
    Stored(#[from] StoredError),
    /// The manifest cannot be written anew.
    #[error("cannot write the manifest")]
    Manifest(#[source] serde_json::Error),
    /// The archive cannot be written, or a layer not be read to its end.
    #[error("cannot write {name} of the archive")]
    Write {
        /// The file's name in the archive.
        name: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The thread that did the work is gone.
    #[error("the export was lost")]
    Task(#[source] Lost),
}

/// What an archive holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The manifest in the archive; for a docker archive that of the image.
    pub manifest: Digest,
    /// Layers that went out uncompressed, so that the manifest is another one.
    pub recompressed: Vec<Recompressed>,
}

impl Pipeline {
    /// Writes `image` to `to`, under these names.
    ///
    /// # Errors
    /// [`ExportError`]; what was written breaks off then.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; the work ends when `to` fails.
    pub async fn export(
        &self,
        image: &StoredImage,
        names: Vec<String>,
        format: ArchiveFormat,
        to: impl Write + Send + 'static,
        progress: &Arc<Progress>,
    ) -> Result<Exported, ExportError> {
        let outgoing = self.outgoing(image).await?;
        let export = Export {
            content: self.content.clone(),
            snapshots: self.snapshots.clone(),
            progress: Arc::clone(progress),
            names,
        };
        let write = move || match format {
            ArchiveFormat::Oci => export.oci(&outgoing, to),
            ArchiveFormat::Docker => export.docker(&outgoing, to),
        };
        self.tasks.run_blocking(write).await.map_err(ExportError::Task)?
    }
}

struct Export {
    content: ContentStore,
    snapshots: Snapshots,
    progress: Arc<Progress>,
    names: Vec<String>,
}

impl Export {
    fn oci(&self, outgoing: &Outgoing, to: impl Write) -> Result<Exported, ExportError> {
        let mut layers = Vec::with_capacity(outgoing.layers.len());
        for layer in &outgoing.layers {
            layers.push(self.oci_layer(outgoing, layer)?);
        }
        let (manifest, recompressed) =
            with_layers(outgoing, &layers).map_err(ExportError::Manifest)?;
        let digest = match recompressed.as_slice() {
            [] => outgoing.manifest_digest.clone(),
            _ => Hasher::digest(Algorithm::Sha256, &manifest),
        };
        let total = layers.iter().map(|layer| layer.size).sum();
        self.progress.expect_stream(total);
        let described = |name: Option<&String>| {
            let mut entry = json!({
                "mediaType": outgoing.media_type, "digest": digest, "size": manifest.len(),
                "platform": platform_of(&outgoing.config_bytes),
            });
            if let (Some(name), Some(entry)) = (name, entry.as_object_mut()) {
                let annotations = json!({
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": tag_of(name),
                });
                entry.insert("annotations".to_owned(), annotations);
            }
            entry
        };
        let mut entries: Vec<_> = self.names.iter().map(|name| described(Some(name))).collect();
        if entries.is_empty() {
            entries.push(described(None));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        let mut archive = Archive(Builder::new(to));
        archive.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.document("index.json", index.to_string().as_bytes())?;
        archive.document(&blob_name(&digest), &manifest)?;
        archive.document(&blob_name(&outgoing.config.digest), &outgoing.config_bytes)?;
        let mut written = std::collections::HashSet::new();
        for (layer, descriptor) in outgoing.layers.iter().zip(&layers) {
            if written.insert(&descriptor.digest) {
                let bytes: Box<dyn Read> = match layer.open(&self.content, &self.snapshots)? {
                    LayerBytes::Blob(blob) => blob,
                    LayerBytes::Archive(archive) => archive,
                };
                archive.stream(
                    &blob_name(&descriptor.digest),
                    descriptor.size,
                    self.counted(bytes),
                )?;
            }
        }
        archive.end()?;
        Ok(Exported { manifest: digest, recompressed })
    }

    /// What a layer is in a layout: its blob if it is here, else its archive.
    fn oci_layer(
        &self,
        outgoing: &Outgoing,
        layer: &OutgoingLayer,
    ) -> Result<Descriptor, ExportError> {
        if layer.is_as_it_came() {
            return Ok(layer.descriptor.clone());
        }
        Ok(Descriptor::of(
            layer_type(&outgoing.media_type, Packing::Tar),
            layer.diff_id.clone(),
            layer.archive(&self.snapshots)?.archive_bytes(),
        ))
    }

    fn docker(&self, outgoing: &Outgoing, to: impl Write) -> Result<Exported, ExportError> {
        let config = format!("{}.json", outgoing.config.digest.hex());
        let name = |layer: &Arc<OutgoingLayer>| format!("{}.tar", layer.diff_id.hex());
        let layers: Vec<String> = outgoing.layers.iter().map(name).collect();
        let saved = json!([{ "Config": config, "RepoTags": self.names, "Layers": layers }]);
        let total = outgoing.layers.iter().map(|layer| match layer.archive(&self.snapshots) {
            Ok(archive) => archive.archive_bytes(),
            Err(_made_by_an_older_release) => layer.descriptor.size,
        });
        self.progress.expect_stream(total.sum());
        let mut archive = Archive(Builder::new(to));
        archive.document("manifest.json", saved.to_string().as_bytes())?;
        archive.document(&config, &outgoing.config_bytes)?;
        let mut written = std::collections::HashSet::new();
        for (layer, name) in outgoing.layers.iter().zip(&layers) {
            if !written.insert(name) {
                continue;
            }
            let (size, bytes): (u64, Box<dyn Read>) = match layer.archive(&self.snapshots) {
                Ok(archive) => (archive.archive_bytes(), Box::new(archive)),
                Err(error @ StoredError::Encrypted(_)) => return Err(error.into()),
                Err(_) if layer.is_as_it_came() => {
                    match layer.open(&self.content, &self.snapshots)? {
                        LayerBytes::Blob(blob) => (layer.descriptor.size, blob),
                        LayerBytes::Archive(archive) => (archive.archive_bytes(), archive),
                    }
                }
                Err(error) => return Err(error.into()),
            };
            archive.stream(name, size, self.counted(bytes))?;
        }
        archive.end()?;
        Ok(Exported { manifest: outgoing.manifest_digest.clone(), recompressed: Vec::new() })
    }

    fn counted<'a>(&'a self, source: Box<dyn Read + 'a>) -> impl Read + 'a {
        Counted { source, progress: &self.progress }
    }
}

struct Counted<'a> {
    source: Box<dyn Read + 'a>,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.progress.streamed(read);
        Ok(read)
    }
}

struct Archive<W: Write>(Builder<W>);

impl<W: Write> Archive<W> {
    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.stream(name, bytes.len() as u64, bytes)
    }

    fn stream(&mut self, name: &str, size: u64, bytes: impl Read) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write { name: name.to_owned(), source };
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(size);
        let mut bytes = Whole { source: bytes, left: size };
        self.0.append_data(&mut header, name, &mut bytes).map_err(failed)?;
        // A source may verify what it gave only when it is asked for more.
        bytes.expect_end().map_err(failed)
    }

    fn end(self) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write { name: "the end".to_owned(), source };
        let mut to = self.0.into_inner().map_err(failed)?;
        to.flush().map_err(failed)
    }
}

/// Exactly so many bytes.
struct Whole<R> {
    source: R,
    left: u64,
}

impl<R: Read> Whole<R> {
    fn expect_end(&mut self) -> io::Result<()> {
        match self.source.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than it should be")),
        }
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let read = self.source.read(buffer)?;
        self.left -= read as u64;
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// What stands behind the colon, which is how other tools find an image in a layout.
fn tag_of(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or_default();
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

fn platform_of(config: &[u8]) -> serde_json::Value {
    let config: serde_json::Value = serde_json::from_slice(config).unwrap_or_default();
    let field = |name: &str| config.get(name).and_then(serde_json::Value::as_str);
    let host = Platform::host();
    let mut platform = json!({
        "architecture": field("architecture").unwrap_or(&host.architecture),
        "os": field("os").unwrap_or(&host.os),
    });
    if let (Some(variant), Some(platform)) = (field("variant"), platform.as_object_mut()) {
        platform.insert("variant".to_owned(), variant.into());
    }
    platform
}
