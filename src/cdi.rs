//! CDI, the Container Device Interface: what a vendor's device needs of a container.
//!
//! ```text
//! /etc/cdi/*.json, *.yaml      what an administrator wrote
//! /var/run/cdi/*.json, *.yaml  what a device plugin wrote; wins over the first
//! ```
//!
//! Each file describes devices of one kind (`vendor.com/class`) and the edits of the OCI
//! spec that each of them, and all of them together, ask for. A container asks by the full
//! name, `vendor.com/class=device`.
//!
//! Nothing is kept between two containers: files are read when devices are asked for, so
//! what a plugin wrote a moment ago is seen, and there is no watch that can be late. A file
//! that cannot be read hides its own devices only, and says so to those who ask for one.
//!
//! **Invariant.** Reading ends. The number of files and their length are bounded; what is no
//! regular file is not waited for; a directory that hangs fails those who ask for devices, at
//! a deadline, and at most [`READERS`] threads are ever lost to it.
//!
//! # References
//! - [CDI](https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md), 1.1.0

/// Edits, made.
mod edits;
/// One file.
mod file;
/// Names of vendors, classes and devices.
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use edits::EditError;
pub use file::FileError;
pub use name::{NameError, names_in_annotations};

use file::{Edits, SpecFile};

/// How many threads read at once.
const READERS: usize = 4;

/// How long reading may take, with waiting for others to have read.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most files that a directory may have.
const FILES_MAX: usize = 4096;

/// How many of the files that could not be read an error names.
const NAMED: usize = 8;

/// The directories of CDI specs, the one that wins last.
#[derive(Debug, Clone)]
pub struct Cdi {
    directories: Arc<[PathBuf]>,
    readers: Arc<Semaphore>,
    patience: Duration,
}

/// Devices that were found, and what they ask for.
#[derive(Debug, Default)]
pub struct Devices {
    /// By full name, in the order of the request; those of a file as a whole come before
    /// those of its first device.
    edits: Vec<(String, Edits)>,
}

/// Devices that a container cannot have.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// Not a full name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No file describes it.
    #[error("no CDI device {name:?} in {directories}{broken}")]
    Unknown {
        /// Its full name.
        name: String,
        /// Where it was looked for.
        directories: String,
        /// What could not be read there.
        broken: String,
    },
    /// Two files of one directory describe it.
    #[error("CDI device {name:?} is in both {} and {}", first.display(), second.display())]
    Conflict {
        /// Its full name.
        name: String,
        /// One of them.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// The directories hang, or those who read them before do.
    #[error("reading the CDI specs in {directories} took longer than {} s", PATIENCE.as_secs())]
    TooLong {
        /// Where.
        directories: String,
    },
    /// An edit that cannot be made.
    #[error("CDI device {name:?}")]
    Edit {
        /// Its full name.
        name: String,
        /// Which and why not.
        source: EditError,
    },
}

/// All that the files say at one time.
#[derive(Default)]
struct Known {
    files: Vec<(PathBuf, SpecFile)>,
    devices: BTreeMap<String, Place>,
    broken: Vec<(PathBuf, FileError)>,
}

/// Where a device is described.
struct Place {
    /// The number of the directory.
    directory: usize,
    file: usize,
    device: usize,
    /// Another file of the same directory that describes it too.
    also_in: Option<usize>,
}

