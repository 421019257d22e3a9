//! What surely is on the disk, so that after a power cut only the rest is looked at.
//!
//! A commit flushes before it records; but many a disk says that it has written what it still
//! holds in its cache. So `<root>/settled` names what was committed a while ago. It is there while
//! a daemon runs, and taken away when one ends in good order. Who finds it with the id of another
//! boot comes after a power cut or a crash of the machine, and verifies what is newer. With the id
//! of this boot only the daemon died, and the kernel still has all that was written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::snapshots::Snapshots;

const NAME: &str = "settled";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How often it is written anew. What was committed one such time ago has left every cache.
pub(super) const INTERVAL: Duration = Duration::from_secs(120);

/// The mark cannot be read, written or taken away.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep {}", path.display())]
pub struct SettledError {
    path: PathBuf,
    source: io::Error,
}

/// Up to where nothing needs to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    boot_id: String,
    /// Layers up to this number.
    pub(super) layer: u64,
    /// Blobs that were written before this, in seconds since 1970.
    since_s: u64,
}

/// The mark of this daemon.
#[derive(Debug)]
pub(super) struct Settled {
    root: PathBuf,
    written: Mark,
    /// What was true at the last look.
    seen: Mark,
}

impl Mark {
    /// Blobs that were written before this.
    pub(super) fn since(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.since_s)
    }

    fn now(boot_id: &str, snapshots: &Snapshots) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (boot_id, layer) = (boot_id.to_owned(), snapshots.settled());
        Self { boot_id, layer, since_s: since.as_secs() }
    }
}

/// What an earlier boot left unsettled; `None` when its daemon ended in good order, or when the
/// boot is the same. Blocks.
///
/// # Errors
/// [`SettledError`].
pub(super) fn left_behind(root: &Path) -> Result<Option<Mark>, SettledError> {
    let found = read(root).and_then(|found| Ok((found, boot_id()?)));
    let (found, now) = found.map_err(|source| failed(root, source))?;
    Ok(found.filter(|mark| mark.boot_id != now))
}

/// Says that a daemon runs and what is settled; to be called when nothing of an earlier boot is
/// left to be looked at. Blocks.
///
/// # Errors
/// [`SettledError`].
pub(super) fn begin(root: &Path, snapshots: &Snapshots) -> Result<Settled, SettledError> {
    let begin = || {
        let now = Mark::now(&boot_id()?, snapshots);
        // A daemon of this boot that was killed had not settled more than it said.
        let written = read(root)?.filter(|mark| mark.boot_id == now.boot_id);
        let written = written.unwrap_or_else(|| now.clone());
        write(root, &written)?;
        Ok(Settled { root: root.to_owned(), written, seen: now })
    };
    begin().map_err(|source| failed(root, source))
}

impl Settled {
    /// To be called each [`INTERVAL`]: what was committed at the last call is settled now.
    /// Blocks.
    ///
    /// # Errors
    /// [`SettledError`].
    pub(super) fn advance(&mut self, snapshots: &Snapshots) -> Result<(), SettledError> {
        if self.seen.layer > self.written.layer {
            write(&self.root, &self.seen).map_err(|source| failed(&self.root, source))?;
            self.written = self.seen.clone();
        }
        self.seen = Mark::now(&self.seen.boot_id, snapshots);
        Ok(())
    }

    /// Says that the daemon ends in good order. Blocks.
    ///
    /// # Errors
    /// [`SettledError`].
    pub(super) fn end(&self) -> Result<(), SettledError> {
        let end = || {
            let root = File::open(&self.root)?;
            rustix::fs::syncfs(&root)?;
            fs::remove_file(self.root.join(NAME))?;
            root.sync_all()
        };
        end().map_err(|source| failed(&self.root, source))
    }
}

/// One that cannot be understood settles nothing.
fn read(root: &Path) -> io::Result<Option<Mark>> {
    match fs::read(root.join(NAME)) {
        Ok(bytes) => {
            let nothing = Mark { boot_id: String::new(), layer: 0, since_s: 0 };
            Ok(Some(serde_json::from_slice(&bytes).unwrap_or(nothing)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(root: &Path, mark: &Mark) -> io::Result<()> {
    let new = root.join(format!("{NAME}.new"));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(mark)?)?;
    file.sync_all()?;
    fs::rename(&new, root.join(NAME))?;
    File::open(root)?.sync_all()
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

fn failed(root: &Path, source: io::Error) -> SettledError {
    SettledError { path: root.join(NAME), source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metadata::{Algorithm, Digest, Metadata};
    use crate::snapshots::{LayerContents, LayerLease, LayerSlot};

    fn snapshots(root: &Path) -> Snapshots {
        let metadata = Arc::new(Metadata::open(root).unwrap());
        Snapshots::open(&root.join("snapshots"), metadata).unwrap()
    }

    fn layer(snapshots: &Snapshots, hex: char) -> LayerLease {
        let diff_id = Digest::from_hex(Algorithm::Sha256, &hex.to_string().repeat(64)).unwrap();
        match snapshots.try_layer(&diff_id) {
            Some(LayerSlot::Absent(writer)) => {
                writer.create().unwrap();
                writer.finish(LayerContents::default())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_being_written_is_not_settled() {
        let root = tempfile::tempdir().unwrap();
        let snapshots = snapshots(root.path());
        let mut settled = begin(root.path(), &snapshots).unwrap();
        let _pending = layer(&snapshots, 'a');
        for _ in 0..3 {
            settled.advance(&snapshots).unwrap();
        }
        assert_eq!(read(root.path()).unwrap().unwrap().layer, 0);
    }

    #[test]
    fn another_boot_is_told_and_the_same_is_not() {
        let root = tempfile::tempdir().unwrap();
        let snapshots = snapshots(root.path());
        assert_eq!(left_behind(root.path()).unwrap(), None);
        let settled = begin(root.path(), &snapshots).unwrap();
        assert_eq!(left_behind(root.path()).unwrap(), None);
        let other = Mark { boot_id: "another".to_owned(), layer: 7, since_s: 8 };
        write(root.path(), &other).unwrap();
        assert_eq!(left_behind(root.path()).unwrap(), Some(other));
        fs::write(root.path().join(NAME), "{").unwrap();
        assert_eq!(left_behind(root.path()).unwrap().unwrap().layer, 0);
        settled.end().unwrap();
        assert_eq!(left_behind(root.path()).unwrap(), None);
    }

    #[test]
    fn a_killed_daemon_of_this_boot_settles_nothing() {
        let root = tempfile::tempdir().unwrap();
        let snapshots = snapshots(root.path());
        let first = begin(root.path(), &snapshots).unwrap();
        drop(layer(&snapshots, 'b'));
        let second = begin(root.path(), &snapshots).unwrap();
        assert_eq!((second.written.layer, second.seen.layer), (first.written.layer, 1));
    }
}
