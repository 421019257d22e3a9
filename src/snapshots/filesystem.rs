//! The file system that the store is on.

use std::fs;
use std::io;
use std::path::Path;

use super::Snapshots;

/// The size of a file system, and what it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// What is mounted: `/dev/vda1`.
    pub device: String,
    /// All bytes.
    pub bytes: u64,
    /// All inodes.
    pub inodes: u64,
    /// Inodes that are not in use.
    pub inodes_free: u64,
}

impl Snapshots {
    /// The file system that layers and writable snapshots are on.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn filesystem(&self) -> io::Result<Filesystem> {
        let stat = rustix::fs::statvfs(self.directory())?;
        Ok(Filesystem {
            device: self.0.device.clone(),
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
        })
    }
}

/// What is mounted where `directory` is; empty if nobody knows.
pub(super) fn device_of(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounted_at(&mounts, directory).unwrap_or_default().to_owned()
}

/// The source of the mount that is nearest above `directory`; the last one if several are
/// on one another.
///
/// # References
/// - [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)
fn mounted_at<'a>(mountinfo: &'a str, directory: &Path) -> Option<&'a str> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        Some((place.split(' ').nth(4)?, what.split(' ').nth(1)?))
    });
    let above = mounts.filter(|(point, _)| directory.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, source)| source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_above() {
        let mounts = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      30 21 0:25 / /var/lib rw shared:1 - tmpfs first rw\n\
                      31 21 8:1 / /var/lib rw shared:1 master:2 - xfs /dev/sda1 rw\n\
                      32 21 0:26 / /var/lib/other rw - tmpfs tmpfs rw\n";
        assert_eq!(mounted_at(mounts, Path::new("/var/lib/orlop")), Some("/dev/sda1"));
        assert_eq!(mounted_at(mounts, Path::new("/var/library")), Some("/dev/vda"));
        assert_eq!(mounted_at("", Path::new("/")), None);
    }
}
