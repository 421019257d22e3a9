//! All that metrics are made of, read at one time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::PodUsage;
use crate::pods::view::PodView;
use crate::snapshots::Filesystem;

/// What the ready pods of this node use, and what it takes to name it.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Each ready pod.
    pub pods: Vec<(Arc<PodView>, PodUsage)>,
    /// The file system of writable layers.
    pub filesystem: Option<Filesystem>,
    /// Names of block devices by their numbers.
    devices: BTreeMap<(u32, u32), String>,
}

impl Metrics {
    pub(super) fn new(pods: Vec<(Arc<PodView>, PodUsage)>, filesystem: Option<Filesystem>) -> Self {
        let partitions = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
        Self { pods, filesystem, devices: parse_partitions(&partitions) }
    }

    /// The name of a block device; its numbers if it is gone.
    #[must_use]
    pub fn device(&self, major: u32, minor: u32) -> Cow<'_, str> {
        match self.devices.get(&(major, minor)) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("{major}:{minor}")),
        }
    }
}

/// Lines of major number, minor number, blocks, name.
fn parse_partitions(text: &str) -> BTreeMap<(u32, u32), String> {
    let partitions = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(((major, minor), format!("/dev/{}", words.nth(1)?)))
    });
    partitions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        let text =
            "major minor  #blocks  name\n\n 254        0  268435456 vda\n   8       17 1 sdb1\n";
        let metrics = Metrics { pods: vec![], filesystem: None, devices: parse_partitions(text) };
        assert_eq!(metrics.device(254, 0), "/dev/vda");
        assert_eq!(metrics.device(8, 17), "/dev/sdb1");
        assert_eq!(metrics.device(7, 0), "7:0");
    }
}
