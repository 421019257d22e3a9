//! Resources on the real kernel: set, changed, refused, counted.

use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimitBuilder, LinuxMemory, LinuxPids, LinuxResources,
};

use super::*;
use crate::cgroup::{Detail, OomGroup, ResourceError};

pub(super) const MIB: i64 = 1 << 20;

pub(super) fn resources(memory_bytes: i64, pids: i64) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(memory_bytes)).set_swap(Some(memory_bytes));
    let mut limit = LinuxPids::default();
    limit.set_limit(pids);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_pids(Some(limit));
    resources
}

#[test]
fn root_resources_read_back() {
    let scratch = Scratch::new(&this_host());
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(512)).set_quota(Some(50_000)).set_period(Some(100_000));
    cpu.set_cpus(Some("0".into()));
    let mut resources = resources(64 * MIB, 50);
    resources.set_cpu(Some(cpu));
    scratch.group.apply(&resources).unwrap();
    let v1 = scratch.group.hierarchies().version(Controller::Memory) == Some(Version::V1);
    let read = |controller, one, two| scratch.read(controller, if v1 { one } else { two });
    let memory = Controller::Memory;
    assert_eq!(read(memory, "memory.limit_in_bytes", "memory.max"), "67108864");
    let swap = if v1 { "67108864" } else { "0" };
    assert_eq!(read(memory, "memory.memsw.limit_in_bytes", "memory.swap.max"), swap);
    let (shares, quota) = if v1 { ("512", "50000") } else { ("59", "50000 100000") };
    assert_eq!(read(Controller::Cpu, "cpu.shares", "cpu.weight"), shares);
    assert_eq!(read(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max"), quota);
    assert_eq!(scratch.read(Controller::Cpuset, "cpuset.cpus"), "0");
    assert_eq!(scratch.read(Controller::Pids, "pids.max"), "50");

    let stats = scratch.group.stats(Detail::All).unwrap();
    assert_eq!(stats.memory.unwrap().limit_bytes, Some(64 << 20));
    assert_eq!(stats.pids.unwrap().limit, Some(50));
}

#[test]
fn root_memory_limits_move_in_both_directions() {
    let scratch = Scratch::new(&this_host());
    for mib in [64, 256, 32, 128] {
        drop(scratch.group.update(&resources(mib * MIB, 10)).unwrap());
        let limit = scratch.group.memory_stats(Detail::All).unwrap().unwrap().limit_bytes;
        assert_eq!(limit, u64::try_from(mib * MIB).ok());
    }
    drop(scratch.group.update(&resources(-1, -1)).unwrap());
    assert_eq!(scratch.group.memory_stats(Detail::All).unwrap().unwrap().limit_bytes, None);
}

#[test]
fn root_an_update_is_all_or_nothing() {
    let scratch = Scratch::new(&this_host());
    let mut first = LinuxCpu::default();
    first.set_shares(Some(512)).set_quota(Some(50_000)).set_period(Some(100_000));
    let mut before = resources(64 * MIB, 50);
    before.set_cpu(Some(first));
    scratch.group.apply(&before).unwrap();
    let files: Vec<(Controller, &str)> =
        match scratch.group.hierarchies().version(Controller::Memory) {
            Some(Version::V1) => vec![
                (Controller::Memory, "memory.limit_in_bytes"),
                (Controller::Memory, "memory.memsw.limit_in_bytes"),
                (Controller::Cpu, "cpu.shares"),
                (Controller::Cpu, "cpu.cfs_quota_us"),
                (Controller::Cpu, "cpu.cfs_period_us"),
            ],
            _ => vec![(Controller::Memory, "memory.max"), (Controller::Cpu, "cpu.max")],
        };
    let all =
        || -> Vec<String> { files.iter().map(|(one, name)| scratch.read(*one, name)).collect() };
    let old = all();

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(2048)).set_quota(Some(10_000)).set_period(Some(20_000));
    cpu.set_cpus(Some("4000-5000".into()));
    let mut change = resources(512 * MIB, 70);
    change.set_cpu(Some(cpu));
    let error = scratch.group.update(&change).unwrap_err();
    assert!(matches!(&error, ResourceError::Write { .. }), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("4000-5000") && cause.contains("cpuset.cpus"), "{cause}");
    assert_eq!(all(), old);
}

