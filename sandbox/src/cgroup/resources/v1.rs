//! The files of v1.
//!
//! # References
//! - [memory](https://docs.kernel.org/admin-guide/cgroup-v1/memory.html),
//!   [cpu](https://docs.kernel.org/scheduler/sched-bwc.html),
//!   [blkio](https://docs.kernel.org/admin-guide/cgroup-v1/blkio-controller.html),
//!   [hugetlb](https://docs.kernel.org/admin-guide/cgroup-v1/hugetlb.html)

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxThrottleDevice,
};

use super::ResourceError;
use super::plan::{SkipIf, Step, Undo, Write};
use crate::cgroup::hierarchies::Controller::{Blkio, Cpu, Hugetlb, Memory, NetCls, NetPrio};

pub(super) fn memory(memory: &LinuxMemory) -> Vec<Step> {
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = set(memory.limit());
    // No limit on memory alone needs none on memory and swap together.
    let both = set(memory.swap()).or(limit.filter(|limit| *limit == -1));
    let no_swap_asked = both.is_none_or(|both| both == -1 || Some(both) == limit);
    let limits = limit
        .map(|limit| Write::new(Memory, "memory.limit_in_bytes", limit))
        .into_iter()
        .chain(both.map(|both| {
            Write::new(Memory, "memory.memsw.limit_in_bytes", both)
                .skip_if(SkipIf::when(no_swap_asked))
        }))
        .collect();
    let reservation = set(memory.reservation())
        .map(|bytes| Write::new(Memory, "memory.soft_limit_in_bytes", bytes));
    let tcp = set(memory.kernel_tcp())
        .map(|bytes| Write::new(Memory, "memory.kmem.tcp.limit_in_bytes", bytes));
    let swappiness =
        memory.swappiness().map(|percent| Write::new(Memory, "memory.swappiness", percent));
    let killer = memory.disable_oom_killer().filter(|off| *off).map(|_| Write {
        undo: Undo::Fixed("0".to_owned()),
        ..Write::new(Memory, "memory.oom_control", 1)
    });
    let rest = [reservation, tcp, swappiness, killer];
    std::iter::once(limits).chain(rest.into_iter().flatten().map(|write| vec![write])).collect()
}

pub(super) fn cpu(cpu: &LinuxCpu) -> Vec<Step> {
    let write = |file: &str, value: i128| Write::new(Cpu, file, value);
    let positive = |value: Option<u64>| value.filter(|value| *value != 0).map(i128::from);
    let signed = |value: Option<i64>| value.filter(|value| *value != 0).map(i128::from);
    let share = [
        positive(cpu.shares()).map(|shares| write("cpu.shares", shares)),
        cpu.idle().map(|idle| write("cpu.idle", idle.into()).skip_if(SkipIf::when(idle == 0))),
    ];
    let bandwidth = [
        positive(cpu.period()).map(|period| write("cpu.cfs_period_us", period)),
        signed(cpu.quota()).map(|quota| write("cpu.cfs_quota_us", quota)),
        cpu.burst()
            .map(|burst| write("cpu.cfs_burst_us", burst.into()).skip_if(SkipIf::when(burst == 0))),
    ];
    let realtime = [
        positive(cpu.realtime_period()).map(|period| write("cpu.rt_period_us", period)),
        signed(cpu.realtime_runtime()).map(|runtime| write("cpu.rt_runtime_us", runtime)),
    ];
    vec![
        share.into_iter().flatten().collect(),
        bandwidth.into_iter().flatten().collect(),
        realtime.into_iter().flatten().collect(),
    ]
}

pub(super) fn block_io(block: &LinuxBlockIo) -> Vec<Step> {
    let positive = |weight: Option<u16>| weight.filter(|weight| *weight != 0);
    let own = positive(block.weight())
        .map(|weight| Write::new(Blkio, "blkio.weight", weight).or_file("blkio.bfq.weight"));
    let leaf =
        positive(block.leaf_weight()).map(|weight| Write::new(Blkio, "blkio.leaf_weight", weight));
    let devices = block.weight_device().iter().flatten().flat_map(|one| {
        let key = format!("{}:{}", one.major(), one.minor());
        let absent = format!("{key} 0");
        let weight = positive(one.weight()).map(|weight| {
            Write::new(Blkio, "blkio.weight_device", format!("{key} {weight}"))
                .or_file("blkio.bfq.weight_device")
                .line(&key, &absent)
        });
        let leaf = positive(one.leaf_weight()).map(|weight| {
            Write::new(Blkio, "blkio.leaf_weight_device", format!("{key} {weight}"))
                .line(&key, &absent)
        });
        weight.into_iter().chain(leaf)
    });
    let throttles = [
        ("blkio.throttle.read_bps_device", block.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", block.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", block.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", block.throttle_write_iops_device()),
    ]
    .into_iter()
    .flat_map(|(file, list)| list.iter().flatten().map(move |one| throttle(file, one)));
    own.into_iter().chain(leaf).chain(devices).chain(throttles).map(|write| vec![write]).collect()
}

fn throttle(file: &str, device: &LinuxThrottleDevice) -> Write {
    let key = format!("{}:{}", device.major(), device.minor());
    let value = format!("{key} {}", device.rate());
    Write::new(Blkio, file, value).line(&key, format!("{key} 0"))
}

pub(super) fn hugetlb(limit: &LinuxHugepageLimit) -> Result<Vec<Step>, ResourceError> {
    let size = page_size(limit)?;
    // Without the controller no limit can be kept, but zero is what the kubelet says for every
    // size that a pod does not use.
    let skip = SkipIf::when(limit.limit() <= 0);
    let write = |file: String| Write::new(Hugetlb, &file, limit.limit());
    Ok(vec![
        vec![write(format!("hugetlb.{size}.limit_in_bytes")).skip_if(skip)],
        vec![write(format!("hugetlb.{size}.rsvd.limit_in_bytes")).skip_if(SkipIf::NothingLost)],
    ])
}

/// A page size as it is in file names: `2MB`, `1GB`.
pub(super) fn page_size(limit: &LinuxHugepageLimit) -> Result<&str, ResourceError> {
    let size = limit.page_size().as_str();
    let digits = size.trim_end_matches(|letter: char| letter.is_ascii_uppercase());
    let sound = !digits.is_empty()
        && digits.bytes().all(|digit| digit.is_ascii_digit())
        && ["KB", "MB", "GB"].iter().any(|unit| size.strip_prefix(digits) == Some(unit));
    if sound {
        Ok(size)
    } else {
        Err(ResourceError::InvalidValue {
            setting: "hugepage size".to_owned(),
            value: size.to_owned(),
        })
    }
}

/// Classes and priorities of packets, which v2 leaves to other tools.
pub(super) fn network(network: &LinuxNetwork) -> Vec<Step> {
    let class = network
        .class_id()
        .filter(|class| *class != 0)
        .map(|class| Write::new(NetCls, "net_cls.classid", class));
    let priorities = network.priorities().iter().flatten().map(|one| {
        let value = format!("{} {}", one.name(), one.priority());
        Write::new(NetPrio, "net_prio.ifpriomap", value)
            .line(one.name(), format!("{} 0", one.name()))
    });
    class.into_iter().chain(priorities).map(|write| vec![write]).collect()
}
