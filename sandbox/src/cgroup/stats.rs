//! What a group has used, in the same words for v1 and v2.
//!
//! Every part is absent when its controller is, or when the group is gone: statistics of a
//! container that ends while they are read are no error.

use std::path::Path;

use super::file::{self, FileError};
use super::group::Cgroup;
use super::hierarchies::{Controller, Version};

/// Reading the text of the kernel's files.
mod parse;
#[cfg(test)]
mod tests;

pub(super) use parse::keyed;

/// What a group and the groups below it have used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<PidsStats>,
    /// Block devices.
    pub io: Option<IoStats>,
    /// Huge pages, one entry per page size.
    pub hugetlb: Vec<HugetlbStats>,
    /// Time lost waiting for the processor (v2 only).
    pub cpu_pressure: Option<Pressure>,
    /// Time lost waiting for memory (v2 only).
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for block devices (v2 only).
    pub io_pressure: Option<Pressure>,
}

/// Processor time, since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All time used.
    pub usage_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Periods of the bandwidth limit that have passed.
    pub periods: u64,
    /// Periods in which the limit was reached.
    pub throttled_periods: u64,
    /// Time for which the limit stopped the group.
    pub throttled_ns: u64,
}

/// Memory, now unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All that is charged, page cache included.
    pub usage_bytes: u64,
    /// What cannot be taken back at once: usage without inactive page cache.
    pub working_set_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page cache.
    pub cache_bytes: u64,
    /// Mapped files.
    pub mapped_file_bytes: u64,
    /// Swap.
    pub swap_bytes: u64,
    /// Memory of the kernel on behalf of the group.
    pub kernel_bytes: u64,
    /// The highest usage so far, where the kernel tells.
    pub max_usage_bytes: Option<u64>,
    /// The limit; absent when there is none.
    pub limit_bytes: Option<u64>,
    /// How often the limit was reached.
    pub limit_hits: u64,
    /// Page faults so far.
    pub page_faults: u64,
    /// Page faults so far that read from a device.
    pub major_page_faults: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be; absent when there is no limit.
    pub limit: Option<u64>,
}

/// Transfers from and to block devices, since the group was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoStats {
    /// One entry per device.
    pub devices: Vec<BlockIo>,
}

/// Transfers from and to one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugetlbStats {
    /// The page size as in file names: `2MB`.
    pub page_size: String,
    /// In use now.
    pub usage_bytes: u64,
    /// The highest usage so far, where the kernel tells.
    pub max_usage_bytes: Option<u64>,
    /// How often the limit was reached.
    pub limit_hits: u64,
}

/// Pressure stall information of one resource.
///
/// # References
/// - [PSI](https://docs.kernel.org/accounting/psi.html)
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: PressureLine,
    /// All tasks waited.
    pub full: PressureLine,
}

/// One line of pressure stall information.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Share of the last 10 seconds, in percent.
    pub avg10: f64,
    /// Share of the last 60 seconds, in percent.
    pub avg60: f64,
    /// Share of the last 300 seconds, in percent.
    pub avg300: f64,
    /// All time lost.
    pub total_us: u64,
}

