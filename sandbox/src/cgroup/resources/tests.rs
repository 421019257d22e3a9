//! Resources to files and values, on paper.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimitBuilder, LinuxMemory, LinuxPids,
    LinuxThrottleDeviceBuilder,
};

use super::convert::*;
use super::plan::of;
use super::*;
use crate::cgroup::hierarchies::{Hierarchies, Hierarchy};

fn hierarchies(version: Version) -> Hierarchies {
    use Controller::*;
    let controllers = match version {
        Version::V1 => vec![Cpu, Cpuacct, Cpuset, Memory, Pids, Blkio, Devices, Freezer],
        Version::V2 => vec![Cpu, Cpuset, Memory, Pids, Blkio, Hugetlb],
    };
    Hierarchies::new(vec![Hierarchy { mount: "/nowhere".into(), version, controllers }]).unwrap()
}

/// The writes as text, one step per line.
fn planned(version: Version, resources: &LinuxResources) -> Vec<String> {
    let present =
        |_: Controller, name: &str| (name == "cpu.max").then(|| "50000 100000\n".to_owned());
    of(resources, &hierarchies(version), &present)
        .unwrap()
        .iter()
        .filter(|step| !step.is_empty())
        .map(|step| {
            let write = |write: &Write| {
                let skip = if write.if_missing == IfMissing::Skip { "?" } else { "" };
                format!("{}{skip}={}", write.files[0], write.value)
            };
            step.iter().map(write).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

fn refused(version: Version, resources: &LinuxResources) -> ResourceError {
    of(resources, &hierarchies(version), &|_, _| None).unwrap_err()
}

fn memory(limit: i64, swap: i64) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(limit)).set_swap(Some(swap));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    resources
}

fn cpu(set: impl FnOnce(&mut LinuxCpu)) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    set(&mut cpu);
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu));
    resources
}

fn unified(key: &str, value: &str) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_unified(Some(HashMap::from([(key.to_owned(), value.to_owned())])));
    resources
}

#[test]
fn memory_and_swap() {
    use Version::{V1, V2};
    for (version, limit, swap, expected) in [
        (V1, 100, 300, vec!["memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=300"]),
        (V1, 100, 100, vec!["memory.limit_in_bytes=100 memory.memsw.limit_in_bytes?=100"]),
        (V1, -1, 0, vec!["memory.limit_in_bytes=-1 memory.memsw.limit_in_bytes?=-1"]),
        (V1, 0, 0, vec![]),
        (V2, 100, 300, vec!["memory.max=100", "memory.swap.max=200"]),
        (V2, 100, 100, vec!["memory.max=100", "memory.swap.max?=0"]),
        (V2, 100, -1, vec!["memory.max=100", "memory.swap.max?=max"]),
        (V2, -1, 0, vec!["memory.max=max", "memory.swap.max?=max"]),
        (V2, 100, 0, vec!["memory.max=100"]),
    ] {
        assert_eq!(planned(version, &memory(limit, swap)), expected, "{version:?} {limit} {swap}");
    }
    for (limit, swap) in [(300, 100), (0, 100), (-1, 100)] {
        assert!(matches!(refused(V2, &memory(limit, swap)), ResourceError::InvalidValue { .. }));
    }
}

#[test]
fn processor() {
    use Version::{V1, V2};
    let all = cpu(|cpu| {
        cpu.set_shares(Some(1024)).set_quota(Some(20000)).set_period(Some(100_000));
        cpu.set_burst(Some(500)).set_cpus(Some("0-1".into())).set_mems(Some(String::new()));
    });
    assert_eq!(
        planned(V1, &all),
        [
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000 cpu.cfs_quota_us=20000 cpu.cfs_burst_us=500",
            "cpuset.cpus=0-1",
        ]
    );
    assert_eq!(
        planned(V2, &all),
        ["cpu.weight=100", "cpu.max=20000 100000 cpu.max.burst=500", "cpuset.cpus=0-1",]
    );
    let quota = cpu(|cpu| _ = cpu.set_quota(Some(-1)).set_shares(Some(0)));
    assert_eq!(planned(V1, &quota), ["cpu.cfs_quota_us=-1"]);
    assert_eq!(planned(V2, &quota), ["cpu.max=max"]);
    let period = cpu(|cpu| _ = cpu.set_period(Some(200_000)));
    assert_eq!(planned(V2, &period), ["cpu.max=50000 200000"], "the quota stays");
    let realtime = cpu(|cpu| _ = cpu.set_realtime_runtime(Some(1000)));
    assert!(matches!(refused(V2, &realtime), ResourceError::NotInVersion { .. }));
}

