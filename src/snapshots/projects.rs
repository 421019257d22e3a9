//! What a snapshot takes, as its file system counts it: each snapshot is a project of its own
//! where the file system keeps project quotas (ext4 and XFS mounted with `prjquota`). Asking
//! costs one system call, however many files there are, and the answer is of this moment.
//!
//! A project is a number on the snapshot's directory, inherited by all that is made there; it is
//! remembered nowhere else. A number is free when no snapshot has it and no file on the disk.
//!
//! A store that is itself part of a project is left alone: somebody counts, or limits, it as a
//! whole.
//!
//! # References
//! - [Quotas](https://docs.kernel.org/filesystems/quota.html)

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use sandbox::sys::quota;

use super::Usage;

/// Where the numbers are from; kubelets, `/etc/projects` and others use small ones.
const NUMBERS: Range<u32> = 0x6f72_0000..0x6f82_0000;

/// The projects of one file system.
#[derive(Debug)]
pub(super) struct Projects {
    /// The store's directory.
    directory: File,
}

impl Projects {
    /// None, if the file system does not count.
    pub(super) fn find(directory: &Path) -> Option<Self> {
        let directory = File::open(directory).ok()?;
        let is_counted = quota::project_usage(&directory, 0).is_ok();
        let is_of_nobody = quota::project(&directory).is_ok_and(|project| project == 0);
        (is_counted && is_of_nobody).then_some(Self { directory })
    }

    /// A number that is free on disk and not among those that are `taken`.
    pub(super) fn free(&self, taken: impl Fn(u32) -> bool) -> Option<u32> {
        let is_unused =
            |number: u32| self.usage(number).is_ok_and(|usage| usage == Usage::default());
        NUMBERS.into_iter().find(|number| !taken(*number) && is_unused(*number))
    }

    /// Counts a new directory, and all that will be in it.
    pub(super) fn count(&self, directory: &Path, number: u32) -> io::Result<()> {
        quota::set_project(File::open(directory)?, number)
    }

    /// The number of a directory that is counted.
    pub(super) fn of(&self, directory: &Path) -> Option<u32> {
        let number = quota::project(File::open(directory).ok()?).ok()?;
        NUMBERS.contains(&number).then_some(number)
    }

    pub(super) fn usage(&self, number: u32) -> io::Result<Usage> {
        let quota::ProjectUsage { bytes, inodes } = quota::project_usage(&self.directory, number)?;
        Ok(Usage { bytes, inodes })
    }
}
