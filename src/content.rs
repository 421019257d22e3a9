//! The content store: blobs as files named by their digest.
//!
//! ```text
//! <root>/content/blobs/<algorithm>/<hex>   a whole, verified blob
//! <root>/content/ingest/<number>           a blob being written
//! ```
//!
//! Invariants:
//! - A name under `blobs/` is only ever given, by `rename`, to bytes that have this digest.
//! - Whoever needs a blob holds a [`Blob`], its lease. [`ContentStore::collect`] deletes blobs
//!   that have no lease and that the caller does not name as referenced.
//! - What is in `ingest/` when the store opens was left by a process that died; it is deleted.
//! - Nothing here is flushed: a blob is durable after the `syncfs` that comes before the commit
//!   of its image. A blob that no image refers to is deleted at the next start, so contents that
//!   a power loss spoiled are never served; [`ContentStore::read`] verifies them besides.
//!
//! All methods block. Specification:
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md#blobs>

mod hasher;
mod ingest;

pub use crate::metadata::{Algorithm, Digest, DigestError};
pub use hasher::Hasher;
pub use ingest::Ingest;

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, DirEntry, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

const BLOBS: &str = "blobs";
const INGEST: &str = "ingest";
const PRIVATE_DIRECTORY: u32 = 0o700;
/// `st_blocks` counts these, whatever the file system's block size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// The content store of one directory. A clone is another handle of the same store.
#[derive(Debug, Clone)]
pub struct ContentStore(Arc<Store>);

#[derive(Debug)]
struct Store {
    directory: PathBuf,
    next_ingest: AtomicU64,
    blobs: Mutex<Blobs>,
}

/// What is known of the files, so that neither usage nor leases ask the file system.
#[derive(Debug, Default)]
struct Blobs {
    present: HashMap<Digest, Size>,
    leases: HashMap<Digest, usize>,
}

#[derive(Debug, Clone, Copy)]
struct Size {
    bytes: u64,
    disk_bytes: u64,
}

/// A lease on a blob that is in the store: it is not collected while this lives.
#[derive(Debug)]
pub struct Blob {
    store: Arc<Store>,
    digest: Digest,
    bytes: u64,
}

/// What the store takes of its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentUsage {
    /// Disk space of the blobs.
    pub bytes: u64,
    /// Files.
    pub inodes: u64,
}

