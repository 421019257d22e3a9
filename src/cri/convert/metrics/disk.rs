//! The file system of the writable layer, block devices, and time lost waiting for them.
//!
//! Sizes of the file system are those of the whole partition; only `usage` is the
//! container's own. Transfers have a row for the partition's device even when there were none.

use super::cpu::lost;
use super::{Family, Rows, Subject, counter, counters, gauges};
use crate::pods::{BlockIo, Filesystem};

const DEVICE: &[&str] = &["device"];

pub(super) const FAMILIES: &[Family] = &[
    gauges("container_fs_inodes_free", "Number of available Inodes", DEVICE, |subject, rows| {
        of_filesystem(subject, rows, |filesystem| filesystem.inodes_free);
    }),
    gauges("container_fs_inodes_total", "Number of Inodes", DEVICE, |subject, rows| {
        of_filesystem(subject, rows, |filesystem| filesystem.inodes);
    }),
    gauges(
        "container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
        DEVICE,
        |subject, rows| of_filesystem(subject, rows, |filesystem| filesystem.bytes),
    ),
    gauges(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        DEVICE,
        |subject, rows| {
            let layer = subject.container.and_then(|(_, usage)| usage.writable.as_ref());
            if let Some(layer) = layer {
                of_filesystem(subject, rows, |_| layer.usage.bytes);
            }
        },
    ),
    counters(
        "container_fs_reads_bytes_total",
        "Cumulative count of bytes read",
        DEVICE,
        |subject, rows| of_devices(subject, rows, |io| io.read_bytes),
    ),
    counters(
        "container_fs_reads_total",
        "Cumulative count of reads completed",
        DEVICE,
        |subject, rows| of_devices(subject, rows, |io| io.reads),
    ),
    counters(
        "container_fs_writes_bytes_total",
        "Cumulative count of bytes written",
        DEVICE,
        |subject, rows| of_devices(subject, rows, |io| io.written_bytes),
    ),
    counters(
        "container_fs_writes_total",
        "Cumulative count of writes completed",
        DEVICE,
        |subject, rows| of_devices(subject, rows, |io| io.writes),
    ),
    counters(
        "container_blkio_device_usage_total",
        "Blkio Device bytes usage",
        &["device", "major", "minor", "operation"],
        |subject, rows| {
            for io in subject.group.stats.io.iter().flat_map(|io| &io.devices) {
                let device = subject.node.device(io.major, io.minor);
                let (major, minor) = (io.major.to_string(), io.minor.to_string());
                rows.push(&[&device, &major, &minor, "Read"], io.read_bytes);
                rows.push(&[&device, &major, &minor, "Write"], io.written_bytes);
            }
        },
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |subject| Some(lost(subject.group.stats.io_pressure?.full)),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        |subject| Some(lost(subject.group.stats.io_pressure?.some)),
    ),
];

fn of_filesystem(subject: &Subject<'_>, rows: &mut Rows<'_>, value: impl Fn(&Filesystem) -> u64) {
    let Some(filesystem) = subject.node.filesystem.as_ref() else { return };
    if subject.container.is_some() {
        rows.push(&[&filesystem.device], value(filesystem));
    }
}

fn of_devices(subject: &Subject<'_>, rows: &mut Rows<'_>, value: impl Fn(&BlockIo) -> u64) {
    if subject.container.is_none() {
        return;
    }
    let own = subject.node.filesystem.as_ref().map(|filesystem| filesystem.device.as_str());
    let mut seen = false;
    for io in subject.group.stats.io.iter().flat_map(|io| &io.devices) {
        let device = subject.node.device(io.major, io.minor);
        seen |= own == Some(&*device);
        rows.push(&[&device], value(io));
    }
    if let Some(own) = own.filter(|_| !seen) {
        rows.push(&[own], 0);
    }
}
