//! Processor time, and time lost waiting for the processor.

use super::{Family, Subject, counter, counters, seconds};
use crate::pods::{CpuDetail, PressureLine};

pub(super) const FAMILIES: &[Family] = &[
    counter(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        |subject| Some(seconds(detail(subject)?.user_ns)),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        |subject| Some(seconds(detail(subject)?.system_ns)),
    ),
    counters(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        &["cpu"],
        |subject, rows| {
            if let Some(cpu) = subject.group.stats.cpu {
                rows.push(&["total"], seconds(cpu.usage_ns));
            }
        },
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        |subject| Some(detail(subject)?.periods),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        |subject| Some(detail(subject)?.throttled_periods),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        |subject| Some(seconds(detail(subject)?.throttled_ns)),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |subject| Some(lost(subject.group.stats.cpu_pressure?.full)),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |subject| Some(lost(subject.group.stats.cpu_pressure?.some)),
    ),
];

fn detail(subject: &Subject<'_>) -> Option<CpuDetail> {
    subject.group.stats.cpu?.detail
}

/// Time lost, in whole seconds.
pub(super) const fn lost(line: PressureLine) -> u64 {
    line.total_us / 1_000_000
}
