//! Reading a checkpoint that anybody could have put there.
//!
//! Nothing in it is named by what it says: containers are in directories of their numbers, and
//! criu's images are whatever files are beside each other. No link is followed, nothing but
//! directories and files is read, and only those that nobody but root can have written: a
//! process is restored with all the rights that its images give it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::RestoreError;
use crate::pods::checkpoint::{
    DESCRIPTION_VERSION, Described, IMAGES, OF_POD, POD, PodDescription,
};
use crate::pods::checkpoint::{ROOTFS_DIFF, SPEC};
use crate::pods::error::PodsError;

/// The largest description that is read, in bytes.
const DESCRIPTION_LIMIT: u64 = 16 << 20;

/// The checkpoint of a pod.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// By name.
    pub(super) containers: BTreeMap<String, Source>,
}

/// What the checkpoint has of one container.
#[derive(Debug)]
pub(in crate::pods) struct Source {
    pub(in crate::pods) described: Described,
    pub(in crate::pods) spec: Spec,
    directory: Directory,
}

/// A directory of the checkpoint, open.
#[derive(Debug)]
struct Directory {
    file: File,
    /// From the checkpoint's, for messages.
    path: PathBuf,
}

impl Checkpoint {
    /// Opens what is in a directory that a checkpoint was asked for in.
    pub(super) fn open(output: &Path) -> Result<Self, RestoreError> {
        if !output.is_absolute() {
            return Err(RestoreError::Path { path: output.to_owned() });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, output, flags, Mode::empty());
        let file = opened.map_err(|errno| RestoreError::File {
            path: output.to_owned(),
            source: errno.into(),
        })?;
        let whole = Directory { file: file.into(), path: PathBuf::new() };
        let whole = whole.directory(OF_POD)?;
        let description: PodDescription = whole.json(POD)?;
        let damaged = |why: String| RestoreError::Damaged { path: whole.path.join(POD), why };
        if description.version != DESCRIPTION_VERSION {
            return Err(damaged(format!("it has version {}", description.version)));
        }
        let mut containers = BTreeMap::new();
        for (index, described) in description.containers.into_iter().enumerate() {
            let directory = whole.directory(&index.to_string())?;
            let name = described.name.clone();
            let source = Source { described, spec: directory.json(SPEC)?, directory };
            source.check_files()?;
            if containers.insert(name, source).is_some() {
                return Err(damaged("two containers have one name".to_owned()));
            }
        }
        if containers.is_empty() {
            return Err(damaged("it has no container".to_owned()));
        }
        Ok(Self { containers })
    }
}

impl Source {
    /// Whether all files are there that were written, as long as they were.
    fn check_files(&self) -> Result<(), RestoreError> {
        let images = self.directory.directory(IMAGES)?;
        let length = |directory: &Directory, name: &str| {
            let metadata = directory.regular(name)?.metadata();
            Ok(metadata.map_err(|source| directory.failed(name, source))?.len())
        };
        let mut found = BTreeMap::new();
        found.insert(ROOTFS_DIFF.to_owned(), length(&self.directory, ROOTFS_DIFF)?);
        for name in images.names()? {
            found.insert(format!("{IMAGES}/{name}"), length(&images, &name)?);
        }
        let written = &self.described.files;
        let names = found.keys().chain(written.keys());
        match names.into_iter().find(|name| found.get(*name) != written.get(*name)) {
            None => Ok(()),
            Some(name) => Err(RestoreError::Damaged {
                path: self.directory.path.join(name),
                why: "it is not as long as it was".to_owned(),
            }),
        }
    }

    /// The archive of what the container wrote.
    pub(in crate::pods) fn diff(&self) -> Result<File, RestoreError> {
        self.directory.regular(ROOTFS_DIFF)
    }

    /// Copies criu's images into a new directory.
    pub(in crate::pods) fn copy_images(&self, to: &Path) -> Result<(), RestoreError> {
        let images = self.directory.directory(IMAGES)?;
        let target = to.join(IMAGES);
        let failed = |path: &Path, source| RestoreError::Copy { path: path.to_owned(), source };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&target);
        made.map_err(|source| failed(&target, source))?;
        for name in images.names()? {
            let mut from = images.regular(&name)?;
            let path = target.join(&name);
            let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
            file.and_then(|mut file| io::copy(&mut from, &mut file))
                .map_err(|source| failed(&path, source))?;
        }
        Ok(())
    }
}

impl Directory {
    fn open(&self, name: &str, flags: OFlags) -> Result<File, RestoreError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(&self.file, name, flags, Mode::empty(), resolve);
        let opened = opened.map_err(|errno| {
            let path = self.path.join(name);
            match errno {
                Errno::LOOP => RestoreError::Unsafe { path, why: "is a link" },
                // Or a link, where a directory is to be.
                Errno::NOTDIR => RestoreError::Unsafe { path, why: "is not a directory" },
                errno => self.failed(name, errno.into()),
            }
        });
        let file = File::from(opened?);
        let metadata = file.metadata().map_err(|source| self.failed(name, source))?;
        let path = self.path.join(name);
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Err(RestoreError::Unsafe { path, why: "can be written by others than root" });
        }
        let is_asked =
            if flags.contains(OFlags::DIRECTORY) { metadata.is_dir() } else { metadata.is_file() };
        if !is_asked {
            return Err(RestoreError::Unsafe { path, why: "is not a file" });
        }
        Ok(file)
    }

    fn directory(&self, name: &str) -> Result<Self, RestoreError> {
        let file = self.open(name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Self { file, path: self.path.join(name) })
    }

    fn regular(&self, name: &str) -> Result<File, RestoreError> {
        self.open(name, OFlags::RDONLY)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, RestoreError> {
        let mut bytes = Vec::new();
        let mut file = self.regular(name)?.take(DESCRIPTION_LIMIT);
        file.read_to_end(&mut bytes).map_err(|source| self.failed(name, source))?;
        let damaged = |error: serde_json::Error| RestoreError::Damaged {
            path: self.path.join(name),
            why: error.to_string(),
        };
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    fn names(&self) -> Result<Vec<String>, RestoreError> {
        let failed = |errno: Errno| self.failed("", errno.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.file).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let name = entry.file_name().to_str().map(str::to_owned);
            names.push(name.map_err(|_odd| RestoreError::Unsafe {
                path: self.path.join(entry.file_name().to_string_lossy().as_ref()),
                why: "has an odd name",
            })?);
        }
        Ok(names)
    }

    fn failed(&self, name: &str, source: io::Error) -> RestoreError {
        RestoreError::File { path: self.path.join(name), source }
    }
}

/// Removes what was copied for a container. Idempotent.
pub(in crate::pods) fn remove_images(directory: &Path) -> Result<(), PodsError> {
    match std::fs::remove_dir_all(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PodsError::Prepare { path: directory.to_owned(), source })
        }
        _ => Ok(()),
    }
}
