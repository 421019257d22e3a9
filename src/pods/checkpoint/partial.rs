//! Directories of unfinished checkpoints: beside the place where the checkpoint is to be, and
//! on record below the daemon's root, so that the next daemon finds what this one left.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::CheckpointError;
use crate::pods::new_id;

/// What the names of such directories begin with.
const PREFIX: &str = ".orlop-";

/// How many digits of an id make a name.
const DIGITS: usize = 16;

/// How often a directory is removed that something still writes to.
const TRIES: u32 = 50;

/// An unfinished checkpoint's directory, which goes when it is dropped.
#[derive(Debug)]
pub(in crate::pods) struct Partial {
    path: PathBuf,
    record: PathBuf,
}

impl Partial {
    /// Makes one in `parent`; `records` is the directory of records.
    pub(super) fn begin(records: &Path, parent: &Path) -> Result<Self, CheckpointError> {
        let id: String = new_id().chars().take(DIGITS).collect();
        let path = parent.join(format!("{PREFIX}{id}"));
        let record = records.join(id);
        write_down(&record, &path).map_err(failed("record the checkpoint in", &record))?;
        let partial = Self { path, record };
        DirBuilder::new()
            .mode(0o700)
            .create(&partial.path)
            .map_err(failed("make", &partial.path))?;
        Ok(partial)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        remove(&self.path, &self.record);
    }
}

fn write_down(record: &Path, path: &Path) -> io::Result<()> {
    if let Some(directory) = record.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut file = File::create_new(record)?;
    file.write_all(path.as_os_str().as_bytes())?;
    file.sync_all()
}

/// What earlier daemons left unfinished; it goes when it is dropped, which blocks as long as
/// the file systems do that it is on.
pub(in crate::pods) fn unfinished(records: &Path) -> Vec<Partial> {
    let records = fs::read_dir(records).into_iter().flatten().flatten();
    records.filter_map(|record| recorded(record.path())).collect()
}

fn recorded(record: PathBuf) -> Option<Partial> {
    let path = PathBuf::from(OsString::from_vec(fs::read(&record).ok()?));
    let mut name = OsString::from(PREFIX);
    name.push(record.file_name()?);
    // Or the daemon ended while it wrote this, and had made nothing yet.
    let is_whole = path.file_name() == Some(&name);
    Some(Partial { path: if is_whole { path } else { PathBuf::new() }, record })
}

/// Removes a directory, then its record, which stays if the directory does.
fn remove(path: &Path, record: &Path) {
    let mut tries = 0..TRIES;
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                // criu was killed, and has not noticed yet.
                if tries.next().is_some() {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                tracing::warn!(path = %path.display(), %error, "an unfinished checkpoint stays");
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "an unfinished checkpoint stays");
            }
            _ => {
                // Or it was never written.
                let _ = fs::remove_file(record);
            }
        }
        return;
    }
}

/// A step with a file that failed.
pub(super) fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::File { step, path, source }
}
