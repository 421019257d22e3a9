//! Memory, huge pages, and time lost waiting for memory.

use super::cpu::lost;
use super::{Family, Subject, counter, counters, gauge, gauges};
use crate::pods::{MemoryDetail, MemoryStats};

pub(super) const FAMILIES: &[Family] = &[
    gauge("container_memory_cache", "Number of bytes of page cache memory.", |subject| {
        Some(memory(subject)?.cache_bytes)
    }),
    gauge("container_memory_rss", "Size of RSS in bytes.", |subject| {
        Some(memory(subject)?.rss_bytes)
    }),
    gauge(
        "container_memory_kernel_usage",
        "Size of kernel memory allocated in bytes.",
        |subject| Some(detail(subject)?.kernel_bytes),
    ),
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", |subject| {
        Some(memory(subject)?.mapped_file_bytes)
    }),
    gauge("container_memory_swap", "Container swap usage in bytes.", |subject| {
        Some(memory(subject)?.swap_bytes)
    }),
    counter("container_memory_failcnt", "Number of memory usage hits limits", |subject| {
        Some(detail(subject)?.limit_hits)
    }),
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |subject| Some(memory(subject)?.usage_bytes),
    ),
    // A kernel that does not remember: it was at least what it is now.
    gauge(
        "container_memory_max_usage_bytes",
        "Maximum memory usage recorded in bytes",
        |subject| Some(detail(subject)?.max_usage_bytes.unwrap_or(memory(subject)?.usage_bytes)),
    ),
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", |subject| {
        Some(memory(subject)?.working_set_bytes)
    }),
    counters(
        "container_memory_failures_total",
        "Cumulative count of memory allocation failures.",
        &["failure_type", "scope"],
        |subject, rows| {
            let Some(memory) = memory(subject) else { return };
            let own = memory.own_page_faults.unwrap_or(memory.page_faults);
            for (scope, faults) in [("container", own), ("hierarchy", memory.page_faults)] {
                rows.push(&["pgfault", scope], faults.all);
                rows.push(&["pgmajfault", scope], faults.major);
            }
        },
    ),
    counter(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        |subject| Some(subject.detail()?.oom_kills),
    ),
    gauges(
        "container_hugetlb_usage_bytes",
        "Current hugepage usage in bytes",
        &["pagesize"],
        |subject, rows| {
            for pages in &subject.group.stats.hugetlb {
                rows.push(&[&pages.page_size], pages.usage_bytes);
            }
        },
    ),
    gauges(
        "container_hugetlb_max_usage_bytes",
        "Maximum hugepage usage recorded in bytes",
        &["pagesize"],
        |subject, rows| {
            for pages in &subject.group.stats.hugetlb {
                rows.push(&[&pages.page_size], pages.max_usage_bytes.unwrap_or(pages.usage_bytes));
            }
        },
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |subject| Some(lost(subject.group.stats.memory_pressure?.full)),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        |subject| Some(lost(subject.group.stats.memory_pressure?.some)),
    ),
];

fn memory(subject: &Subject<'_>) -> Option<MemoryStats> {
    subject.group.stats.memory
}

fn detail(subject: &Subject<'_>) -> Option<MemoryDetail> {
    memory(subject)?.detail
}
