//! The text of the kernel's files to numbers; no I/O.

use super::{
    BlockIo, CpuDetail, CpuStats, Faults, IoStats, MemoryDetail, MemoryStats, Pressure,
    PressureLine,
};

/// A file that holds one number; `None` for `max`.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number behind a key in a file of lines `key number`.
pub(in crate::cgroup) fn keyed(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value?.trim().parse().ok()
}

fn or_zero(text: &str, key: &str) -> u64 {
    keyed(text, key).unwrap_or(0)
}

pub(super) fn v2_cpu(stat: &str) -> CpuStats {
    let ns = |key| or_zero(stat, key).saturating_mul(1000);
    CpuStats {
        usage_ns: ns("usage_usec"),
        detail: Some(CpuDetail {
            user_ns: ns("user_usec"),
            system_ns: ns("system_usec"),
            periods: or_zero(stat, "nr_periods"),
            throttled_periods: or_zero(stat, "nr_throttled"),
            throttled_ns: ns("throttled_usec"),
        }),
    }
}

pub(super) fn v1_cpu(user: &str, system: &str, bandwidth: &str) -> CpuDetail {
    CpuDetail {
        user_ns: number(user).unwrap_or(0),
        system_ns: number(system).unwrap_or(0),
        periods: or_zero(bandwidth, "nr_periods"),
        throttled_periods: or_zero(bandwidth, "nr_throttled"),
        throttled_ns: or_zero(bandwidth, "throttled_time"),
    }
}

/// The texts of the files of v1.
#[derive(Default)]
pub(super) struct V1Memory {
    pub(super) usage: String,
    pub(super) stat: String,
    pub(super) limit: String,
    pub(super) limit_with_swap: String,
    pub(super) max_usage: String,
    pub(super) failures: String,
    pub(super) swap_failures: String,
    pub(super) kernel: String,
}

/// Without a limit v1 says the greatest number of bytes in whole pages.
const V1_NO_LIMIT: u64 = 0x7fff_ffff_ffff_0000;

pub(super) fn v1_memory(files: &V1Memory) -> MemoryStats {
    let stat = |key| or_zero(&files.stat, key);
    let limit = |text| number(text).filter(|limit| *limit < V1_NO_LIMIT);
    let usage_bytes = number(&files.usage).unwrap_or(0);
    let limit_bytes = limit(&files.limit);
    MemoryStats {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(stat("total_inactive_file")),
        rss_bytes: stat("total_rss"),
        cache_bytes: stat("total_cache"),
        mapped_file_bytes: stat("total_mapped_file"),
        swap_bytes: stat("total_swap"),
        limit_bytes,
        swap_limit_bytes: limit(&files.limit_with_swap)
            .zip(limit_bytes)
            .map(|(both, memory)| both.saturating_sub(memory)),
        page_faults: Faults { all: stat("total_pgfault"), major: stat("total_pgmajfault") },
        own_page_faults: Some(Faults { all: stat("pgfault"), major: stat("pgmajfault") }),
        detail: Some(MemoryDetail {
            kernel_bytes: number(&files.kernel).unwrap_or(0),
            max_usage_bytes: number(&files.max_usage),
            // A container without swap reaches the limit on memory and swap first.
            limit_hits: number(&files.failures).unwrap_or(0)
                + number(&files.swap_failures).unwrap_or(0),
        }),
    }
}

/// The texts of the files of v2.
#[derive(Default)]
pub(super) struct V2Memory {
    pub(super) current: String,
    pub(super) stat: String,
    pub(super) max: String,
    pub(super) swap: String,
    pub(super) swap_max: String,
    pub(super) peak: String,
    pub(super) events: String,
}

pub(super) fn v2_memory(files: &V2Memory) -> MemoryStats {
    let stat = |key| or_zero(&files.stat, key);
    let usage_bytes = number(&files.current).unwrap_or(0);
    MemoryStats {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(stat("inactive_file")),
        rss_bytes: stat("anon"),
        cache_bytes: stat("file"),
        mapped_file_bytes: stat("file_mapped"),
        swap_bytes: number(&files.swap).unwrap_or(0),
        limit_bytes: number(&files.max),
        swap_limit_bytes: number(&files.swap_max),
        page_faults: Faults { all: stat("pgfault"), major: stat("pgmajfault") },
        own_page_faults: None,
        detail: Some(MemoryDetail {
            kernel_bytes: stat("kernel"),
            max_usage_bytes: number(&files.peak),
            limit_hits: or_zero(&files.events, "max"),
        }),
    }
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
pub(super) fn v2_io(text: &str) -> IoStats {
    let devices = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let mut one = device(fields.next()?)?;
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => one.read_bytes = value,
                "wbytes" => one.written_bytes = value,
                "rios" => one.reads = value,
                "wios" => one.writes = value,
                _ => {}
            }
        }
        Some(one)
    });
    IoStats { devices: devices.collect() }
}

/// Two files of lines `8:0 Read 1`, with a line `Total 2` at the end.
pub(super) fn v1_io(bytes: &str, requests: &str) -> IoStats {
    let mut devices: Vec<BlockIo> = Vec::new();
    let mut add = |text: &str, set: fn(&mut BlockIo, &str, u64)| {
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            let (Some(key), Some(what), Some(value)) =
                (fields.next().and_then(device), fields.next(), fields.next().and_then(number))
            else {
                continue;
            };
            let place = devices
                .iter()
                .position(|one| (one.major, one.minor) == (key.major, key.minor))
                .unwrap_or_else(|| {
                    devices.push(key);
                    devices.len() - 1
                });
            if let Some(one) = devices.get_mut(place) {
                set(one, what, value);
            }
        }
    };
    add(bytes, |one, what, value| match what {
        "Read" => one.read_bytes = value,
        "Write" => one.written_bytes = value,
        _ => {}
    });
    add(requests, |one, what, value| match what {
        "Read" => one.reads = value,
        "Write" => one.writes = value,
        _ => {}
    });
    IoStats { devices }
}

fn device(text: &str) -> Option<BlockIo> {
    let (major, minor) = text.split_once(':')?;
    Some(BlockIo { major: major.parse().ok()?, minor: minor.parse().ok()?, ..BlockIo::default() })
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |name: &str| {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        let field = |key: &str| {
            line.split(' ').filter_map(|field| field.split_once('=')).find(|(name, _)| *name == key)
        };
        let average = |key| field(key).and_then(|(_, value)| value.parse().ok()).unwrap_or(0.0);
        let total_us = field("total").and_then(|(_, value)| value.parse().ok())?;
        Some(PressureLine {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total_us,
        })
    };
    Some(Pressure { some: line("some")?, full: line("full").unwrap_or_default() })
}