#[test]
fn processes_and_huge_pages() {
    let mut pids = LinuxPids::default();
    pids.set_limit(50);
    let zero = LinuxHugepageLimitBuilder::default().page_size("2MB").limit(0).build().unwrap();
    let mut resources = LinuxResources::default();
    resources.set_pids(Some(pids)).set_hugepage_limits(Some(vec![zero]));
    assert_eq!(
        planned(Version::V2, &resources),
        ["pids.max=50", "hugetlb.2MB.max?=0", "hugetlb.2MB.rsvd.max?=0"]
    );
    for size in ["2M", "MB", "../2MB", "2 MB", ""] {
        let limit = LinuxHugepageLimitBuilder::default().page_size(size).limit(1).build().unwrap();
        resources.set_hugepage_limits(Some(vec![limit]));
        assert!(matches!(refused(Version::V1, &resources), ResourceError::InvalidValue { .. }));
    }
}

#[test]
fn block_devices() {
    let throttle = LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(1000_u64);
    let mut block = LinuxBlockIo::default();
    block.set_weight(Some(500)).set_throttle_read_bps_device(Some(vec![throttle.build().unwrap()]));
    let mut resources = LinuxResources::default();
    resources.set_block_io(Some(block));
    assert_eq!(
        planned(Version::V1, &resources),
        ["blkio.weight=500", "blkio.throttle.read_bps_device=8:0 1000"]
    );
    assert_eq!(
        planned(Version::V2, &resources),
        ["io.weight=default 4950", "io.max=8:0 rbps=1000"]
    );
}

#[test]
fn unified_keys_go_word_for_word_or_are_named() {
    assert_eq!(planned(Version::V2, &unified("memory.high", "1 G")), ["memory.high=1 G"]);
    assert_eq!(planned(Version::V2, &unified("cgroup.max.depth", "3")), ["cgroup.max.depth=3"]);
    let error = refused(Version::V1, &unified("memory.high", "1"));
    assert!(error.to_string().contains("memory.high"), "{error}");
    assert!(matches!(error, ResourceError::NotInVersion { version: Version::V1, .. }));
    let error = refused(Version::V2, &unified("rdma.max", "1"));
    assert!(matches!(error, ResourceError::NoController { controller: Controller::Rdma, .. }));
    for key in ["nodot", "memory/../x.y", "../a.b"] {
        assert!(matches!(
            refused(Version::V2, &unified(key, "1")),
            ResourceError::InvalidValue { .. }
        ));
    }
}

#[test]
fn weights() {
    for (shares, weight) in
        [(0, 1), (2, 1), (3, 2), (102, 17), (256, 35), (1024, 100), (262_144, 10_000)]
    {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    let mut last = 0;
    for shares in 2..=262_144 {
        let weight = weight_of_shares(shares);
        assert!(weight >= last && (1..=10_000).contains(&weight));
        last = weight;
    }
    for (blkio, io) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
        assert_eq!(io_weight_of_blkio(blkio), io);
    }
}

#[test]
fn every_order_is_tried_once_the_natural_one_first() {
    assert_eq!(orders(0), [Vec::<usize>::new()]);
    let three = orders(3);
    assert_eq!(three[0], [0, 1, 2]);
    let mut sorted = three.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((three.len(), sorted.len()), (6, 6));
}

#[test]
fn old_values() {
    let line = plan::Undo::Line { key: "8:0".into(), absent: "8:0 rbps=max".into() };
    assert_eq!(line.value("8:16 rbps=1\n8:0 rbps=7 wbps=max\n"), "8:0 rbps=7 wbps=max");
    assert_eq!(line.value("8:16 rbps=1\n"), "8:0 rbps=max");
    assert_eq!(plan::Undo::Content.value("max 100000\n"), "max 100000");
}