impl Cgroup {
    /// Reads what the group has used.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn stats(&self) -> Result<Stats, FileError> {
        let mut stats = Stats {
            cpu: self.cpu_stats()?,
            memory: self.memory_stats()?,
            pids: self.pids_stats()?,
            io: self.io_stats()?,
            hugetlb: self.hugetlb_stats()?,
            ..Stats::default()
        };
        if let Some(directory) = self.unified() {
            let pressure =
                |name| read(&directory, name).map(|text| text.as_deref().and_then(parse::pressure));
            stats.cpu_pressure = pressure("cpu.pressure")?;
            stats.memory_pressure = pressure("memory.pressure")?;
            stats.io_pressure = pressure("io.pressure")?;
        }
        Ok(stats)
    }

    /// Reads processor time.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn cpu_stats(&self) -> Result<Option<CpuStats>, FileError> {
        let Some((version, bandwidth)) = self.directory(Controller::Cpu) else {
            return self.v1_cpu_time(None);
        };
        let Some(stat) = read(&bandwidth, "cpu.stat")? else { return Ok(None) };
        match version {
            Version::V2 => Ok(Some(parse::v2_cpu(&stat))),
            Version::V1 => self.v1_cpu_time(Some(&stat)),
        }
    }

    /// v1 keeps time in one hierarchy and bandwidth in another.
    fn v1_cpu_time(&self, bandwidth: Option<&str>) -> Result<Option<CpuStats>, FileError> {
        let Some((version, time)) = self.directory(Controller::Cpuacct) else { return Ok(None) };
        if version == Version::V2 {
            return Ok(read(&time, "cpu.stat")?.map(|stat| parse::v2_cpu(&stat)));
        }
        let file = |name| read(&time, name);
        let usage =
            (file("cpuacct.usage")?, file("cpuacct.usage_user")?, file("cpuacct.usage_sys")?);
        let (Some(all), user, system) = usage else { return Ok(None) };
        Ok(Some(parse::v1_cpu(
            &all,
            user.as_deref().unwrap_or_default(),
            system.as_deref().unwrap_or_default(),
            bandwidth.unwrap_or_default(),
        )))
    }

    /// Reads memory.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn memory_stats(&self) -> Result<Option<MemoryStats>, FileError> {
        let Some((version, directory)) = self.directory(Controller::Memory) else {
            return Ok(None);
        };
        let file = |name| read(&directory, name).map(Option::unwrap_or_default);
        match version {
            Version::V1 => {
                let Some(usage) = read(&directory, "memory.usage_in_bytes")? else {
                    return Ok(None);
                };
                Ok(Some(parse::v1_memory(&parse::V1Memory {
                    usage,
                    stat: file("memory.stat")?,
                    max_usage: file("memory.max_usage_in_bytes")?,
                    limit: file("memory.limit_in_bytes")?,
                    failures: file("memory.failcnt")?,
                    swap_failures: file("memory.memsw.failcnt")?,
                    kernel: file("memory.kmem.usage_in_bytes")?,
                })))
            }
            Version::V2 => {
                let Some(current) = read(&directory, "memory.current")? else { return Ok(None) };
                Ok(Some(parse::v2_memory(&parse::V2Memory {
                    current,
                    stat: file("memory.stat")?,
                    peak: file("memory.peak")?,
                    max: file("memory.max")?,
                    swap: file("memory.swap.current")?,
                    events: file("memory.events")?,
                })))
            }
        }
    }

    /// Reads the number of processes and threads.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn pids_stats(&self) -> Result<Option<PidsStats>, FileError> {
        let Some((_, directory)) = self.directory(Controller::Pids) else { return Ok(None) };
        let current = read(&directory, "pids.current")?;
        let limit = read(&directory, "pids.max")?.as_deref().and_then(parse::number);
        Ok(current.as_deref().and_then(parse::number).map(|current| PidsStats { current, limit }))
    }

    /// Reads transfers from and to block devices.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn io_stats(&self) -> Result<Option<IoStats>, FileError> {
        let Some((version, directory)) = self.directory(Controller::Blkio) else {
            return Ok(None);
        };
        if version == Version::V2 {
            return Ok(read(&directory, "io.stat")?.map(|text| parse::v2_io(&text)));
        }
        let bytes = read(&directory, "blkio.throttle.io_service_bytes_recursive")?;
        let requests = read(&directory, "blkio.throttle.io_serviced_recursive")?;
        Ok(bytes.map(|bytes| parse::v1_io(&bytes, &requests.unwrap_or_default())))
    }

    /// Reads huge pages.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn hugetlb_stats(&self) -> Result<Vec<HugetlbStats>, FileError> {
        let Some((version, directory)) = self.directory(Controller::Hugetlb) else {
            return Ok(Vec::new());
        };
        let (usage, max_usage, failures) = match version {
            Version::V1 => ("usage_in_bytes", "max_usage_in_bytes", "failcnt"),
            Version::V2 => ("current", "", "events"),
        };
        let mut all = Vec::new();
        for page_size in page_sizes(&directory, usage) {
            let file = |name: &str| read(&directory, &format!("hugetlb.{page_size}.{name}"));
            let Some(usage_bytes) = file(usage)?.as_deref().and_then(parse::number) else {
                continue;
            };
            let failures = file(failures)?.unwrap_or_default();
            all.push(HugetlbStats {
                usage_bytes,
                max_usage_bytes: file(max_usage)?.as_deref().and_then(parse::number),
                limit_hits: parse::number(&failures)
                    .or_else(|| keyed(&failures, "max"))
                    .unwrap_or(0),
                page_size,
            });
        }
        Ok(all)
    }
}

fn read(directory: &Path, name: &str) -> Result<Option<String>, FileError> {
    file::read_if_there(&directory.join(name))
}

/// The page sizes for which a group has files, sorted.
fn page_sizes(directory: &Path, last: &str) -> Vec<String> {
    let mut sizes: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let size = name.to_str()?.strip_prefix("hugetlb.")?.strip_suffix(last)?;
            size.strip_suffix('.').filter(|size| !size.contains('.')).map(str::to_owned)
        })
        .collect();
    sizes.sort();
    sizes
}
