//! From files to [`Stats`]: which file says what where.

use std::path::Path;

use super::super::file::{self, FileError};
use super::super::group::Cgroup;
use super::super::hierarchies::{Controller, Version};
use super::{
    CpuStats, Detail, HugetlbStats, IoStats, MemoryStats, PidsStats, Pressure, Stats, keyed, parse,
};

impl Cgroup {
    /// Reads what the group has used.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn stats(&self, detail: Detail) -> Result<Stats, FileError> {
        let mut stats = Stats {
            cpu: self.cpu_stats(detail)?,
            memory: self.memory_stats(detail)?,
            ..Stats::default()
        };
        if detail == Detail::All {
            stats.pids = self.pids_stats()?;
            stats.io = self.io_stats()?;
            stats.hugetlb = self.hugetlb_stats()?;
        }
        if let Some(directory) = self.unified() {
            stats.cpu_pressure = pressure(&directory, "cpu.pressure")?;
            stats.memory_pressure = pressure(&directory, "memory.pressure")?;
            stats.io_pressure = pressure(&directory, "io.pressure")?;
        }
        Ok(stats)
    }

    /// Reads processor time. v1 keeps time in one hierarchy and bandwidth in another.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn cpu_stats(&self, detail: Detail) -> Result<Option<CpuStats>, FileError> {
        let Some((version, time)) = self.directory(Controller::Cpuacct) else { return Ok(None) };
        if version == Version::V2 {
            return Ok(read(&time, "cpu.stat")?.map(|stat| parse::v2_cpu(&stat)));
        }
        let Some(usage) = read(&time, "cpuacct.usage")? else { return Ok(None) };
        let usage_ns = parse::number(&usage).unwrap_or(0);
        if detail == Detail::Usage {
            return Ok(Some(CpuStats { usage_ns, detail: None }));
        }
        let file = |name| read(&time, name).map(Option::unwrap_or_default);
        let bandwidth = match self.directory(Controller::Cpu) {
            Some((Version::V1, bandwidth)) => read(&bandwidth, "cpu.stat")?,
            Some((Version::V2, _)) | None => None,
        };
        let (user, system) = (file("cpuacct.usage_user")?, file("cpuacct.usage_sys")?);
        let detail = parse::v1_cpu(&user, &system, &bandwidth.unwrap_or_default());
        Ok(Some(CpuStats { usage_ns, detail: Some(detail) }))
    }

    /// Reads memory.
    ///
    /// # Errors
    /// [`FileError`] when a file that is there cannot be read.
    pub fn memory_stats(&self, detail: Detail) -> Result<Option<MemoryStats>, FileError> {
        let Some((version, directory)) = self.directory(Controller::Memory) else {
            return Ok(None);
        };
        let usage = match version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        let Some(usage) = read(&directory, usage)? else { return Ok(None) };
        let file = |name| read(&directory, name).map(Option::unwrap_or_default);
        let rare = |name| if detail == Detail::All { file(name) } else { Ok(String::new()) };
        let mut stats = match version {
            Version::V1 => parse::v1_memory(&parse::V1Memory {
                usage,
                stat: file("memory.stat")?,
                limit: file("memory.limit_in_bytes")?,
                limit_with_swap: file("memory.memsw.limit_in_bytes")?,
                max_usage: rare("memory.max_usage_in_bytes")?,
                failures: rare("memory.failcnt")?,
                swap_failures: rare("memory.memsw.failcnt")?,
                kernel: rare("memory.kmem.usage_in_bytes")?,
            }),
            Version::V2 => parse::v2_memory(&parse::V2Memory {
                current: usage,
                stat: file("memory.stat")?,
                max: file("memory.max")?,
                swap: file("memory.swap.current")?,
                swap_max: file("memory.swap.max")?,
                peak: rare("memory.peak")?,
                events: rare("memory.events")?,
            }),
        };
        stats.detail = stats.detail.filter(|_| detail == Detail::All);
        Ok(Some(stats))
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

fn pressure(directory: &Path, name: &str) -> Result<Option<Pressure>, FileError> {
    match read(directory, name) {
        Ok(text) => Ok(text.as_deref().and_then(parse::pressure)),
        // A kernel that was started without pressure information has the files all the same.
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
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
