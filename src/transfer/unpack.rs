//! From a layer's byte stream to a layer directory, in one pass: inflate, hash, extract.

//!
//! One thread inflates, the other hashes and extracts. The layer's directory becomes a layer
//! only when the hash is the diffID that the image promises; an error on the way deletes it.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/layer.md>

mod archive;
mod extract;
mod header;
mod inflate;
mod pax;
mod tree;

use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;

use crate::content::{Algorithm, Digest, Hasher};
use crate::snapshots::{LayerContents, LayerError, LayerLease, LayerWriter};
pub use archive::ArchiveError;
pub(super) use archive::{Archive, Kind};
pub use extract::ExtractError;
use inflate::{Inflated, circle, is_layer};

/// A layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The media type is not that of a layer.
    #[error("media type {0:?} is not that of a layer")]
    MediaType(String),
    /// The layer's directory cannot be made.
    #[error("cannot start a layer")]
    Create(#[source] LayerError),
    /// The thread that inflates cannot be started.
    #[error("cannot start a thread to inflate a layer")]
    StartThread(#[source] io::Error),
    /// The archive cannot be read or its files cannot be made; a full disk is seen here.
    #[error("cannot unpack a layer into {}", path.display())]
    Extract {
        /// The layer's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: ExtractError,
    },
    /// What follows the archive cannot be read.
    #[error("cannot read the end of the layer")]
    End(#[source] io::Error),
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
    if !is_layer(media_type) {
        return Err(UnpackError::MediaType(media_type.to_owned()));
    }
    let (inflater, inflated) = circle(Hasher::new(layer.diff_id().algorithm()));
    thread::scope(|scope| {
        thread::Builder::new()
            .name("inflate".to_owned())
            .spawn_scoped(scope, || inflater.run(source))
            .map_err(UnpackError::StartThread)?;
        // Owned by this closure, so that an error lets the thread go before it is waited for.
        let contents = read_layer(inflated, &layer)?;
        Ok(layer.finish(contents))
    })
}

/// Reads an archive, compressed or not, that is not a layer; to its very end.
///
/// # Errors
/// What `read` says, and [`UnpackError`] when there is no thread or the end is damaged.
pub(super) fn read_archive<T, E: From<UnpackError>>(
    source: impl Read + Send,
    read: impl FnOnce(&mut Archive<Inflated>) -> Result<T, E>,
) -> Result<T, E> {
    let (inflater, inflated) = circle(Hasher::new(Algorithm::Sha256));
    thread::scope(|scope| {
        thread::Builder::new()
            .name("inflate".to_owned())
            .spawn_scoped(scope, || inflater.run(source))
            .map_err(UnpackError::StartThread)?;
        let mut archive = Archive::new(inflated);
        let value = read(&mut archive)?;
        archive.into_source().finish().map_err(UnpackError::End)?;
        Ok(value)
    })
}

fn read_layer(inflated: Inflated, layer: &LayerWriter) -> Result<LayerContents, UnpackError> {
    let directory = layer.create().map_err(UnpackError::Create)?;
    let mut archive = Archive::new(inflated);
    let contents = extract::extract(&mut archive, directory)
        .map_err(|source| UnpackError::Extract { path: layer.path(), source })?;
    let actual = archive.into_source().finish().map_err(UnpackError::End)?;
    let expected = layer.diff_id().clone();
    if actual == expected { Ok(contents) } else { Err(UnpackError::Mismatch { expected, actual }) }
}

#[cfg(test)]
mod tests;
