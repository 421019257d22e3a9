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

use oci_spec::runtime::Spec;

pub use edits::EditError;
pub use file::FileError;
pub use name::{NameError, names_in_annotations};

use file::SpecFile;

/// The directories of CDI specs, the one that wins last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cdi {
    directories: Vec<PathBuf>,
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
        Self { directories }
    }

    /// Gives the devices of these full names to a container. Blocks on files.
    ///
    /// # Errors
    /// [`CdiError`]; the spec may then have some of them.
    pub fn inject(&self, names: &[String], spec: &mut Spec) -> Result<(), CdiError> {
        if names.is_empty() {
            return Ok(());
        }
        let known = self.load();
        let (mut seen, mut used) = (BTreeSet::new(), BTreeSet::new());
        for name in names.iter().filter(|name| seen.insert(name.as_str())) {
            name::Qualified::parse(name)?;
            let place = known.devices.get(name).ok_or_else(|| self.unknown(name, &known))?;
            let (path, file) = &known.files[place.file];
            if let Some(other) = place.also_in {
                let (first, second) = (path.clone(), known.files[other].0.clone());
                return Err(CdiError::Conflict { name: name.clone(), first, second });
            }
            let failed = |source| CdiError::Edit { name: name.clone(), source };
            if used.insert(place.file) {
                edits::apply(&file.container_edits, spec).map_err(failed)?;
            }
            let device = &file.devices[place.device];
            edits::apply(&device.container_edits, spec).map_err(failed)?;
        }
        Ok(())
    }

    fn load(&self) -> Known {
        let mut known = Known::default();
        for (number, directory) in self.directories.iter().enumerate() {
            for path in files_in(directory) {
                match file::read(&path) {
                    Ok(file) => known.add(number, path, file),
                    Err(error) => known.broken.push((path, error)),
                }
            }
        }
        known
    }

    fn unknown(&self, name: &str, known: &Known) -> CdiError {
        let directories: Vec<_> =
            self.directories.iter().map(|one| one.display().to_string()).collect();
        let mut broken = String::new();
        for (path, error) in &known.broken {
            let cause =
                std::error::Error::source(error).map_or(String::new(), |e| format!(": {e}"));
            // Writing to a string does not fail.
            let _ = write!(broken, "; {} is left out: {error}{cause}", path.display());
        }
        CdiError::Unknown { name: name.to_owned(), directories: directories.join(", "), broken }
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
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(directory = %directory.display(), %error, "CDI specs cannot be listed");
            }
            return Vec::new();
        }
    };
    let is_spec = |path: &PathBuf| {
        path.extension().is_some_and(|kind| kind == "json" || kind == "yaml" || kind == "yml")
    };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(is_spec).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests;
