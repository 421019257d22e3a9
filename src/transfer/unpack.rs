//! From a layer's byte stream to a layer directory, in one pass: inflate, hash, extract; and
//! back again.
//!
//! One thread inflates, the other hashes and extracts. The layer's directory becomes a layer
//! only when the hash is the diffID that the image promises; an error on the way deletes it.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/layer.md>

mod archive;
mod extract;
mod header;
mod inflate;
mod pack;
mod pax;
mod rebuild;
mod record;
mod tree;
mod verify;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;

use crate::content::{Algorithm, Digest, Hasher};
use crate::snapshots::{LayerContents, LayerError, LayerLease, LayerWriter};
pub use archive::ArchiveError;
pub(super) use archive::{Archive, Kind};
pub use extract::ExtractError;
use inflate::{Inflated, circle, is_layer};
pub use pack::PackError;
pub(super) use pack::pack;
pub(super) use rebuild::Rebuild;
pub use rebuild::RebuildError;
use record::{Recorded, Recorder};
pub(super) use verify::verify;
pub use verify::{Fault, Verdict};

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
    /// What is remembered of the archive cannot be written.
    #[error("cannot write the record {}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
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
    let hasher = Hasher::new(layer.diff_id().algorithm());
    let contents = read_inflated(source, hasher, |inflated| read_layer(inflated, &layer))?;
    Ok(layer.finish(contents))
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

/// Extracts an archive that is nobody's layer into `directory`; says what came of it. Blocks.
///
/// # Errors
/// [`UnpackError`]; what was extracted stays.
pub(super) fn unpack_into(
    source: impl Read + Send,
    directory: File,
    path: &std::path::Path,
) -> Result<Digest, UnpackError> {
    read_inflated(source, Hasher::new(Algorithm::Sha256), |inflated| {
        let mut archive = Archive::new(Recorder::off(inflated));
        extract::extract(&mut archive, directory)
            .map_err(|source| UnpackError::Extract { path: path.to_owned(), source })?;
        let (inflated, _) = archive.into_source().finish();
        inflated.finish().map_err(UnpackError::End)
    })
}

fn read_inflated<T>(
    source: impl Read + Send,
    hasher: Hasher,
    read: impl FnOnce(Inflated) -> Result<T, UnpackError>,
) -> Result<T, UnpackError> {
    let (inflater, inflated) = circle(hasher);
    thread::scope(|scope| {
        thread::Builder::new()
            .name("inflate".to_owned())
            .spawn_scoped(scope, || inflater.run(source))
            .map_err(UnpackError::StartThread)?;
        // Owned by this closure, so that an error lets the thread go before it is waited for.
        read(inflated)
    })
}

fn read_layer(inflated: Inflated, layer: &LayerWriter) -> Result<LayerContents, UnpackError> {
    let record_path = layer.record_path();
    let not_recorded = |source| UnpackError::Record { path: record_path.clone(), source };
    let directory = layer.create().map_err(UnpackError::Create)?;
    let recorder = File::create(&record_path)
        .and_then(|file| Recorder::on(inflated, file))
        .map_err(not_recorded)?;
    let mut archive = Archive::new(recorder);
    let contents = extract::extract(&mut archive, directory)
        .map_err(|source| UnpackError::Extract { path: layer.path(), source })?;
    let mut recorder = archive.into_source();
    // What follows the archive is part of the layer's digest.
    io::copy(&mut recorder, &mut io::sink()).map_err(UnpackError::End)?;
    let (inflated, recorded) = recorder.finish();
    if recorded.map_err(not_recorded)? == Recorded::Nothing {
        fs::remove_file(&record_path).map_err(not_recorded)?;
    }
    let actual = inflated.finish().map_err(UnpackError::End)?;
    let expected = layer.diff_id().clone();
    if actual == expected { Ok(contents) } else { Err(UnpackError::Mismatch { expected, actual }) }
}

#[cfg(test)]
mod tests;
