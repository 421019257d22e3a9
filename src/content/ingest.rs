//! Writing a blob: a temporary file that gets its name when its digest is known.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Algorithm, Blob, ContentError, Digest, Hasher, INGEST, Size, Store};

const PRIVATE_FILE: u32 = 0o600;

/// A blob that is being written. Dropping it deletes what was written.
#[derive(Debug)]
pub struct Ingest {
    store: Arc<Store>,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    bytes: u64,
}

impl Ingest {
    pub(super) fn start(store: &Arc<Store>, algorithm: Algorithm) -> Result<Self, ContentError> {
        let number = store.next_ingest.fetch_add(1, Ordering::Relaxed);
        let path = store.directory.join(INGEST).join(number.to_string());
        let opened = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&path);
        match opened {
            Ok(file) => Ok(Self {
                store: Arc::clone(store),
                path,
                file,
                hasher: Hasher::new(algorithm),
                bytes: 0,
            }),
            Err(source) => Err(ContentError::CreateIngest { path, source }),
        }
    }

    /// Bytes written so far; where a resumed download goes on.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`ContentError::WriteIngest`] with the path and the cause, as when the disk is full.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.file
            .write_all(bytes)
            .map_err(|source| ContentError::WriteIngest { path: self.path.clone(), source })?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Gives the blob its name. Committing what is there already is fine.
    ///
    /// # Errors
    /// [`ContentError::Mismatch`] when the bytes are not `expected`, [`ContentError::Commit`].
    /// Nothing is left of the bytes then.
    ///
    /// # Crash safety
    /// The blob is there whole or not at all; see the module for power loss.
    pub fn commit(self, expected: Option<&Digest>) -> Result<Blob, ContentError> {
        let digest = self.hasher.clone().finish();
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(ContentError::Mismatch { expected: expected.clone(), actual: digest });
        }
        let failed = |source| ContentError::Commit { digest: digest.clone(), source };
        let size = Size::of(&self.file.metadata().map_err(failed)?);
        // Under the lock, so that a collection cannot come between the name and the lease.
        let mut blobs = self.store.blobs();
        fs::rename(&self.path, self.store.blob_path(&digest)).map_err(failed)?;
        blobs.present.insert(digest.clone(), size);
        Ok(Store::lease(&self.store, &mut blobs, digest, self.bytes))
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a commit the name is gone; what cannot be deleted is deleted at the next start.
        fs::remove_file(&self.path).ok();
    }
}
