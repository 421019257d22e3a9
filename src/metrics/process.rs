//! The daemon as a process, by the names that Prometheus clients agree on.
//!
//! # References
//! - [Process metrics](https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics)

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads `/proc/self` each time it is asked.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let readings = [
            ("process_resident_memory_bytes", "Resident memory.", status_value("VmRSS:", 1024)),
            ("process_threads", "Threads.", status_value("Threads:", 1)),
            ("process_open_fds", "Open descriptors.", open_descriptors()),
        ];
        for (name, help, reading) in readings {
            let Some(value) = reading else { continue };
            let gauge = ConstGauge::new(value);
            let described = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(described)?;
        }
        Ok(())
    }
}

/// The number after `key` in `/proc/self/status`, times `unit`.
fn status_value(key: &str, unit: i64) -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let number: i64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(unit)
}

fn open_descriptors() -> Option<i64> {
    // One of them is the directory being read.
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    i64::try_from(count).ok()
}
