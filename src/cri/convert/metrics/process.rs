//! Processes, threads and what they have open.

use super::{Family, Subject, gauge, gauges};
use crate::pods::PidsStats;

pub(super) const FAMILIES: &[Family] = &[
    gauge("container_processes", "Number of processes running inside the container.", |subject| {
        Some(subject.detail()?.processes.count)
    }),
    gauge(
        "container_file_descriptors",
        "Number of open file descriptors for the container.",
        |subject| Some(subject.detail()?.processes.descriptors),
    ),
    gauge("container_sockets", "Number of open sockets for the container.", |subject| {
        Some(subject.detail()?.processes.sockets)
    }),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |subject| Some(pids(subject)?.limit.unwrap_or(0)),
    ),
    gauge("container_threads", "Number of threads running inside the container", |subject| {
        Some(pids(subject)?.current)
    }),
    gauges(
        "container_ulimits_soft",
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
        &["ulimit"],
        |subject, rows| {
            let open_files = subject.detail().and_then(|detail| detail.open_files_soft);
            if let Some(limit) = open_files {
                rows.push(&["max_open_files"], limit);
            }
        },
    ),
];

fn pids(subject: &Subject<'_>) -> Option<PidsStats> {
    subject.group.stats.pids
}
