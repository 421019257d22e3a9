//! What a pull reads of an image configuration: its platform and its layers' diffIDs.
//!
//! Everything else in it is for those who run the image. Invariant: there are as many diffIDs
//! as layers, so each layer has a digest to be verified against after decompression.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/config.md>

use serde::Deserialize;

use super::platform::Platform;
use crate::content::Digest;

/// The parts of an image configuration that decide what is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfigBlob {
    /// What the image runs on, where the configuration says.
    pub(super) platform: Option<Platform>,
    /// Digests of the uncompressed layers, bottom first.
    pub(super) diff_ids: Vec<Digest>,
}

/// An image configuration does not fit its manifest.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The bytes are not the JSON they should be.
    #[error("cannot parse the config")]
    Parse(#[source] serde_json::Error),
    /// The root file system is described in an unknown way.
    #[error("rootfs.type is {0:?}, not \"layers\"")]
    RootfsType(String),
    /// Layers and diffIDs do not pair up.
    #[error("the config has {diff_ids} diffIDs, the manifest has {layers} layers")]
    LayerCount {
        /// In the configuration.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
    /// The configuration is larger than any real one.
    #[error("the config has {size} bytes, more than {limit}")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Rootfs {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

/// Reads the configuration of an image with `layers` layers.
///
/// # Errors
/// [`ConfigError`]; see there.
pub(super) fn parse(bytes: &[u8], layers: usize) -> Result<ConfigBlob, ConfigError> {
    let document: Document = serde_json::from_slice(bytes).map_err(ConfigError::Parse)?;
    if !matches!(document.rootfs.kind.as_str(), "layers" | "") {
        return Err(ConfigError::RootfsType(document.rootfs.kind));
    }
    let diff_ids = document.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != layers {
        return Err(ConfigError::LayerCount { diff_ids: diff_ids.len(), layers });
    }
    let known = !document.os.is_empty() && !document.architecture.is_empty();
    let variant = document.variant.as_deref().unwrap_or_default();
    let platform =
        known.then(|| Platform::normalised(&document.os, &document.architecture, variant));
    Ok(ConfigBlob { platform, diff_ids })
}

#[cfg(test)]
mod tests;
