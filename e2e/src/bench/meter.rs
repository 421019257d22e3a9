//! What the kernel counted: processor time of a cgroup, memory of the processes in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// How often the peak of a daemon's memory is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// Where a cgroup counts processor time, by what this machine mounts.
#[must_use]
pub fn processor_group(group: &str) -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup/cpuacct");
    let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
    root.join(group)
}

/// Processor time that a cgroup and those below it have used so far, in milliseconds.
///
/// # Errors
/// If the cgroup does not exist.
pub fn processor_ms(group: &str) -> Result<f64> {
    let folder = processor_group(group);
    if let Ok(text) = fs::read_to_string(folder.join("cpuacct.usage")) {
        return Ok(text.trim().parse::<f64>()? / 1e6);
    }
    let path = folder.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(usage.context("no usage_usec")?.trim().parse::<f64>()? / 1e3)
}

/// The processes of a cgroup and of those below it.
#[must_use]
pub fn processes(group: &str) -> Vec<i32> {
    fn collect(folder: &Path, found: &mut Vec<i32>) {
        let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                collect(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    collect(&processor_group(group), &mut found);
    found
}

/// The proportional set size of each process that a cgroup has, in KiB, by its name; processes
/// called `workload` are left out.
#[must_use]
pub fn memory_by_name(group: &str) -> BTreeMap<String, (usize, f64)> {
    let mut found = BTreeMap::new();
    for process in processes(group) {
        let Ok(name) = fs::read_to_string(format!("/proc/{process}/comm")) else { continue };
        let Some(pss) = rollup(process, "Pss:") else { continue };
        if name.trim() == super::images::WORKLOAD {
            continue;
        }
        let (count, sum) = found.entry(name.trim().to_owned()).or_insert((0, 0.0));
        *count += 1;
        *sum += pss;
    }
    found
}

/// The proportional set size of all processes that a cgroup has, but for workloads, in KiB.
#[must_use]
pub fn memory_kib(group: &str) -> f64 {
    memory_by_name(group).values().map(|(_, pss)| pss).sum()
}

fn rollup(process: i32, field: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Looks for the peak of the resident memory of a cgroup's processes, until it is asked.
#[derive(Debug)]
pub struct Peak {
    over: Arc<AtomicBool>,
    kib: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Peak {
    /// Begins to look.
    #[must_use]
    pub fn of(group: &str) -> Self {
        let (over, kib) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, most, group) = (Arc::clone(&over), Arc::clone(&kib), group.to_owned());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let sum = processes(&group).into_iter().filter_map(resident_kib).sum();
                most.fetch_max(sum, Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Self { over, kib, thread: Some(thread) }
    }

    /// The peak, in KiB.
    #[must_use]
    pub fn kib(mut self) -> f64 {
        self.end();
        self.kib.load(Ordering::Relaxed) as f64
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _it_cannot_panic = thread.join();
        }
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.end();
    }
}

fn resident_kib(process: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Sectors that were written to this machine's disks so far, in MiB.
///
/// # Errors
/// If the kernel does not tell.
pub fn disk_written_mib() -> Result<f64> {
    let text = fs::read_to_string("/proc/diskstats").context("read /proc/diskstats")?;
    let sectors = text.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let whole = Path::new("/sys/block").join(fields.get(2)?).is_dir();
        let stacked = fields.get(2)?.starts_with("loop") || fields.get(2)?.starts_with("dm-");
        (whole && !stacked).then(|| fields.get(9)?.parse::<u64>().ok())?
    });
    Ok(sectors.sum::<u64>() as f64 / 2048.0)
}