/// An operation on the content store failed.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A directory of the store cannot be made.
    #[error("cannot make the content directory {}", path.display())]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A directory of the store cannot be listed, or cleared of what a crash left.
    #[error("cannot scan the content directory {}", path.display())]
    Scan {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file of an ingest cannot be made.
    #[error("cannot start writing a blob at {}", path.display())]
    CreateIngest {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Bytes cannot be written, often because the disk is full.
    #[error("cannot write a blob to {}", path.display())]
    WriteIngest {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The bytes are not those that were asked for.
    #[error("content has digest {actual}, not {expected}")]
    Mismatch {
        /// What was asked for.
        expected: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// The finished file cannot be given its name.
    #[error("cannot commit blob {digest}")]
    Commit {
        /// The blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The blob is not in the store.
    #[error("blob {0} is not in the content store")]
    NotFound(Digest),
    /// The blob is larger than its reader allows.
    #[error("blob {digest} has {bytes} bytes, more than {limit}")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        bytes: u64,
        /// What the reader allows.
        limit: u64,
    },
    /// The blob's file cannot be read.
    #[error("cannot read blob {digest}")]
    Read {
        /// The blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The blob's file cannot be deleted.
    #[error("cannot delete blob {digest}")]
    Delete {
        /// The blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl ContentStore {
    /// Opens, or makes, the store in `directory`, and deletes unfinished ingests.
    ///
    /// # Errors
    /// [`ContentError::CreateDirectory`] and [`ContentError::Scan`].
    pub fn open(directory: &Path) -> Result<Self, ContentError> {
        let mut blobs = Blobs::default();
        for algorithm in Algorithm::ALL {
            let path = directory.join(BLOBS).join(algorithm.as_str());
            create_directory(&path)?;
            scan(&path, |entry| {
                let name = entry.file_name();
                let hex = name.to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok());
                if let Some(digest) = hex {
                    blobs.present.insert(digest, Size::of(&entry.metadata()?));
                }
                Ok(())
            })?;
        }
        let ingest = directory.join(INGEST);
        create_directory(&ingest)?;
        scan(&ingest, |entry| fs::remove_file(entry.path()))?;
        Ok(Self(Arc::new(Store {
            directory: directory.to_owned(),
            next_ingest: AtomicU64::new(0),
            blobs: Mutex::new(blobs),
        })))
    }

    /// The store's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// Starts writing a blob whose digest will be of `algorithm`.
    ///
    /// # Errors
    /// [`ContentError::CreateIngest`].
    ///
    /// # Crash safety
    /// An ingest that is dropped, or whose process dies, leaves nothing that is ever served.
    pub fn ingest(&self, algorithm: Algorithm) -> Result<Ingest, ContentError> {
        Ingest::start(&self.0, algorithm)
    }

    /// Stores bytes that are in memory, if they have the digest `expected`.
    ///
    /// # Errors
    /// Those of [`ContentStore::ingest`], [`Ingest::append`] and [`Ingest::commit`].
    pub fn put(&self, bytes: &[u8], expected: &Digest) -> Result<Blob, ContentError> {
        let mut ingest = self.ingest(expected.algorithm())?;
        ingest.append(bytes)?;
        ingest.commit(Some(expected))
    }

    /// A lease on a blob, if it is in the store.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> Option<Blob> {
        let mut blobs = self.0.blobs();
        let bytes = blobs.present.get(digest)?.bytes;
        Some(Store::lease(&self.0, &mut blobs, digest.clone(), bytes))
    }

    /// Every blob and its size in bytes, by digest.
    #[must_use]
    pub fn list(&self) -> Vec<(Digest, u64)> {
        let mut list: Vec<_> = self
            .0
            .blobs()
            .present
            .iter()
            .map(|(digest, size)| (digest.clone(), size.bytes))
            .collect();
        list.sort_unstable();
        list
    }

    /// Reads a whole blob of at most `limit` bytes, and verifies it.
    ///
    /// # Errors
    /// [`ContentError::NotFound`], [`ContentError::TooLarge`], [`ContentError::Read`], and
    /// [`ContentError::Mismatch`] when the disk does not give back what was written.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let failed = |source| ContentError::Read { digest: digest.clone(), source };
        let file = self.open_blob(digest)?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes > limit {
            return Err(ContentError::TooLarge { digest: digest.clone(), bytes, limit });
        }
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content).map_err(failed)?;
        let actual = Hasher::digest(digest.algorithm(), &content);
        if actual == *digest {
            Ok(content)
        } else {
            Err(ContentError::Mismatch { expected: digest.clone(), actual })
        }
    }

    /// Reads a whole blob, of any length, and compares its digest.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn verify(&self, digest: &Digest) -> Result<(), ContentError> {
        let mut file = self.open_blob(digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        io::copy(&mut file, &mut hasher)
            .map_err(|source| ContentError::Read { digest: digest.clone(), source })?;
        let actual = hasher.finish();
        if actual == *digest {
            Ok(())
        } else {
            Err(ContentError::Mismatch { expected: digest.clone(), actual })
        }
    }

    /// How many leases keep a blob now.
    #[must_use]
    pub fn leases(&self, digest: &Digest) -> usize {
        self.0.blobs().leases.get(digest).copied().unwrap_or_default()
    }

    /// Opens a blob for reading; its bytes are not verified again.
    ///
    /// # Errors
    /// [`ContentError::NotFound`] and [`ContentError::Read`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ContentError> {
        match File::open(self.0.blob_path(digest)) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ContentError::NotFound(digest.clone()))
            }
            Err(source) => Err(ContentError::Read { digest: digest.clone(), source }),
        }
    }

    /// The blobs that were written at this time or later. Blocks.
    ///
    /// # Errors
    /// [`ContentError::Read`].
    pub fn written_since(&self, since: SystemTime) -> Result<Vec<Digest>, ContentError> {
        let mut newer = Vec::new();
        for (digest, _) in self.list() {
            let written = fs::metadata(self.0.blob_path(&digest)).and_then(|file| file.modified());
            let failed = |source| ContentError::Read { digest: digest.clone(), source };
            if written.map_err(failed)? >= since {
                newer.push(digest);
            }
        }
        Ok(newer)
    }

    /// Deletes a damaged blob, whoever refers to it. Blocks.
    ///
    /// # Errors
    /// [`ContentError::Delete`].
    pub fn discard(&self, digest: &Digest) -> Result<(), ContentError> {
        let mut blobs = self.0.blobs();
        match fs::remove_file(self.0.blob_path(digest)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ContentError::Delete { digest: digest.clone(), source })
            }
            Ok(()) | Err(_) => {
                blobs.present.remove(digest);
                Ok(())
            }
        }
    }

    /// Deletes every blob that has no lease and is not in `referenced`; says which, and how many
    /// bytes each had.
    ///
    /// # Errors
    /// [`ContentError::Delete`]; blobs deleted before it stay deleted.
    pub fn collect(
        &self,
        referenced: &HashSet<Digest>,
    ) -> Result<Vec<(Digest, u64)>, ContentError> {
        let mut blobs = self.0.blobs();
        let unused: Vec<(Digest, u64)> = blobs
            .present
            .iter()
            .filter(|(digest, _)| {
                !referenced.contains(digest) && !blobs.leases.contains_key(digest)
            })
            .map(|(digest, size)| (digest.clone(), size.bytes))
            .collect();
        for (digest, _) in &unused {
            match fs::remove_file(self.0.blob_path(digest)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(ContentError::Delete { digest: digest.clone(), source });
                }
                Ok(()) | Err(_) => blobs.present.remove(digest),
            };
        }
        Ok(unused)
    }

    /// What the blobs take of the file system; does not touch it.
    #[must_use]
    pub fn usage(&self) -> ContentUsage {
        let blobs = self.0.blobs();
        ContentUsage {
            bytes: blobs.present.values().map(|size| size.disk_bytes).sum(),
            inodes: blobs.present.len() as u64,
        }
    }
}

impl Store {
    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(BLOBS).join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn lease(store: &Arc<Self>, blobs: &mut Blobs, digest: Digest, bytes: u64) -> Blob {
        *blobs.leases.entry(digest.clone()).or_default() += 1;
        Blob { store: Arc::clone(store), digest, bytes }
    }
}

impl Blob {
    /// The blob's digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The blob's length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        let mut blobs = self.store.blobs();
        if let Some(count) = blobs.leases.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                blobs.leases.remove(&self.digest);
            }
        }
    }
}

impl Size {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { bytes: metadata.len(), disk_bytes: metadata.blocks() * STAT_BLOCK_BYTES }
    }
}

fn create_directory(path: &Path) -> Result<(), ContentError> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY)
        .create(path)
        .map_err(|source| ContentError::CreateDirectory { path: path.to_owned(), source })
}

fn scan(
    path: &Path,
    mut each: impl FnMut(&DirEntry) -> io::Result<()>,
) -> Result<(), ContentError> {
    fs::read_dir(path)
        .and_then(|mut entries| entries.try_for_each(|entry| each(&entry?)))
        .map_err(|source| ContentError::Scan { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