impl Cdi {
    /// Looks in `directories`; what a later one says wins.
    #[must_use]
    pub fn new(directories: Vec<PathBuf>) -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        Self { directories: directories.into(), readers, patience: PATIENCE }
    }

    /// Finds the devices of these full names, as the files are now.
    ///
    /// # Errors
    /// [`CdiError`], but not [`CdiError::Edit`].
    ///
    /// # Cancel safety
    /// The reading goes on and its result is dropped.
    pub async fn find(&self, names: Vec<String>) -> Result<Devices, CdiError> {
        if names.is_empty() {
            return Ok(Devices::default());
        }
        let reading = async {
            let permit = Arc::clone(&self.readers).acquire_owned().await.ok()?;
            let cdi = self.clone();
            let read = move || {
                // Kept as long as the thread is.
                let _permit = permit;
                cdi.find_now(&names)
            };
            tokio::task::spawn_blocking(read).await.ok()
        };
        match timeout(self.patience, reading).await {
            Ok(Some(found)) => found,
            Ok(None) | Err(_) => Err(CdiError::TooLong { directories: self.places() }),
        }
    }

    /// [`Cdi::find`] on this thread. Blocks on files.
    fn find_now(&self, names: &[String]) -> Result<Devices, CdiError> {
        let known = self.load();
        let (mut seen, mut used) = (BTreeSet::new(), BTreeSet::new());
        let mut devices = Devices::default();
        for name in names.iter().filter(|name| seen.insert(name.as_str())) {
            name::Qualified::parse(name)?;
            let place = known.devices.get(name).ok_or_else(|| self.unknown(name, &known))?;
            let (path, file) = &known.files[place.file];
            if let Some(other) = place.also_in {
                let (first, second) = (path.clone(), known.files[other].0.clone());
                return Err(CdiError::Conflict { name: name.clone(), first, second });
            }
            if used.insert(place.file) {
                devices.edits.push((name.clone(), file.container_edits.clone()));
            }
            let edits = file.devices[place.device].container_edits.clone();
            devices.edits.push((name.clone(), edits));
        }
        Ok(devices)
    }

    fn load(&self) -> Known {
        let mut known = Known::default();
        for (number, directory) in self.directories.iter().enumerate() {
            let files = match files_in(directory) {
                Ok(files) => files,
                Err(error) => {
                    known.broken.push((directory.clone(), error));
                    continue;
                }
            };
            for path in files {
                match file::read(&path) {
                    Ok(file) => known.add(number, path, file),
                    Err(error) => known.broken.push((path, error)),
                }
            }
        }
        known
    }

    fn places(&self) -> String {
        let all: Vec<_> = self.directories.iter().map(|one| one.display().to_string()).collect();
        all.join(", ")
    }

    fn unknown(&self, name: &str, known: &Known) -> CdiError {
        let mut broken = String::new();
        for (path, error) in known.broken.iter().take(NAMED) {
            let cause =
                std::error::Error::source(error).map_or(String::new(), |e| format!(": {e}"));
            // Writing to a string does not fail.
            let _ = write!(broken, "; {} is left out: {error}{cause}", path.display());
        }
        if let Some(more @ 1..) = known.broken.len().checked_sub(NAMED) {
            let _ = write!(broken, "; so are {more} more");
        }
        CdiError::Unknown { name: name.to_owned(), directories: self.places(), broken }
    }
}

impl Devices {
    /// Gives the devices to a container. Looks at device nodes of the host.
    ///
    /// # Errors
    /// [`CdiError::Edit`]; the spec then has some of them.
    pub fn apply(&self, spec: &mut Spec) -> Result<(), CdiError> {
        for (name, edits) in &self.edits {
            let failed = |source| CdiError::Edit { name: name.clone(), source };
            edits::apply(edits, spec).map_err(failed)?;
        }
        Ok(())
    }
}

impl Known {
    fn add(&mut self, directory: usize, path: PathBuf, spec: SpecFile) {
        let file = self.files.len();
        for (device, one) in spec.devices.iter().enumerate() {
            let name = format!("{}={}", spec.kind, one.name);
            let place = Place { directory, file, device, also_in: None };
            match self.devices.get_mut(&name) {
                Some(earlier) if earlier.directory == directory => earlier.also_in = Some(file),
                _ => drop(self.devices.insert(name, place)),
            }
        }
        self.files.push((path, spec));
    }
}

/// The files that count, in the order of their names; none in a directory that is not there.
fn files_in(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::Read(error)),
    };
    let mut files = Vec::new();
    for (number, entry) in entries.enumerate() {
        if number == FILES_MAX {
            return Err(FileError::TooMany);
        }
        let path = entry.map_err(FileError::Read)?.path();
        if path.extension().is_some_and(|kind| kind == "json" || kind == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
