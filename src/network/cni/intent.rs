//! A small file per attachment, `<cache_dir>/<pod id>.json`, written before the first plugin
//! of an ADD runs and removed after DEL: what is needed for a DEL when the daemon dies before
//! the pod's record says it.
//!
//! It is replaced in one step, so it is whole or absent, but not forced to the disk: losing
//! the last ones in a power failure costs addresses that the GC verb gives back.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::task::{JoinError, spawn_blocking};

use crate::network::attachment::CniAttachment;

const ENDING: &str = ".json";

/// Why an intent was not written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum IntentError {
    /// The blocking part was not run.
    #[error("running the work on files")]
    Run(#[source] JoinError),
    /// The pod id is not a file name.
    #[error("pod id {id:?} is not a file name")]
    Id {
        /// The id.
        id: String,
    },
    /// The attachment has no written form.
    #[error("writing the attachment down")]
    Encode(#[source] serde_json::Error),
    /// The file system refused.
    #[error("{path}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IntentError> + Send + 'static,
) -> Result<T, IntentError> {
    spawn_blocking(work).await.map_err(IntentError::Run)?
}

fn path_of(directory: &Path, id: &str) -> Result<PathBuf, IntentError> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(IntentError::Id { id: id.to_owned() });
    }
    Ok(directory.join(format!("{id}{ENDING}")))
}

pub(super) async fn write(
    directory: &Path,
    id: &str,
    attachment: &CniAttachment,
) -> Result<(), IntentError> {
    let path = path_of(directory, id)?;
    let bytes = serde_json::to_vec(attachment).map_err(IntentError::Encode)?;
    blocking(move || {
        let new = path.with_extension("new");
        let file = |source| IntentError::File { path: new.clone(), source };
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(file)?;
        fs::rename(&new, &path).map_err(file)
    })
    .await
}

/// The intent of a pod, if there is one. A file that is none is reported and left out: it
/// cannot be acted on, and must not hold its pod for ever.
pub(super) async fn read(directory: &Path, id: &str) -> Result<Option<CniAttachment>, IntentError> {
    let path = path_of(directory, id)?;
    blocking(move || {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IntentError::File { path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(attachment) => Ok(Some(attachment)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "unreadable CNI intent, left out");
                Ok(None)
            }
        }
    })
    .await
}

pub(super) async fn remove(directory: &Path, id: &str) -> Result<(), IntentError> {
    let path = path_of(directory, id)?;
    blocking(move || match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(IntentError::File { path, source })
        }
        _ => Ok(()),
    })
    .await
}

/// The pods that have an intent.
pub(super) async fn list(directory: &Path) -> Result<Vec<String>, IntentError> {
    let directory = directory.to_path_buf();
    blocking(move || {
        let refused = |source| IntentError::File { path: directory.clone(), source };
        let mut pods = Vec::new();
        for entry in fs::read_dir(&directory).map_err(refused)? {
            let name = entry.map_err(refused)?.file_name();
            pods.extend(name.to_str().and_then(|n| n.strip_suffix(ENDING)).map(str::to_owned));
        }
        Ok(pods)
    })
    .await
}