#[test]
fn root_missing_controllers_matter_only_when_asked_for() {
    let scratch = Scratch::new(&unified_alone());
    let has = scratch.group.hierarchies().version(Controller::Memory).is_some();
    let empty = LinuxResources::default();
    scratch.group.apply(&empty).unwrap();
    let error = scratch.group.apply(&resources(64 * MIB, 0));
    match error {
        Ok(()) => assert!(has),
        Err(error) => {
            assert!(!has);
            assert!(matches!(error, ResourceError::NoController { .. }), "{error}");
        }
    }
}

#[test]
fn root_memory_kills_are_counted() {
    let mut scratch = Scratch::new(&this_host());
    scratch.group.apply(&resources(32 * MIB, 50)).unwrap();
    assert_eq!(scratch.group.oom_kills().unwrap(), 0);
    let status = scratch.run("exec tail /dev/zero").wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(scratch.group.oom_kills().unwrap(), 1);
    let stats = scratch.group.memory_stats(Detail::All).unwrap().unwrap();
    let most = stats.detail.unwrap().max_usage_bytes;
    assert!(most.is_none_or(|most| most > 16 << 20), "{stats:?}");
}

/// Limits of a controller of the unified hierarchy, where this host has one.
#[test]
fn root_limits_on_huge_pages_are_set() {
    let host = this_host();
    let Some(version) = host.version(Controller::Hugetlb) else { return };
    let scratch = Scratch::new(&host);
    let limit =
        LinuxHugepageLimitBuilder::default().page_size("2MB").limit(4_i64 << 20).build().unwrap();
    let mut resources = LinuxResources::default();
    resources.set_hugepage_limits(Some(vec![limit]));
    scratch.group.apply(&resources).unwrap();
    let file = match version {
        Version::V1 => "hugetlb.2MB.limit_in_bytes",
        Version::V2 => "hugetlb.2MB.max",
    };
    assert_eq!(scratch.read(Controller::Hugetlb, file), "4194304");
    let stats = scratch.group.stats(Detail::All).unwrap();
    assert!(stats.hugetlb.iter().any(|one| one.page_size == "2MB" && one.usage_bytes == 0));
}

/// The kernel of v1 refuses by itself; on v2 it would kill.
#[test]
fn root_a_limit_below_usage_is_refused() {
    let mut scratch = Scratch::new(&this_host());
    scratch.group.apply(&resources(256 * MIB, 50)).unwrap();
    scratch.run("x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 1000; echo $x");
    let used = || scratch.group.memory_stats(Detail::All).unwrap().unwrap().rss_bytes;
    eventually("memory is in use", || used() > 20 << 20);
    let error = scratch.group.update(&resources(4 * MIB, 60)).unwrap_err();
    assert!(matches!(error, ResourceError::BelowUsage { limit_bytes: 4_194_304, .. }), "{error:?}");
    assert_eq!(
        scratch.group.memory_stats(Detail::All).unwrap().unwrap().limit_bytes,
        Some(256 << 20)
    );
    assert_eq!(scratch.group.pids_stats().unwrap().unwrap().limit, Some(50));
    assert_eq!(scratch.group.oom_kills().unwrap(), 0);
}

/// What only v2 has is set there, and refused by name elsewhere.
#[test]
fn root_unified_resources_and_oom_group() {
    let scratch = Scratch::new(&this_host());
    let unified = [("memory.high", "33554432"), ("memory.oom.group", "1")];
    let unified = unified.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut resources = LinuxResources::default();
    resources.set_unified(Some(unified.into()));
    let result = scratch.group.apply(&resources);
    if scratch.group.hierarchies().version(Controller::Memory) == Some(Version::V1) {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("memory.high"), "{error}");
        scratch.group.set_oom_group(OomGroup::All).unwrap();
        return;
    }
    result.unwrap();
    assert_eq!(scratch.read(Controller::Memory, "memory.high"), "33554432");
    assert_eq!(scratch.read(Controller::Memory, "memory.oom.group"), "1");
    scratch.group.set_oom_group(OomGroup::One).unwrap();
    assert_eq!(scratch.read(Controller::Memory, "memory.oom.group"), "0");
}
