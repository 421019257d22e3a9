//! What a group has used, in the same words for v1 and v2.
//!
//! Every part is absent when its controller is, or when the group is gone: statistics of a
//! container that ends while they are read are no error.

/// Reading the text of the kernel's files.
mod parse;
/// Which files are read.
mod read;
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
    /// Time lost waiting for the processor (v2 only, as the other two).
    pub cpu_pressure: Option<Pressure>,
    /// Time lost waiting for memory.
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for block devices.
    pub io_pressure: Option<Pressure>,
}

/// How much is read. Statistics are asked for every few seconds for every group of a node,
/// and each file has its price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Processor time, memory and pressure: what clients of the kubelet's summary see.
    Usage,
    /// Everything.
    All,
}

/// Processor time, since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All time used.
    pub usage_ns: u64,
    /// How, with [`Detail::All`].
    pub detail: Option<CpuDetail>,
}

/// How processor time was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuDetail {
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
    /// The limit; absent when there is none.
    pub limit_bytes: Option<u64>,
    /// The limit on swap alone; absent when there is none, or swap is not accounted.
    pub swap_limit_bytes: Option<u64>,
    /// Page faults so far.
    pub page_faults: Faults,
    /// Those of the group itself, without the groups below it, where the kernel tells.
    pub own_page_faults: Option<Faults>,
    /// More, with [`Detail::All`].
    pub detail: Option<MemoryDetail>,
}

/// Page faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// All.
    pub all: u64,
    /// Those that read from a device.
    pub major: u64,
}

/// What is rarely looked at of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    /// Memory of the kernel on behalf of the group.
    pub kernel_bytes: u64,
    /// The highest usage so far, where the kernel tells.
    pub max_usage_bytes: Option<u64>,
    /// How often the limit was reached.
    pub limit_hits: u64,
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
